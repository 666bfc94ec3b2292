// What a guest sees of an image, read through its backing chain. An independent reader: it shares no code
// with src, so that a mistake there cannot hide itself. Small images only; clarity before speed.
//
// Knows standard, zero, unallocated and deflate-compressed clusters, extended L2 entries, every cluster
// size, versions 2 and 3. Throws on all else (encryption, zstd), and on anything that does not fit.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { posix } from "node:path";
import { inflateRawSync } from "node:zlib";

/** The bytes of one file. Reads stop at its end. */
export interface ImageBytes {
  readonly sizeBytes: number;
  read(offset: number, lengthBytes: number): Uint8Array;
}

export type OpenImage = (path: string) => ImageBytes;

export interface Guest {
  readonly sizeBytes: number;
  /** Bytes past the end of the disk read as zeros. */
  read(offset: number, lengthBytes: number): Uint8Array;
}

export interface ImageHeader {
  readonly version: number;
  readonly clusterBits: number;
  readonly virtualSizeBytes: number;
  readonly backingName: string | undefined;
  readonly backingFormat: string | undefined;
  readonly dataFileName: string | undefined;
  readonly l1Size: number;
  readonly l1Offset: number;
  readonly refcountTableOffset: number;
  readonly refcountTableClusters: number;
  readonly refcountOrder: number;
  readonly snapshots: number;
  /** The header extension; undefined where there is none. */
  readonly bitmaps: Uint8Array | undefined;
  readonly extendedL2: boolean;
  readonly incompatible: bigint;
  readonly isFenced: boolean;
}

const OFFSET_MASK = 0x00ff_ffff_ffff_fe00n;
const COMPRESSED = 1n << 62n;
const STEP_BYTES = 64 * 1024;
const MAX_DEPTH = 200;

export function openGuest(open: OpenImage, path: string, format: string, depth = 0): Guest {
  if (depth > MAX_DEPTH) throw new Error(`${path}: the chain does not end`);
  const file = open(path);
  if (format === "raw") {
    // QEMU rounds a raw disk up to whole sectors.
    const sizeBytes = Math.ceil(file.sizeBytes / 512) * 512;
    return { sizeBytes, read: (offset, length) => padded(file.read(offset, length), length) };
  }
  if (format !== "qcow2") throw new Error(`${path}: format ${format} is not known here`);
  const header = readHeader(file, path);
  const backing =
    header.backingName === undefined
      ? undefined
      : openGuest(open, backingPath(path, header.backingName), header.backingFormat ?? "qcow2", depth + 1);
  const data = header.dataFileName === undefined ? file : open(backingPath(path, header.dataFileName));
  return new QcowGuest(path, file, data, header, backing);
}

/** What a guest would see after going back to each of the internal snapshots, by their names. */
export function openSnapshots(open: OpenImage, path: string): Map<string, Guest> {
  const file = open(path);
  const header = readHeader(file, path);
  const { backingName, backingFormat } = header;
  const backing =
    backingName === undefined || header.snapshots === 0
      ? undefined
      : openGuest(open, backingPath(path, backingName), backingFormat ?? "qcow2", 1);
  const found = new Map<string, Guest>();
  let at = number(viewOf(file.read(64, 8)).getBigUint64(0));
  for (let index = 0; index < header.snapshots; index += 1) {
    const entry = viewOf(file.read(at, 40));
    const [idBytes, nameBytes, extraBytes] = [entry.getUint16(12), entry.getUint16(14), entry.getUint32(36)];
    // Of an old snapshot the size is not known: it is the disk's.
    const virtualSizeBytes =
      extraBytes >= 16 ? number(viewOf(file.read(at + 48, 8)).getBigUint64(0)) : header.virtualSizeBytes;
    const l1 = { l1Offset: number(entry.getBigUint64(0)), l1Size: entry.getUint32(8), virtualSizeBytes };
    const name = text(file.read(at + 40 + extraBytes + idBytes, nameBytes));
    found.set(name, new QcowGuest(path, file, file, { ...header, ...l1 }, backing));
    at += Math.ceil((40 + extraBytes + idBytes + nameBytes) / 8) * 8;
  }
  return found;
}

/** SHA-256 of the whole disk. */
export function guestDigest(guest: Guest): string {
  const hash = createHash("sha256");
  for (let at = 0; at < guest.sizeBytes; at += STEP_BYTES) {
    hash.update(guest.read(at, Math.min(STEP_BYTES, guest.sizeBytes - at)));
  }
  return hash.digest("hex");
}

