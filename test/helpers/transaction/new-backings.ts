// Short ways to ask for another backing image in tests.

import type { ActionRequest, RebaseRequest } from "../../../src/transaction/index.ts";

export const pull = (devices: readonly string[], base?: string): ActionRequest => ({
  kind: "pull",
  devices,
  base,
});

export const rebase = (device: string, onto: string, how: Partial<RebaseRequest> = {}): RebaseRequest => ({
  kind: "rebase",
  device,
  onto,
  format: undefined,
  isUnsafe: false,
  isCompressed: false,
  isRelative: undefined,
  ...how,
});
