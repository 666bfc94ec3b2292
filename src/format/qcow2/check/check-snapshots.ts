// What a check does about internal snapshots: their table, and the L1 tables that it leads to.
//
// Invariant: lenient where an entry can be judged, and E_CORRUPT where the rest of the table can't be found any
// more (QEMU's check ends there too).

import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import type { CheckHeader } from "./check-header.ts";
import type { MappingWalk } from "./check-mapping.ts";
import { formatWord } from "./check-findings.ts";
import type { References } from "./check-references.ts";
import {
  L1_TABLE_BYTES_MAX,
  SNAPSHOT_ENTRY_BYTES_MIN,
  SNAPSHOTS_MAX,
  TABLE_ENTRY_BYTES,
} from "../codec/limits.ts";
import { readSnapshotLengths } from "../codec/snapshot-table.ts";
import { walkSnapshotTable } from "../../read-directories.ts";

/** What version 3 asks of an entry's extra data: a 64-bit size of the VM state, and the virtual size. */
const EXTRA_DATA_BYTES_V3 = 16;

interface SnapshotPlace {
  readonly label: string;
  /** Rounded where it is beyond 2^53, and past the end of any file. */
  readonly l1TableOffset: number;
  /** Its two halves, which are exact. */
  readonly l1TableWord: readonly [hi: number, lo: number];
  readonly l1Size: number;
}

/** Notes each snapshot's L1 table, and counts the table of snapshots itself. */
export async function checkSnapshots(
  file: StorageFile,
  header: CheckHeader,
  hasExternalDataFile: boolean,
  references: References,
  walk: MappingWalk,
): Promise<void> {
  const { findings } = references;
  const { snapshots, tableBytes, incomplete } = await listSnapshots(file, header);
  if (header.version === 3) {
    for (const index of incomplete) {
      findings.corrupt(`ERROR snapshot table entry ${index} is incomplete`, 1, null);
    }
  }
  if (hasExternalDataFile && snapshots.length > 0) {
    findings.corrupt(`ERROR ${snapshots.length} snapshots in image with data file`);
  }
  for (const { label, l1TableOffset, l1TableWord, l1Size } of snapshots) {
    const [hi, lo] = l1TableWord;
    if (lo % references.clusterSizeBytes !== 0) {
      findings.corrupt(
        `ERROR snapshot ${label} l1_offset=0x${formatWord(hi, lo)}: L1 table is not cluster aligned; ` +
          "snapshot table entry corrupted",
      );
    } else if (l1Size * TABLE_ENTRY_BYTES > L1_TABLE_BYTES_MAX) {
      findings.corrupt(
        `ERROR snapshot ${label} l1_size=0x${l1Size.toString(16)}: L1 table is too large; ` +
          "snapshot table entry corrupted",
      );
    } else walk.addL1Table(l1TableOffset, l1Size, false);
  }
  references.add(header.snapshotsOffset, tableBytes, 1);
}

async function listSnapshots(
  file: StorageFile,
  header: CheckHeader,
): Promise<{ snapshots: SnapshotPlace[]; tableBytes: number; incomplete: number[] }> {
  if (header.nbSnapshots > SNAPSHOTS_MAX) throw broken("snapshot table too large", header.snapshotsOffset);
  const snapshots: SnapshotPlace[] = [];
  const incomplete: number[] = [];
  let end: number = header.snapshotsOffset;
  try {
    for await (const stored of walkSnapshotTable(file, header)) {
      const { bytes } = stored;
      const view = new DataView(bytes.buffer);
      const { idBytes, extraBytes } = readSnapshotLengths(bytes);
      if (extraBytes < EXTRA_DATA_BYTES_V3) incomplete.push(snapshots.length);
      const text = Buffer.from(bytes.subarray(SNAPSHOT_ENTRY_BYTES_MIN + extraBytes)).toString("latin1");
      const [hi, lo] = [view.getUint32(0), view.getUint32(4)];
      snapshots.push({
        label: `${text.slice(0, idBytes)} (${text.slice(idBytes)})`,
        l1TableOffset: hi * 2 ** 32 + lo,
        l1TableWord: [hi, lo],
        l1Size: view.getUint32(8),
      });
      end = stored.end;
    }
  } catch (error) {
    if (!(error instanceof ImgtxError && error.code === "E_CORRUPT")) throw error;
    const { field, message, offset = end, hint } = error;
    const what = field === "nb_snapshots" ? "Snapshot table is too big" : message;
    throw hint === undefined ? broken(what, offset) : broken(what, offset).with({ hint });
  }
  return { snapshots, tableBytes: end - header.snapshotsOffset, incomplete };
}

function broken(message: string, offset: number): ImgtxError {
  return new ImgtxError("E_CORRUPT", `ERROR failed to read the snapshot table: ${message}`, {
    field: "snapshot_table",
    offset,
  });
}
