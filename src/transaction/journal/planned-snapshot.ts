// What a statement plans for the snapshots of the table, and for where the table stands.

import type { FileBeside, Snapshot, SnapshotRef } from "../../device/index.ts";

/** A snapshot of devices, as they are when the statement takes effect. Its number is given when the table moves. */
export interface PlannedSnapshot {
  readonly name: string | null;
  readonly message: string | null;
  readonly devices: readonly string[];
  /** Small files of the machine, whose copies the statement makes. Left out: none. */
  readonly files?: readonly FileBeside[] | undefined;
}

/** Where the table stands after an undo or a redo: see DeviceTable. */
export interface PlannedStanding {
  readonly position: number;
  readonly undone: readonly number[];
  /** Snapshots, by number, that go with what is taken back: devices write to their images again. */
  readonly dropped: readonly number[];
  /** Snapshots that come back. */
  readonly restored: readonly SnapshotRef[];
  /** What those keep of single devices now, where guests have written to their images since. Left out: what they kept. */
  readonly renewed?: readonly Snapshot[] | undefined;
}
