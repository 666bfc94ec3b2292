// The snapshot table: one entry of variable length for each internal snapshot (qcow2 specification,
// "Snapshots").
//
// Invariants
// - Pure. What decode accepts, encode gives back byte for byte, for an entry whose padding is zeros: ids and
//   names that are not UTF-8 and extra data that is not known included.
// - Whether the L1 table that an entry points to can be true is judgeSnapshotTable's to say: check lists
//   snapshots whose tables are damaged.

import { ImgtxError } from "../../../errors/index.ts";
import { alignUp, type HostOffset, hostOffset, safeNumber } from "../../../units/index.ts";
import { roundUpTo8 } from "./header-extension.ts";
import {
  L1_TABLE_BYTES_MAX,
  SNAPSHOT_ENTRY_BYTES_MIN,
  SNAPSHOT_EXTRA_BYTES_MAX,
  TABLE_ENTRY_BYTES,
} from "./limits.ts";

const NANOSECONDS = 1_000_000_000n;
/** Extra data up to here holds the 64-bit size of the VM state and the size of the virtual disk. */
const EXTRA_BYTES = 16;
const EXTRA_BYTES_WITH_ICOUNT = 24;

/** Fields under their specification names. Sizes in bytes. */
export interface SnapshotEntry {
  readonly l1TableOffset: HostOffset;
  readonly l1Size: number;
  readonly id: string;
  readonly name: string;
  /** When it was taken, in seconds since 1970, and nanoseconds in that second. */
  readonly dateSec: number;
  readonly dateNsec: number;
  /** How long the guest had been running: whole seconds, and nanoseconds in the next. */
  readonly vmClockSec: number;
  readonly vmClockNsec: number;
  /** 0 where no VM state is saved. */
  readonly vmStateSize: number;
  /** Of the virtual disk; undefined where the entry does not say (version 2): that of the image. */
  readonly diskSize: number | undefined;
  /** Instructions executed; undefined where the entry does not say, or says none. */
  readonly icount: number | undefined;
  /** All of the extra data as stored. */
  readonly extraData: Uint8Array;
  /** As stored: names need not be UTF-8. */
  readonly idBytes: Uint8Array;
  readonly nameBytes: Uint8Array;
}

/** The most bytes that one entry takes: its lengths are 16 bits wide, and extra data is limited. */
export const SNAPSHOT_ENTRY_BYTES_MAX = roundUpTo8(
  SNAPSHOT_ENTRY_BYTES_MIN + SNAPSHOT_EXTRA_BYTES_MAX + 2 * 0xffff,
);

/** How long the parts of an entry are, from its first SNAPSHOT_ENTRY_BYTES_MIN bytes. */
export function readSnapshotLengths(bytes: Uint8Array): {
  idBytes: number;
  nameBytes: number;
  extraBytes: number;
} {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  return { idBytes: view.getUint16(12), nameBytes: view.getUint16(14), extraBytes: view.getUint32(36) };
}

/**
 * Decodes the entry at the start of bytes. Returns it with the length that it takes in the table.
 * E_CORRUPT with field; the caller adds image and offset.
 */
export function decodeSnapshotEntry(bytes: Uint8Array): { entry: SnapshotEntry; lengthBytes: number } {
  if (bytes.length < SNAPSHOT_ENTRY_BYTES_MIN) throw endsInside();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const { idBytes: idLength, nameBytes: nameLength, extraBytes: extraLength } = readSnapshotLengths(bytes);
  if (extraLength > SNAPSHOT_EXTRA_BYTES_MAX) {
    throw corrupt(
      `Too much extra metadata in a snapshot table entry: ${extraLength} bytes, at most ` +
        `${SNAPSHOT_EXTRA_BYTES_MAX} are allowed`,
      "extra_data_size",
    );
  }
  const idStart = SNAPSHOT_ENTRY_BYTES_MIN + extraLength;
  const nameStart = idStart + idLength;
  const end = nameStart + nameLength;
  if (end > bytes.length) throw endsInside();
  const clock = view.getBigUint64(24);
  const idBytes = bytes.slice(idStart, nameStart);
  const nameBytes = bytes.slice(nameStart, end);
  const entry: SnapshotEntry = {
    l1TableOffset: hostOffset(readNumber(view, 0, "l1_table_offset")),
    l1Size: view.getUint32(8),
    id: decodeText(idBytes),
    name: decodeText(nameBytes),
    dateSec: view.getUint32(16),
    dateNsec: view.getUint32(20),
    vmClockSec: Number(clock / NANOSECONDS),
    vmClockNsec: Number(clock % NANOSECONDS),
    vmStateSize: extraLength >= 8 ? readNumber(view, 40, "vm_state_size") : view.getUint32(32),
    diskSize: extraLength >= EXTRA_BYTES ? readNumber(view, 48, "disk_size") : undefined,
    icount: extraLength >= EXTRA_BYTES_WITH_ICOUNT ? safeNumber(view.getBigUint64(56)) : undefined,
    extraData: bytes.slice(SNAPSHOT_ENTRY_BYTES_MIN, idStart),
    idBytes,
    nameBytes,
  };
  return { entry, lengthBytes: roundUpTo8(end) };
}

