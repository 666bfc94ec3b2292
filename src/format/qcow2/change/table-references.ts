// What the L2 tables of an L1 table refer to, counted: for internal snapshots, which share clusters with the disk.
//
// Invariants
// - The tables are read one by one, and what is let go of is bounded in memory: the largest image takes no more than a
//   small one.
// - COPIED says of an L2 table, and of a cluster, that its refcount is one. It is set right for the active tables alone,
//   as the specification asks, when all counts are what they shall be.
// - The caller has had the image checked (require-counted.ts): what tables refer to is in the file, and counted.

import { ImgtxError } from "../../../errors/index.ts";
import {
  clusterAt,
  type ClusterIndex,
  clusterIndex,
  type HostOffset,
  startOf,
} from "../../../units/index.ts";
import { decodeL1EntryAt, encodeL1EntryAt, joinOffset, requireOffset } from "../codec/l1-table.ts";
import {
  decodeL2Entry,
  L2_COMPRESSED_HI,
  L2_COPIED_HI,
  measureL2Entry,
  toHalves,
} from "../codec/l2-table.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { shellQuote } from "../../quote-name.ts";
import { readRefcount } from "../codec/refcount-block.ts";
import type { CountWindow } from "../write/refcounts.ts";
import type { WriterState } from "../write/writer-state.ts";

/** After so many tables counts fall. Of full ones with a cluster size of 64 KiB this is half a million clusters. */
export const TABLES_AT_ONCE = 64;

/** Whether what is let go of becomes holes. Version 2 has no fence: a hole in its log would cost a read of all that goes. */
export function punchesFreed({ files: { header } }: WriterState): boolean {
  return header.version > 2;
}

interface Counting {
  readonly by: 1 | -1;
  /** Entries of the L1 table that are left out. */
  readonly isKept?: (index: number) => boolean;
}

/** Adds 1 to the refcount of all that the L1 table refers to, or takes it away. E_UNSUPPORTED where it has no more room. */
export async function countReferences(
  state: WriterState,
  l1: Uint8Array,
  { by, isKept }: Counting,
): Promise<void> {
  const { clusterBytes } = state;
  const punches = punchesFreed(state);
  const count = async (first: ClusterIndex, clusters: number): Promise<void> => {
    if (by === 1) await raiseOrRefuse(state, first, clusters);
    else state.release(startOf(first, clusterBytes), clusters * clusterBytes, punches);
  };
  let tables = 0;
  for await (const { offset, halves } of readTables(state, l1, isKept)) {
    await count(clusterAt(offset, clusterBytes), 1);
    for (const [first, clusters] of findClusters(state, halves)) await count(first, clusters);
    tables += 1;
    if (tables % TABLES_AT_ONCE === 0) await state.persist();
  }
  await state.persist();
}

async function raiseOrRefuse(state: WriterState, first: ClusterIndex, clusters: number): Promise<void> {
  try {
    await state.raise(first, clusters);
  } catch (error) {
    if (!(error instanceof ImgtxError && error.field === "refcount")) throw error;
    const { refcountBits } = state.files.header;
    throw new ImgtxError(
      "E_UNSUPPORTED",
      `its refcounts of ${refcountBits} bits can't count one more internal snapshot`,
      {
        image: state.files.path,
        field: "refcount_order",
        hint: `\`imgtx img amend -o refcount_bits=16 ${shellQuote(state.files.path)}\` makes room`,
        cause: error,
      },
    );
  }
}

interface ReadTable {
  readonly index: number;
  readonly offset: HostOffset;
  /** Its memory is that of the next table, too. */
  readonly halves: Uint32Array;
}

