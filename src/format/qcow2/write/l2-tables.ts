// The L1 and L2 tables of an image that is being written to, in a write-back cache.
//
// Invariants
// - Tables are held as 32-bit halves, as the reader's scans take them; on disk they are big-endian.
// - Nothing is written here by itself: the writer orders it (writeNew before writeChanged, see writer.ts).
// - Every L2 table lies inside the file, on a cluster, and is claimed as metadata.
// - Only a table that the active L1 table alone uses (COPIED) is changed; others are copied first.

import { ImgtxError, placed } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { alignDown, alignUp, type HostOffset, SECTOR_BYTES } from "../../../units/index.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import { decodeL1EntryAt, encodeL1EntryAt, type L1Entry } from "../codec/l1-table.ts";
import { countL2Entries, toHalves } from "../codec/l2-table.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { readBytes } from "../../read-header.ts";
import type { MetadataMap } from "./metadata-map.ts";

export interface L2Table {
  readonly l1Index: number;
  readonly hostOffset: number;
  readonly halves: Uint32Array;
  /** Bytes that the file does not have yet: from to to. Empty where from is not below to. */
  dirtyFrom: number;
  dirtyTo: number;
  /** Whether nothing on disk points to it. */
  isNew: boolean;
}

const CACHE_BYTES = 32 * 1024 * 1024;

export interface L2TablesOptions {
  readonly path: string;
  readonly file: StorageFile;
  readonly header: Qcow2Header;
  readonly metadata: MetadataMap;
}

export class L2Tables {
  readonly #options: L2TablesOptions;
  readonly #clusterBytes: number;
  readonly #l1: Uint8Array;
  readonly #l1View: DataView;
  readonly #dirtySectors = new Set<number>();
  readonly #tables = new Map<number, L2Table>();
  /** Guest bytes that one table maps. */
  readonly spanBytes: number;

  private constructor(options: L2TablesOptions, l1: Uint8Array) {
    this.#options = options;
    this.#clusterBytes = options.header.clusterSizeBytes;
    this.#l1 = l1;
    this.#l1View = new DataView(l1.buffer, l1.byteOffset, l1.byteLength);
    this.spanBytes = this.#clusterBytes * countL2Entries(options.header);
  }

  /** Reads the L1 table, and claims it and every L2 table. */
  static async open(options: L2TablesOptions, fileSizeBytes: number): Promise<L2Tables> {
    const { header, file, metadata, path } = options;
    const { clusterSizeBytes } = header;
    const lengthBytes = header.l1Size * TABLE_ENTRY_BYTES;
    metadata.claim("active L1 table", header.l1TableOffset, lengthBytes);
    const l1 = new Uint8Array(lengthBytes);
    l1.set(await readBytes(file, header.l1TableOffset, lengthBytes));
    const tables = new L2Tables(options, l1);
    const fileEnd = alignUp(fileSizeBytes, clusterSizeBytes);
    for (let index = 0; index < header.l1Size; index += 1) {
      const at = header.l1TableOffset + index * TABLE_ENTRY_BYTES;
      const entry = tables.#entry(index);
      if (entry.kind === "unallocated") continue;
      if (entry.hostOffset + clusterSizeBytes > fileEnd) {
        throw new ImgtxError("E_CORRUPT", "L2 table lies past the end of the file", {
          image: path,
          offset: at,
          field: "l1_entry",
        });
      }
      metadata.claim("L2 table", entry.hostOffset, clusterSizeBytes);
    }
    return tables;
  }

