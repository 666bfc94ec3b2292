// A qcow2 image as a layer of a chain: from its L1 and L2 tables to runs, and its compressed clusters.
//
// Invariants
// - Host offsets are judged before anything is read there: data lies inside the file (its last cluster may be
//   cut short) and clear of the header, the L1 table and the refcount table.
// - In a data file, guest and host offsets are the same, as QEMU requires.
// - Tables are held in slices, and the L1 table too: a header that claims large ones costs no memory.

import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import {
  alignDown,
  alignUp,
  guestOffset,
  type GuestOffset,
  type HostOffset,
  offsetBy,
} from "../../../units/index.ts";
import type { ImageFormat } from "../../image-format.ts";
import type { LayerReader } from "../../read/layer-reader.ts";
import { decodeL1Entry, joinOffset } from "../codec/l1-table.ts";
import { countL2Entries, measureL2Entry } from "../codec/l2-table.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { CompressedReader } from "./qcow2-layer-compressed.ts";
import { hasPreallocatedMetadata, splitAtHoles } from "./qcow2-layer-holes.ts";
import { type L2Slice, L2Scanner } from "./qcow2-layer-scan.ts";
import { type CutOff, damageHint, type L1Table, type Qcow2Link } from "../../chain/chain-link.ts";
import { describeCutOff } from "../../chain/missing-tables.ts";
import { cutOffHint, findMissing } from "../check/require-counted.ts";
import { type Run, RunList, type RunPurpose } from "../../read/run-list.ts";
import { allocateSlice, SLICE_BYTES, TableCache } from "./table-cache.ts";

export interface Qcow2LayerOptions {
  /** Default: the active one. */
  readonly l1Table?: L1Table | undefined;
  /** Bytes for slices of tables. */
  readonly cacheBytes: number;
}

/** Its halves are set when they are here. */
interface PlacedSlice extends L2Slice {
  halves: Uint32Array;
  readonly lengthBytes: number;
}

const NOTHING = new Uint32Array(0);

/** One call of findRuns. */
interface Scan {
  readonly end: GuestOffset;
  readonly runs: RunList;
  readonly purpose: RunPurpose;
  /** Memory for slices that are not kept. */
  scratch: Uint8Array | undefined;
  /** The disk knows of the tables before this one of the L1 table. */
  announced: number;
}

interface Area {
  readonly what: string;
  readonly start: number;
  readonly end: number;
}

export class Qcow2Layer implements LayerReader {
  readonly path: string;
  readonly format: ImageFormat = "qcow2";
  readonly virtualSizeBytes: number;
  readonly dataFile: StorageFile;
  readonly #tables: TableCache;
  readonly #link: Qcow2Link;
  readonly #l1: L1Table;
  readonly #scanner: L2Scanner;
  readonly #compressed: CompressedReader;
  readonly #clusterBytes: number;
  /** Guest bytes that an L2 table maps. */
  readonly #tableSpan: number;
  /** Where the file ends, its last cluster taken as whole. */
  readonly #fileEnd: number;
  readonly #metadata: readonly Area[];
  #preallocated: Promise<boolean> | undefined;
  #isCutOff = false;
  #missing: Promise<CutOff | undefined> | undefined;