async function* readTables(
  state: WriterState,
  l1: Uint8Array,
  isSkipped: Counting["isKept"] = () => false,
): AsyncGenerator<ReadTable> {
  const { file, header } = state.files;
  const view = new DataView(l1.buffer, l1.byteOffset, l1.byteLength);
  const bytes = new Uint8Array(state.clusterBytes);
  for (let index = 0; index < l1.length / TABLE_ENTRY_BYTES; index += 1) {
    const entry = decodeL1EntryAt(view, index, header.clusterBits);
    if (entry.kind === "unallocated" || isSkipped(index)) continue;
    bytes.fill(0, await file.read(bytes, entry.hostOffset));
    yield { index, offset: entry.hostOffset, halves: toHalves(bytes) };
  }
}

/** Clusters of the image's file that entries refer to, in runs; one that several refer to as often. */
function* findClusters(
  state: WriterState,
  halves: Uint32Array,
): Generator<[first: ClusterIndex, count: number]> {
  const { header } = state.files;
  const { clusterBytes } = state;
  const words = measureL2Entry(header) / 4;
  let first = clusterIndex(0);
  let count = 0;
  for (let at = 0; at < halves.length; at += words) {
    const hi = halves[at] ?? 0;
    const lo = halves[at + 1] ?? 0;
    if ((hi & L2_COMPRESSED_HI) !== 0) {
      const entry = decodeL2Entry(hi, lo, header);
      if (entry.kind !== "compressed") continue;
      const start = clusterAt(entry.hostOffset, clusterBytes);
      const end = Math.ceil((entry.hostOffset + entry.lengthBytes) / clusterBytes);
      yield [start, end - start];
      continue;
    }
    const offset = requireOffset(joinOffset(hi, lo), "l2_entry");
    if (offset === 0) continue;
    const cluster = clusterAt(offset, clusterBytes);
    if (cluster === first + count) count += 1;
    else {
      if (count > 0) yield [first, count];
      [first, count] = [cluster, 1];
    }
  }
  if (count > 0) yield [first, count];
}

/** Sets the COPIED flags of the active tables right: of the L1 table, which is at l1Offset, and of all L2 tables. */
export async function refreshCopied(state: WriterState, l1: Uint8Array, l1Offset: HostOffset): Promise<void> {
  const { file, header } = state.files;
  const { clusterBytes } = state;
  const words = measureL2Entry(header) / 4;
  const view = new DataView(l1.buffer, l1.byteOffset, l1.byteLength);
  let window: CountWindow = { first: clusterIndex(0), end: clusterIndex(0), bytes: new Uint8Array(0) };
  const isSingle = (cluster: ClusterIndex): boolean =>
    readRefcount(window.bytes, cluster - window.first, header.refcountOrder) === 1;
  for await (const { index, offset, halves } of readTables(state, l1)) {
    let isChanged = false;
    for (let at = 0; at < halves.length; at += words) {
      const hi = halves[at] ?? 0;
      // Of a compressed cluster these bits are no offset.
      if ((hi & L2_COMPRESSED_HI) !== 0) continue;
      const place = requireOffset(joinOffset(hi, halves[at + 1] ?? 0), "l2_entry");
      if (place === 0) continue;
      const cluster = clusterAt(place, clusterBytes);
      // What a data file has is the image's own.
      const isOwn = header.hasExternalDataFile;
      if (!isOwn && (cluster < window.first || cluster >= window.end))
        window = await state.readCounts(cluster);
      const wanted = isOwn || isSingle(cluster) ? (hi | L2_COPIED_HI) >>> 0 : (hi & ~L2_COPIED_HI) >>> 0;
      if (wanted === hi) continue;
      halves[at] = wanted;
      isChanged = true;
    }
    // Back in place: tables are as many as the disk is large, and this memory is the next one's in any case.
    const bytes = Buffer.from(halves.buffer, halves.byteOffset, halves.byteLength);
    if (isChanged) await file.write(bytes.swap32(), offset);
    const table = clusterAt(offset, clusterBytes);
    if (table < window.first || table >= window.end) window = await state.readCounts(table);
    encodeL1EntryAt(view, index, {
      kind: "table",
      hostOffset: offset,
      isCopied: isSingle(table),
    });
  }
  await file.write(l1, l1Offset);
}
