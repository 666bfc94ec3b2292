// What one command works on.

import { type DeviceTable, readTable, withDevices, type Workspace } from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import { changesOf, type Journal, type PlanRecord } from "./journal/index.ts";
import type { OpenedImages } from "./opened-images.ts";
import type { RunOptions } from "./request.ts";

export interface Work {
  readonly workspace: Workspace;
  readonly options: RunOptions;
  readonly images: OpenedImages;
  /** The transaction's: that of a copy which was cut off, where this command goes on with it. */
  id: string;
  /** Plans of statements that had nothing to do, while there was no journal to tell them to. */
  readonly idle: PlanRecord[];
  /** Undefined until an implicit transaction has its first plan. */
  journal: Journal | undefined;
  /** What has to be durable before the commit mark, and that nobody has waited for yet. */
  underWay: Promise<void>;
}

/** The committed table with the changes of the work's transaction on top. */
export async function effectiveTable({ workspace, journal }: Work): Promise<DeviceTable> {
  const table = await readTable(workspace);
  return journal ? withDevices(table, changesOf(journal.state)) : table;
}

/** Asked before each step that can still be taken back; never behind the commit mark. */
export function throwIfInterrupted(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw signal.reason instanceof ImgtxError ? signal.reason : new ImgtxError("E_INTERRUPTED", "interrupted");
}
