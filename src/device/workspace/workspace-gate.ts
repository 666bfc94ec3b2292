// How images of a workspace are opened, by whomever: one gate for all, so that none refuses what another one opens.

import type { GateOptions } from "../../format/index.ts";
import type { Workspace } from "./workspace.ts";

/** What the table names may be a block device: somebody allowed that when it was added. */
export function gateOf(
  { root }: Pick<Workspace, "root">,
  how: Pick<GateOptions, "allowPaths" | "currentFolder" | "device">,
): GateOptions {
  return { workspaceRoot: root, allowsDevices: true, ...how };
}