function backingPath(overlay: string, name: string): string {
  return posix.isAbsolute(name) ? name : posix.join(posix.dirname(overlay), name);
}

export function readHeader(file: ImageBytes, path: string): ImageHeader {
  const start = viewOf(padded(file.read(0, 112), 112));
  if (start.getUint32(0) !== 0x514649fb) throw new Error(`${path}: no qcow2 magic`);
  const version = start.getUint32(4);
  const clusterBits = start.getUint32(20);
  // Bit 62 is the fence, which changes nothing of what the image holds.
  const fence = 1n << 62n;
  const features = version >= 3 ? start.getBigUint64(72) : 0n;
  const incompatible = features & ~fence;
  if ((incompatible & ~0x15n) !== 0n) throw new Error(`${path}: incompatible features ${incompatible}`);
  if (start.getUint32(32) !== 0) throw new Error(`${path}: encrypted`);
  const headerBytes = version >= 3 ? start.getUint32(100) : 72;
  if (version >= 3 && headerBytes > 104 && start.getUint8(104) !== 0) throw new Error(`${path}: not deflate`);
  const extensions = readExtensions(file, headerBytes, 2 ** clusterBits);
  const nameOffset = number(start.getBigUint64(8));
  const nameBytes = start.getUint32(16);
  return {
    version,
    clusterBits,
    virtualSizeBytes: number(start.getBigUint64(24)),
    backingName: nameOffset === 0 ? undefined : text(file.read(nameOffset, nameBytes)),
    backingFormat: extensions.has(0xe2792aca) ? text(extensions.get(0xe2792aca)!) : undefined,
    dataFileName:
      (incompatible & 4n) === 0n ? undefined : text(extensions.get(0x44415441) ?? new Uint8Array()),
    l1Size: start.getUint32(36),
    l1Offset: number(start.getBigUint64(40)),
    refcountTableOffset: number(start.getBigUint64(48)),
    refcountTableClusters: start.getUint32(56),
    refcountOrder: version >= 3 ? start.getUint32(96) : 4,
    snapshots: start.getUint32(60),
    bitmaps: extensions.get(0x23852875),
    extendedL2: (incompatible & 16n) !== 0n,
    incompatible,
    isFenced: (features & fence) !== 0n,
  };
}

function readExtensions(file: ImageBytes, from: number, limit: number): Map<number, Uint8Array> {
  const found = new Map<number, Uint8Array>();
  for (let at = from; at + 8 <= limit; ) {
    const head = viewOf(padded(file.read(at, 8), 8));
    const type = head.getUint32(0);
    const length = head.getUint32(4);
    if (type === 0) break;
    found.set(type, file.read(at + 8, length));
    at += 8 + Math.ceil(length / 8) * 8;
  }
  return found;
}

class QcowGuest implements Guest {
  readonly sizeBytes: number;
  readonly #path: string;
  readonly #file: ImageBytes;
  readonly #data: ImageBytes;
  readonly #header: ImageHeader;
  readonly #backing: Guest | undefined;
  readonly #clusterBytes: number;
  /** Where the L2 tables that were asked for lie, and what they hold. */
  readonly #places = new Map<number, number>();
  readonly #tables = new Map<number, DataView>();

  constructor(
    path: string,
    file: ImageBytes,
    data: ImageBytes,
    header: ImageHeader,
    backing: Guest | undefined,
  ) {
    this.sizeBytes = header.virtualSizeBytes;
    this.#path = path;
    this.#file = file;
    this.#data = data;
    this.#header = header;
    this.#backing = backing;
    this.#clusterBytes = 2 ** header.clusterBits;
  }