  /** Undefined where guest data from there on has no table. */
  async find(l1Index: number): Promise<L2Table | undefined> {
    const known = this.#tables.get(l1Index);
    if (known !== undefined) {
      this.#tables.delete(l1Index);
      this.#tables.set(l1Index, known);
      return known;
    }
    const entry = this.#entry(l1Index);
    if (entry.kind === "unallocated") return undefined;
    const bytes = new Uint8Array(this.#clusterBytes);
    await this.#options.file.read(bytes, entry.hostOffset);
    return this.#keep(l1Index, entry.hostOffset, toHalves(bytes), false);
  }

  /** The table's place, and whether it may be changed there. */
  place(l1Index: number): { readonly hostOffset: HostOffset; readonly isOwn: boolean } | undefined {
    const entry = this.#entry(l1Index);
    return entry.kind === "unallocated" ? undefined : { hostOffset: entry.hostOffset, isOwn: entry.isCopied };
  }

  /** Puts a table, empty or a copy of what was there, at a new place. */
  async replace(l1Index: number, place: HostOffset): Promise<L2Table> {
    const old = await this.find(l1Index);
    const halves = old?.halves ?? new Uint32Array(this.#clusterBytes / 4);
    this.#options.metadata.claim("new L2 table", place, this.#clusterBytes);
    const entry: L1Entry = { kind: "table", hostOffset: place, isCopied: true };
    encodeL1EntryAt(this.#l1View, l1Index, entry);
    this.#dirtySectors.add(Math.floor((l1Index * TABLE_ENTRY_BYTES) / SECTOR_BYTES));
    return this.#keep(l1Index, place, halves, true);
  }

  /** The L1 table without this entry. Returns where its table was. */
  remove(l1Index: number): HostOffset | undefined {
    const place = this.place(l1Index)?.hostOffset;
    this.#tables.delete(l1Index);
    encodeL1EntryAt(this.#l1View, l1Index, { kind: "unallocated" });
    this.#dirtySectors.add(Math.floor((l1Index * TABLE_ENTRY_BYTES) / SECTOR_BYTES));
    return place;
  }

  /** Notes that entries of the table have changed: bytes from..to of it. */
  mark(table: L2Table, from: number, to: number): void {
    table.dirtyFrom = Math.min(table.dirtyFrom, from);
    table.dirtyTo = Math.max(table.dirtyTo, to);
  }

  get isDirty(): boolean {
    if (this.#dirtySectors.size > 0) return true;
    for (const table of this.#tables.values()) if (isDirty(table)) return true;
    return false;
  }

  /** Writes the tables that nothing on disk points to yet. */
  async writeNew(): Promise<void> {
    for (const table of this.#tables.values()) if (table.isNew) await this.#write(table);
  }

  /** Writes all other changes: entries of tables in use, and of the L1 table. */
  async writeChanged(): Promise<void> {
    for (const table of this.#tables.values()) if (isDirty(table)) await this.#write(table);
    for (const sector of [...this.#dirtySectors].sort((one, other) => one - other)) {
      const from = sector * SECTOR_BYTES;
      const bytes = this.#l1.subarray(from, from + SECTOR_BYTES);
      await this.#options.file.write(bytes, this.#options.header.l1TableOffset + from);
    }
    this.#dirtySectors.clear();
    for (const table of this.#tables.values()) table.isNew = false;
  }

  get isFull(): boolean {
    return this.#tables.size * this.#clusterBytes > CACHE_BYTES && this.#tables.size > 4;
  }

  /** Forgets what has not been used for long. False where everything has changes: they are to be written first. */
  shrink(): boolean {
    for (const [l1Index, table] of this.#tables) {
      if (!this.isFull) return true;
      if (!isDirty(table) && !table.isNew) this.#tables.delete(l1Index);
    }
    return !this.isFull;
  }

  #keep(l1Index: number, place: HostOffset, halves: Uint32Array, isNew: boolean): L2Table {
    const table: L2Table = {
      l1Index,
      hostOffset: place,
      halves,
      dirtyFrom: isNew ? 0 : this.#clusterBytes,
      dirtyTo: isNew ? this.#clusterBytes : 0,
      isNew,
    };
    this.#tables.delete(l1Index);
    this.#tables.set(l1Index, table);
    return table;
  }

  async #write(table: L2Table): Promise<void> {
    const from = alignDown(table.dirtyFrom, SECTOR_BYTES);
    const to = Math.min(alignUp(table.dirtyTo, SECTOR_BYTES), this.#clusterBytes);
    if (from >= to) return;
    const bytes = Buffer.from(table.halves.slice(from / 4, to / 4).buffer).swap32();
    table.dirtyFrom = this.#clusterBytes;
    table.dirtyTo = 0;
    try {
      await this.#options.file.write(bytes, table.hostOffset + from);
    } catch (error) {
      this.mark(table, from, to);
      throw error;
    }
  }

  #entry(l1Index: number): L1Entry {
    const { header, path } = this.#options;
    const offset = header.l1TableOffset + l1Index * TABLE_ENTRY_BYTES;
    return placed({ image: path, offset }, () => decodeL1EntryAt(this.#l1View, l1Index, header.clusterBits));
  }
}

function isDirty(table: L2Table): boolean {
  return table.dirtyFrom < table.dirtyTo;
}