  constructor(link: Qcow2Link, options: Qcow2LayerOptions) {
    const { header } = link;
    this.path = link.path;
    this.virtualSizeBytes = link.virtualSizeBytes;
    this.dataFile = link.dataFile?.file ?? link.file;
    this.#tables = new TableCache(link.file, options.cacheBytes);
    this.#link = link;
    this.#l1 = options.l1Table ?? { fileOffset: header.l1TableOffset, entries: header.l1Size };
    this.#clusterBytes = header.clusterSizeBytes;
    this.#tableSpan = this.#clusterBytes * countL2Entries(header);
    this.#fileEnd = alignUp(link.stat.sizeBytes, this.#clusterBytes);
    this.#metadata = listMetadata(header, this.#l1);
    this.#compressed = new CompressedReader(link);
    this.#scanner = new L2Scanner(header, {
      data: (hostOffset, lengthBytes, guestOffset) => {
        if (header.hasExternalDataFile) judgeDataFilePlace(hostOffset, guestOffset);
        else this.#judgePlace(hostOffset, lengthBytes, "Cluster");
      },
      compressed: (hostOffset, lengthBytes) => {
        this.#judgePlace(hostOffset, lengthBytes, "Compressed cluster");
      },
    });
  }

  async findRuns(
    start: GuestOffset,
    end: GuestOffset,
    runs: RunList,
    purpose: RunPurpose,
  ): Promise<GuestOffset> {
    if (purpose === "read" || !(await this.#mayHaveHoles())) return this.#scan(start, end, runs, purpose);
    const found = new RunList();
    const reached = await this.#scan(start, end, found, purpose);
    return splitAtHoles(found.runs, this.dataFile, runs, reached);
  }

  async readCompressed(runs: readonly Run[], target: Uint8Array, targetStart: number): Promise<void> {
    await this.#compressed.read(runs, target, targetStart);
  }

  async #scan(
    start: GuestOffset,
    end: GuestOffset,
    runs: RunList,
    purpose: RunPurpose,
  ): Promise<GuestOffset> {
    const scan: Scan = { end, runs, purpose, scratch: undefined, announced: 0 };
    let at = start;
    try {
      while (at < end && !runs.isFull) at = await this.#scanTable(at, scan);
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      throw (await this.#withMissing(error)).with({ image: this.path, hint: damageHint(this.path) });
    }
    return at;
  }

  /** Where the file has been found too short: the same error, with all that it lacks. */
  async #withMissing(error: ImgtxError): Promise<ImgtxError> {
    if (!this.#isCutOff) return error;
    this.#missing ??= findMissing(this.#link.file);
    const missing = await this.#missing;
    return missing === undefined
      ? error
      : error.reworded(`${error.message}: ${describeCutOff(missing)}`, { hint: cutOffHint(this.path) });
  }

  /** The runs of one slice of an L2 table, or of guest bytes without one. Returns how far it came. */
  async #scanTable(at: GuestOffset, scan: Scan): Promise<GuestOffset> {
    const { end, runs, purpose } = scan;
    const index = Math.floor(at / this.#tableSpan);
    // An L1 table past the end of the file is all zeros.
    if (index >= this.#l1.entries || this.#l1.fileOffset >= this.#fileEnd) {
      runs.push(at, end - at, "unallocated", undefined);
      return end;
    }
    const perSlice = SLICE_BYTES / TABLE_ENTRY_BYTES;
    const firstIndex = alignDown(index, perSlice);
    const count = Math.min(perSlice, this.#l1.entries - firstIndex);
    const l1Offset = this.#l1.fileOffset + firstIndex * TABLE_ENTRY_BYTES;
    const l1 = this.#tables.find(l1Offset) ?? (await this.#tables.load(l1Offset, count * TABLE_ENTRY_BYTES));
    const empty = countEmpty(l1, index - firstIndex);
    if (empty > 0) {
      const emptyEnd = guestOffset((index + empty) * this.#tableSpan);
      const reached = emptyEnd < end ? emptyEnd : end;
      runs.push(at, reached - at, "unallocated", undefined);
      return reached;
    }
    const l2Offset = this.#decodeL1(l1, index - firstIndex, l1Offset, index);
    if (purpose === "describe") this.#announceTables(l1, firstIndex, index + 1, scan);
    const slice = this.#placeSlice(l2Offset, index * this.#tableSpan, at, end);
    slice.halves = this.#tables.find(slice.fileOffset) ?? (await this.#loadSlice(slice, scan));
    return this.#scanner.scan(slice, runs, purpose);
  }

  /** Lets the disk begin with the tables that the scan comes to next. l1 begins with entry firstIndex. */
  #announceTables(l1: Uint32Array, firstIndex: number, nextIndex: number, scan: Scan): void {
    const last = Math.min(
      firstIndex + l1.length / 2,
      nextIndex + TABLES_AHEAD,
      Math.ceil(scan.end / this.#tableSpan),
    );
    const lengthBytes = Math.min(SLICE_BYTES, this.#clusterBytes);
    for (let index = Math.max(nextIndex, scan.announced); index < last; index += 1) {
      const at = 2 * (index - firstIndex);
      const start = joinOffset(l1[at] ?? 0, l1[at + 1] ?? 0);
      if (start > 0 && start < this.#fileEnd) this.#link.file.beginRead?.({ start, lengthBytes });
    }
    scan.announced = Math.max(scan.announced, last);
  }

  /** A scan that goes through a whole slice and beyond will not come back to it. */
  #loadSlice(slice: PlacedSlice, scan: Scan): Promise<Uint32Array> {
    const { fileOffset, lengthBytes } = slice;
    const passesThrough =
      scan.purpose === "describe" && slice.start === slice.guestStart && slice.end < scan.end;
    if (!passesThrough) return this.#tables.load(fileOffset, lengthBytes);
    scan.scratch ??= allocateSlice(lengthBytes);
    return this.#tables.loadInto(scan.scratch, fileOffset);
  }

  /** Which slice of the L2 table has the entry of guest byte at. */
  #placeSlice(l2Offset: number, tableStart: number, at: GuestOffset, end: GuestOffset): PlacedSlice {
    const lengthBytes = Math.min(SLICE_BYTES, this.#clusterBytes);
    const sliceSpan = (lengthBytes / measureL2Entry(this.#link.header)) * this.#clusterBytes;
    const number = Math.floor((at - tableStart) / sliceSpan);
    const guestStart = guestOffset(tableStart + number * sliceSpan);
    const sliceEnd = offsetBy(guestStart, sliceSpan);
    return {
      halves: NOTHING,
      fileOffset: l2Offset + number * lengthBytes,
      lengthBytes,
      guestStart,
      start: at,
      end: sliceEnd < end ? sliceEnd : end,
    };
  }

  #decodeL1(l1: Uint32Array, indexInSlice: number, sliceOffset: number, index: number): number {
    const offset = sliceOffset + indexInSlice * TABLE_ENTRY_BYTES;
    try {
      const at = 2 * indexInSlice;
      const entry = decodeL1Entry(l1[at] ?? 0, l1[at + 1] ?? 0, this.#link.header.clusterBits);
      // Reserved bits without an offset are refused by decode; all other entries without one were skipped.
      if (entry.kind === "unallocated") throw new ImgtxError("E_INTERNAL", "an empty L1 entry was decoded");
      this.#judgePlace(entry.hostOffset, this.#clusterBytes, "L2 table");
      return entry.hostOffset;
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      throw error.reworded(`${error.message} (L1 index: 0x${index.toString(16)})`, {
        offset,
        field: "l1_entry",
      });
    }
  }

  #judgePlace(hostOffset: number, lengthBytes: number, what: string): void {
    const end = hostOffset + lengthBytes;
    if (end > this.#fileEnd) {
      this.#isCutOff = true;
      // Of neighbours that are taken as one, the first that is not there.
      const place = what === "Cluster" ? Math.max(hostOffset, this.#fileEnd) : hostOffset;
      throw new ImgtxError("E_CORRUPT", `${what} at 0x${place.toString(16)} lies past the end of the file`);
    }
    const area = this.#metadata.find((each) => hostOffset < each.end && end > each.start);
    if (area === undefined) return;
    throw new ImgtxError("E_CORRUPT", `${what} at 0x${hostOffset.toString(16)} overlaps the ${area.what}`);
  }

  #mayHaveHoles(): Promise<boolean> {
    this.#preallocated ??= hasPreallocatedMetadata(this.#link);
    return this.#preallocated;
  }
}

const TABLES_AHEAD = 32;

/** How many entries from this one on have no table. Only the halves of the slice are looked at. */
function countEmpty(l1: Uint32Array, from: number): number {
  let index = from;
  // The COPIED flag of an entry without a table means nothing.
  while (2 * index < l1.length && l1[2 * index + 1] === 0 && ((l1[2 * index] ?? 0) & 0x7fffffff) === 0) {
    index += 1;
  }
  return index - from;
}

function listMetadata(header: Qcow2Header, l1: L1Table): Area[] {
  const areas: Area[] = [
    { what: "header", start: 0, end: header.clusterSizeBytes },
    areaOf("active L1 table", header.l1TableOffset, header.l1Size * TABLE_ENTRY_BYTES),
    areaOf("L1 table", l1.fileOffset, l1.entries * TABLE_ENTRY_BYTES),
    areaOf(
      "refcount table",
      header.refcountTableOffset,
      header.refcountTableClusters * header.clusterSizeBytes,
    ),
  ];
  return areas.filter((area) => area.end > area.start);
}

function areaOf(what: string, start: number, lengthBytes: number): Area {
  return { what, start, end: start + lengthBytes };
}

/** In an external data file a cluster lies where the guest sees it. E_CORRUPT where it does not. */
export function judgeDataFilePlace(hostOffset: HostOffset, guest: GuestOffset): void {
  if (Number(hostOffset) === guest) return;
  throw new ImgtxError(
    "E_CORRUPT",
    `External data file host cluster offset 0x${hostOffset.toString(16)} does not match guest cluster ` +
      `offset 0x${guest.toString(16)}`,
    { field: "l2_entry" },
  );
}