  read(offset: number, lengthBytes: number): Uint8Array {
    const end = Math.min(offset + lengthBytes, this.sizeBytes);
    const step = this.#header.extendedL2 ? this.#clusterBytes / 32 : this.#clusterBytes;
    // As most are read, through each layer without a copy.
    const isOnePiece = lengthBytes > 0 && Math.floor(offset / step) === Math.floor((end - 1) / step);
    if (isOnePiece && end - offset === lengthBytes) return this.#readPiece(offset, lengthBytes);
    const result = new Uint8Array(lengthBytes);
    for (let at = offset; at < end; ) {
      const pieceEnd = Math.min((Math.floor(at / step) + 1) * step, end);
      result.set(this.#readPiece(at, pieceEnd - at), at - offset);
      at = pieceEnd;
    }
    return result;
  }

  #placeOfTable(l1Index: number): number {
    const known = this.#places.get(l1Index);
    if (known !== undefined) return known;
    const entry = viewOf(this.#exactly(this.#header.l1Offset + l1Index * 8, 8)).getBigUint64(0);
    const place = number(entry & OFFSET_MASK);
    this.#places.set(l1Index, place);
    return place;
  }

  /** A range inside one cluster, or one subcluster. */
  #readPiece(offset: number, length: number): Uint8Array {
    const entryBytes = this.#header.extendedL2 ? 16 : 8;
    const perTable = this.#clusterBytes / entryBytes;
    const cluster = Math.floor(offset / this.#clusterBytes);
    const within = offset - cluster * this.#clusterBytes;
    const l1Index = Math.floor(cluster / perTable);
    if (l1Index >= this.#header.l1Size) throw new Error(`${this.#path}: the L1 table is too short`);
    const l2Offset = this.#placeOfTable(l1Index);
    if (l2Offset === 0) return this.#below(offset, length);
    const table = this.#table(l2Offset);
    const at = (cluster % perTable) * entryBytes;
    const entry = table.getBigUint64(at);
    if ((entry & COMPRESSED) !== 0n) return this.#decompress(entry).subarray(within, within + length);
    if (this.#header.extendedL2) {
      const subcluster = Math.floor(within / (this.#clusterBytes / 32));
      if (((table.getUint32(at + 8) >>> subcluster) & 1) === 1) return new Uint8Array(length);
      if (((table.getUint32(at + 12) >>> subcluster) & 1) === 0) return this.#below(offset, length);
    } else if ((entry & 1n) === 1n) {
      return new Uint8Array(length);
    }
    const host = number(entry & OFFSET_MASK);
    // In a data file offset 0 is a cluster as any other, where the entry's bit 63 says that there is one.
    const isAtStart = this.#data !== this.#file && entry >> 63n === 1n;
    if (host === 0 && !isAtStart && !this.#header.extendedL2) return this.#below(offset, length);
    return padded(this.#data.read(host + within, length), length);
  }

  #below(offset: number, length: number): Uint8Array {
    if (!this.#backing) return new Uint8Array(length);
    const available = Math.max(0, Math.min(length, this.#backing.sizeBytes - offset));
    return padded(this.#backing.read(offset, available), length);
  }

  #decompress(entry: bigint): Uint8Array {
    const offsetBits = BigInt(62 - (this.#header.clusterBits - 8));
    const host = number(entry & ((1n << offsetBits) - 1n));
    const sectors = number((entry & (COMPRESSED - 1n)) >> offsetBits) + 1;
    const packed = this.#file.read(host, sectors * 512 - (host % 512));
    return padded(
      inflateRawSync(packed, { finishFlush: 2 /* Z_SYNC_FLUSH: padding follows */ }),
      this.#clusterBytes,
    );
  }

  #table(offset: number): DataView {
    const known = this.#tables.get(offset);
    if (known) return known;
    const table = viewOf(this.#exactly(offset, this.#clusterBytes));
    this.#tables.set(offset, table);
    return table;
  }

  #exactly(offset: number, length: number): Uint8Array {
    const bytes = this.#file.read(offset, length);
    if (bytes.length < length) throw new Error(`${this.#path}: a table at ${offset} ends past the file`);
    return bytes;
  }
}

export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function padded(bytes: Uint8Array, lengthBytes: number): Uint8Array {
  if (bytes.length === lengthBytes) return bytes;
  const whole = new Uint8Array(lengthBytes);
  whole.set(bytes.subarray(0, lengthBytes));
  return whole;
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("utf8");
}

function number(word: bigint): number {
  if (word > BigInt(Number.MAX_SAFE_INTEGER)) throw new Error(`${word} is no offset`);
  return Number(word);
}

/** Files of the real disk; each is read whole, so for small ones. */
export function openHostImage(path: string): ImageBytes {
  const bytes = readFileSync(path);
  return {
    sizeBytes: bytes.length,
    read: (offset, lengthBytes) => bytes.subarray(offset, offset + lengthBytes),
  };
}