/** The bytes of one entry with its padding. Extra data is written as stored, its known fields from the entry. */
export function encodeSnapshotEntry(entry: SnapshotEntry): Uint8Array {
  const { extraData, idBytes, nameBytes } = entry;
  const idStart = SNAPSHOT_ENTRY_BYTES_MIN + extraData.length;
  const bytes = new Uint8Array(roundUpTo8(idStart + idBytes.length + nameBytes.length));
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(entry.l1TableOffset));
  view.setUint32(8, entry.l1Size);
  view.setUint16(12, idBytes.length);
  view.setUint16(14, nameBytes.length);
  view.setUint32(16, entry.dateSec);
  view.setUint32(20, entry.dateNsec);
  view.setBigUint64(24, BigInt(entry.vmClockSec) * NANOSECONDS + BigInt(entry.vmClockNsec));
  // Where extra data has the size, this field is ignored; QEMU writes its low bits.
  view.setUint32(32, entry.vmStateSize % 2 ** 32);
  view.setUint32(36, extraData.length);
  bytes.set(extraData, SNAPSHOT_ENTRY_BYTES_MIN);
  if (extraData.length >= 8) view.setBigUint64(40, BigInt(entry.vmStateSize));
  if (extraData.length >= EXTRA_BYTES && entry.diskSize !== undefined) {
    view.setBigUint64(48, BigInt(entry.diskSize));
  }
  bytes.set(idBytes, idStart);
  bytes.set(nameBytes, idStart + idBytes.length);
  return bytes;
}

/** E_CORRUPT with field where the entry's L1 table can't be true: too large, not aligned, or not in the file. */
export function judgeSnapshotTable(
  entry: SnapshotEntry,
  clusterSizeBytes: number,
  fileSizeBytes: number,
): void {
  const lengthBytes = entry.l1Size * TABLE_ENTRY_BYTES;
  if (lengthBytes > L1_TABLE_BYTES_MAX) {
    throw corrupt("Snapshot L1 table too large: at most 32 MiB", "l1_size");
  }
  if (entry.l1TableOffset % clusterSizeBytes !== 0) {
    throw corrupt("Snapshot L1 table offset invalid: not aligned to a cluster", "l1_table_offset");
  }
  if (lengthBytes === 0) return;
  if (entry.l1TableOffset === 0) {
    throw corrupt("Snapshot L1 table offset invalid: it lies on the header", "l1_table_offset");
  }
  const end = alignUp(fileSizeBytes, clusterSizeBytes);
  if (entry.l1TableOffset + lengthBytes > end) {
    throw corrupt("Snapshot L1 table ends past the end of the file", "l1_table_offset");
  }
}

function decodeText(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("utf8");
}

function readNumber(view: DataView, at: number, field: string): number {
  const value = safeNumber(view.getBigUint64(at));
  if (value === undefined) throw corrupt(`${field} of a snapshot exceeds what any file holds`, field);
  return value;
}

function endsInside(): ImgtxError {
  return corrupt("the image ends inside its snapshot table", "snapshots_offset");
}

function corrupt(message: string, field: string): ImgtxError {
  return new ImgtxError("E_CORRUPT", message, { field });
}
