// Device tables for tests, made of a few words each.

import type { ChainEntry, DeviceEntry, DeviceTable } from "../../../src/device/index.ts";

const FINGERPRINT = {
  sizeBytes: 1,
  modifiedNs: "1795460438310460166",
  inode: "12345678901234567890",
  bornNs: "1795460438310460165",
  headerSha256: null,
};

/** device("vda", "/ws/a1.qcow2", ["a.qcow2", "/ws/a.qcow2"]): each backing image as its stored name and its path. */
export function device(
  name: string,
  image: string,
  ...backing: readonly (readonly [name: string, image: string])[]
): DeviceEntry {
  const chain: ChainEntry[] = [
    { image, format: "qcow2", name: null, fingerprint: FINGERPRINT, dataFile: null },
    ...backing.map(
      ([stored, path]): ChainEntry => ({
        image: path,
        format: "qcow2",
        name: stored,
        fingerprint: FINGERPRINT,
        dataFile: null,
      }),
    ),
  ];
  return { name, image, format: "qcow2", virtualSizeBytes: 1_048_576, chain, mirror: null, frozen: null };
}

export function table(...devices: readonly DeviceEntry[]): DeviceTable {
  return {
    workspaceId: "wwwwwwwwww",
    generation: 7,
    committed: "2026-01-02T03:04:05.678Z",
    transaction: "abcdefghij",
    summary: "snapshot vda",
    allowPaths: ["/pool", "/ws/pool"],
    devices,
    snapshots: [],
    nextSnapshot: 1,
  };
}
