// Walks everything that maps guest data: the L1 tables of the active layer and of the internal snapshots, then
// each L2 table that they lead to.
//
// Invariants
// - Streaming: a piece of an L1 table, or one L2 table, is in memory at a time.
// - What lies past the end of the file, or in a hole, reads as zeros; a hole full of tables is stepped over.
// - A forged image ends: L1 tables that snapshots share are read once, and the entries that all of them claim
//   together are limited, and so are L2 tables off their alignment, of which one sector could begin many.

import { setImmediate as letOthersRun } from "node:timers/promises";
import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { clusterIndex } from "../../../units/index.ts";
import { type CheckFindings, formatWord } from "./check-findings.ts";
import type { L2Scan } from "./check-l2-scan.ts";
import type { References } from "./check-references.ts";
import type { StoredRefcounts } from "./check-stored-refcounts.ts";
import { TableUses } from "./check-table-uses.ts";
import { L1_RESERVED_HI, L1_RESERVED_LO } from "../codec/l1-table.ts";
import { toHalves } from "../codec/l2-table.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";

const PIECE_BYTES = 64 * 1024;
/** Of all L1 tables together: a gibibyte of them. */
const L1_ENTRIES_MAX = 2 ** 27;
/** Of tables off their alignment, which overlap; the others are only counted. */
const UNALIGNED_BYTES_MAX = 4 * 1024 * 1024;
/** Tables between two looks at what else goes on: reads of cached tables never wait, so that a Ctrl-C would. */
const TABLES_AT_ONCE = 128;
const OFFSET_HI = 0x00ffffff;
const OFFSET_LO = 0xfffffe00;
const COPIED_HI_BIT = 31;

/** One L1 table, and how many snapshots (or the active layer) have exactly this one. */
interface L1Table {
  readonly offset: number;
  readonly entries: number;
  times: number;
  activeTimes: number;
}

export class MappingWalk {
  readonly #file: StorageFile;
  readonly #references: References;
  readonly #stored: StoredRefcounts;
  readonly #findings: CheckFindings;
  readonly #l1Tables = new Map<string, L1Table>();
  readonly #uses = new TableUses();
  #l1Entries = 0;

  constructor(file: StorageFile, references: References, stored: StoredRefcounts) {
    this.#file = file;
    this.#references = references;
    this.#stored = stored;
    this.#findings = references.findings;
  }

  /** Takes note of an L1 table. E_CORRUPT where all of them together can't be true. */
  addL1Table(offset: number, entries: number, isActive: boolean): void {
    if (entries === 0) return;
    this.#references.add(offset, entries * TABLE_ENTRY_BYTES, 1);
    const key = `${offset}:${entries}`;
    let table = this.#l1Tables.get(key);
    if (table === undefined) {
      table = { offset, entries, times: 0, activeTimes: 0 };
      this.#l1Tables.set(key, table);
      this.#l1Entries += entries;
      if (this.#l1Entries > L1_ENTRIES_MAX) {
        throw new ImgtxError("E_CORRUPT", "the L1 tables of the internal snapshots are absurdly large", {
          field: "snapshot_table",
        });
      }
    }
    table.times += 1;
    if (isActive) table.activeTimes += 1;
  }

  /** Walks all that was noted. */
  async walk(scan: L2Scan, signal: AbortSignal | undefined): Promise<void> {
    for (const table of this.#l1Tables.values()) await this.#walkL1Table(table, scan);
    await this.#walkL2Tables(scan, signal);
  }

  async #walkL1Table(table: L1Table, scan: L2Scan): Promise<void> {
    const bytes = new Uint8Array(PIECE_BYTES);
    const entriesPerPiece = PIECE_BYTES / TABLE_ENTRY_BYTES;
    // Zeros are all there is; and beyond 2^53 there is no file to ask.
    if (table.offset >= this.#references.fileSizeBytes) return;
    for (let first = 0; first < table.entries; first += entriesPerPiece) {
      const entries = Math.min(entriesPerPiece, table.entries - first);
      const piece = bytes.subarray(0, entries * TABLE_ENTRY_BYTES);
      piece.fill(0, await this.#file.read(piece, table.offset + first * TABLE_ENTRY_BYTES));
      const halves = toHalves(piece);
      for (let at = 0; at < halves.length; at += 2) {
        const hi = halves[at] ?? 0;
        const lo = halves[at + 1] ?? 0;
        if ((hi | lo) !== 0) this.#judgeL1Entry(table, first + at / 2, hi, lo, scan);
      }
    }
  }

  #judgeL1Entry(table: L1Table, index: number, hi: number, lo: number, scan: L2Scan): void {
    const { times, activeTimes } = table;
    if ((hi & L1_RESERVED_HI) !== 0 || (lo & L1_RESERVED_LO) !== 0) {
      this.#findings.corrupt(`ERROR found L1 entry with reserved bits set: ${formatWord(hi, lo)}`, times);
    }
    const { clusterSizeBytes } = this.#references;
    const offset = (hi & OFFSET_HI) * 2 ** 32 + ((lo & OFFSET_LO) >>> 0);
    this.#references.add(offset, clusterSizeBytes, times);
    if (offset % clusterSizeBytes !== 0) {
      this.#findings.corrupt(
        `ERROR l2_offset=${offset.toString(16)}: Table is not cluster aligned; L1 entry corrupted`,
        times,
      );
    }
    this.#uses.add(offset, times, activeTimes);
    const cluster = clusterIndex(Math.floor(offset / clusterSizeBytes));
    if (activeTimes === 0 || offset === 0 || this.#stored.isUnreadable(cluster)) return;
    const isSet = hi >>> COPIED_HI_BIT > 0;
    if (this.#stored.isOne(cluster) === isSet) return;
    const what = (): string => `L2 cluster: l1_index=${index} l1_entry=${formatWord(hi, lo)}`;
    scan.noteWrongFlag({ cluster, times: activeTimes, isSet }, what);
  }

  async #walkL2Tables(scan: L2Scan, signal: AbortSignal | undefined): Promise<void> {
    const { clusterSizeBytes, fileSizeBytes } = this.#references;
    const bytes = new Uint8Array(clusterSizeBytes);
    let zerosEnd = 0;
    let tables = 0;
    let unalignedBytes = 0;
    for (const offset of this.#uses.offsets) {
      if (offset >= fileSizeBytes) break;
      if (offset + clusterSizeBytes <= zerosEnd) continue;
      if (offset % clusterSizeBytes !== 0) {
        unalignedBytes += clusterSizeBytes;
        if (unalignedBytes > UNALIGNED_BYTES_MAX) continue;
      }
      tables += 1;
      if (tables % TABLES_AT_ONCE === 0) await letOthersRun();
      signal?.throwIfAborted();
      bytes.fill(0, await this.#file.read(bytes, offset));
      const times = this.#uses.timesAt(offset);
      const activeTimes = this.#uses.activeTimesAt(offset);
      const cluster = clusterIndex(Math.floor(offset / clusterSizeBytes));
      const isJudged = offset !== 0 && !this.#stored.isUnreadable(cluster);
      const use = { times, activeTimes, judgedTimes: isJudged ? activeTimes : 0 };
      if (scan.scan(toHalves(bytes), use)) continue;
      // An empty table is rare, and may be one of millions in a hole.
      zerosEnd = (await this.#file.seekData(offset)) ?? Number.POSITIVE_INFINITY;
    }
  }
}
