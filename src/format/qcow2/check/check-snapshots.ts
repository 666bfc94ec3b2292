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
import { roundUpTo8 } from "../codec/header-extension.ts";
import {
  L1_TABLE_BYTES_MAX,
  SNAPSHOT_ENTRY_BYTES_MIN,
  SNAPSHOTS_MAX,
  TABLE_ENTRY_BYTES,
} from "../codec/limits.ts";
import { shellQuote } from "../../quote-name.ts";

const EXTRA_DATA_BYTES_MAX = 1024;
const TABLE_BYTES_MAX = 64 * 1024 * 1024;
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
  const { snapshots, tableBytes, incomplete } = await readSnapshotTable(file, header);
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

async function readSnapshotTable(
  file: StorageFile,
  header: CheckHeader,
): Promise<{ snapshots: SnapshotPlace[]; tableBytes: number; incomplete: number[] }> {
  if (header.nbSnapshots > SNAPSHOTS_MAX) throw broken("snapshot table too large", header.snapshotsOffset);
  const snapshots: SnapshotPlace[] = [];
  const incomplete: number[] = [];
  let at: number = header.snapshotsOffset;
  const entry = new Uint8Array(SNAPSHOT_ENTRY_BYTES_MIN);
  const view = new DataView(entry.buffer);
  for (let index = 0; index < header.nbSnapshots; index += 1) {
    at = roundUpTo8(at);
    entry.fill(0, await file.read(entry, at));
    const idBytes = view.getUint16(12);
    const nameBytes = view.getUint16(14);
    const extraBytes = view.getUint32(36);
    if (extraBytes > EXTRA_DATA_BYTES_MAX) {
      throw broken(`Too much extra metadata in snapshot table entry ${index}`, at).with({
        hint: `\`qemu-img check -r all ${shellQuote(file.path)}\` takes it away`,
      });
    }
    if (extraBytes < EXTRA_DATA_BYTES_V3) incomplete.push(index);
    const text = new Uint8Array(idBytes + nameBytes);
    await file.read(text, at + SNAPSHOT_ENTRY_BYTES_MIN + extraBytes);
    const id = Buffer.from(text.subarray(0, idBytes)).toString("latin1");
    const name = Buffer.from(text.subarray(idBytes)).toString("latin1");
    const [hi, lo] = [view.getUint32(0), view.getUint32(4)];
    snapshots.push({
      label: `${id} (${name})`,
      l1TableOffset: hi * 2 ** 32 + lo,
      l1TableWord: [hi, lo],
      l1Size: view.getUint32(8),
    });
    at += SNAPSHOT_ENTRY_BYTES_MIN + extraBytes + idBytes + nameBytes;
    if (at - header.snapshotsOffset > TABLE_BYTES_MAX) throw broken("Snapshot table is too big", at);
  }
  return { snapshots, tableBytes: at - header.snapshotsOffset, incomplete };
}

function broken(message: string, offset: number): ImgtxError {
  return new ImgtxError("E_CORRUPT", `ERROR failed to read the snapshot table: ${message}`, {
    field: "snapshot_table",
    offset,
  });
}
