// What takes a repair back after its commit: the bytes that it changed, as they were, in a file of their own.
//
// Invariants
// - A page is kept before it is changed, once, as the repair found it. What the image had not yet is not kept.
// - It is played back only over an image that is, in all of its metadata, what the repair left: what a guest has
//   allocated since would not be counted any more. What it wrote in place stays.
// - Numbers are big-endian.
//
//     header  0 magic (8) · 8 version (4) · 12 zeros (4) · 16 size of the image before (8) · 24 and after (8)
//             32 digest of the metadata after (32) · 64 SHA-256 of bytes 0 to 63 and of all records (32)
//     record  0 offset (8) · 8 length (4) · 12 zeros (4) · 16 the bytes that were there

import { createHash } from "node:crypto";
import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import type { Qcow2Link } from "../../chain/chain-link.ts";
import { readBytes } from "../../read-header.ts";
import { withCalls } from "../../watched-file.ts";
import { checkQcow2 } from "../check/check.ts";

const MAGIC = Buffer.from("imgtxund");
const VERSION = 1;
const HEADER_BYTES = 96;
const DIGESTED_BYTES = 64;
const RECORD_HEAD_BYTES = 16;
const PAGE_BYTES = 4096;
/** Of one write that is kept, rounded to pages. */
const RECORD_BYTES_MAX = 4 * 1024 * 1024;

/** Has the change made over the link's file, and keeps what it replaces in a file, which is empty. */
export async function keepUndo(
  link: Qcow2Link,
  kept: StorageFile,
  change: (link: Qcow2Link) => Promise<void>,
): Promise<void> {
  const { file } = link;
  const { sizeBytes } = await file.stat();
  const keeper = new Keeper(file, kept, sizeBytes);
  await change({ ...link, file: keeper.watched() });
  await keeper.finish();
}

class Keeper {
  readonly #file: StorageFile;
  readonly #kept: StorageFile;
  readonly #sizeBytes: number;
  readonly #pages = new Set<number>();
  readonly #digest = createHash("sha256");
  #end = HEADER_BYTES;

  constructor(file: StorageFile, kept: StorageFile, sizeBytes: number) {
    this.#file = file;
    this.#kept = kept;
    this.#sizeBytes = sizeBytes;
  }

  /** The file, with what each write replaces kept first. */
  watched(): StorageFile {
    const file = this.#file;
    return withCalls(file, {
      write: async (source, offset) => {
        await this.#keep(offset, offset + source.length);
        await file.write(source, offset);
      },
      truncate: async (sizeBytes) => {
        await this.#keep(sizeBytes, this.#sizeBytes);
        await file.truncate(sizeBytes);
      },
      punchHole: async (range) => {
        await this.#keep(range.start, range.start + range.lengthBytes);
        await file.punchHole(range);
      },
    });
  }

  async finish(): Promise<void> {
    const header = new Uint8Array(HEADER_BYTES);
    const view = new DataView(header.buffer);
    header.set(MAGIC);
    view.setUint32(8, VERSION);
    view.setBigUint64(16, BigInt(this.#sizeBytes));
    view.setBigUint64(24, BigInt((await this.#file.stat()).sizeBytes));
    header.set(await digestMetadata(this.#file), 32);
    header.set(joinDigests(header, this.#digest.digest()), DIGESTED_BYTES);
    await this.#kept.write(header, 0);
  }

  async #keep(start: number, end: number): Promise<void> {
    const stop = Math.ceil(Math.min(end, this.#sizeBytes) / PAGE_BYTES);
    for (let page = Math.floor(start / PAGE_BYTES); page < stop; ) {
      let next = page;
      while (next < stop && (next - page) * PAGE_BYTES < RECORD_BYTES_MAX && !this.#pages.has(next))
        next += 1;
      if (next > page) await this.#append(page, next);
      page = Math.max(next, page + 1);
    }
  }

  async #append(first: number, end: number): Promise<void> {
    const offset = first * PAGE_BYTES;
    const bytes = await readBytes(this.#file, offset, Math.min(end * PAGE_BYTES, this.#sizeBytes) - offset);
    const record = new Uint8Array(RECORD_HEAD_BYTES + bytes.length);
    const view = new DataView(record.buffer);
    view.setBigUint64(0, BigInt(offset));
    view.setUint32(8, bytes.length);
    record.set(bytes, RECORD_HEAD_BYTES);
    await this.#kept.write(record, this.#end);
    this.#digest.update(record);
    this.#end += record.length;
    for (let page = first; page < end; page += 1) this.#pages.add(page);
  }
}

/** E_CORRUPT for a file that is not one of these, whole; E_CHANGED where the image is not what the repair left. */
export async function judgeUndo(link: Qcow2Link, kept: StorageFile): Promise<void> {
  const header = await readHeader(kept);
  await readRecords(kept, header, () => Promise.resolve());
  const { sizeBytes } = await link.file.stat();
  const isSame =
    sizeBytes === header.sizeAfter &&
    Buffer.compare(await digestMetadata(link.file), header.bytes.subarray(32, DIGESTED_BYTES)) === 0;
  if (isSame) return;
  throw new ImgtxError(
    "E_CHANGED",
    "the image is not what the repair left: it was changed since, or it is another",
    {
      image: link.path,
      hint: "what was allocated since would be lost; nothing takes that repair back any more",
    },
  );
}

/** Puts back what a repair replaced, in the link's file. judgeUndo has let both pass; E_CORRUPT where the kept one has changed. */
export async function playUndo({ file }: Qcow2Link, kept: StorageFile): Promise<void> {
  const header = await readHeader(kept);
  await readRecords(kept, header, async (bytes, offset) => await file.write(bytes, offset));
  if (header.sizeBefore !== header.sizeAfter) await file.truncate(header.sizeBefore);
}

interface UndoHeader {
  readonly bytes: Uint8Array;
  readonly sizeBefore: number;
  readonly sizeAfter: number;
}

async function readHeader(kept: StorageFile): Promise<UndoHeader> {
  const bytes = await readBytes(kept, 0, HEADER_BYTES);
  if (bytes.length < HEADER_BYTES || Buffer.compare(bytes.subarray(0, 8), MAGIC) !== 0) {
    throw notOne(kept, "it is no file of --keep-undo");
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(8) !== VERSION) {
    throw new ImgtxError("E_UNSUPPORTED", "it was written by a later version of imgtx", { image: kept.path });
  }
  const [sizeBefore, sizeAfter] = [Number(view.getBigUint64(16)), Number(view.getBigUint64(24))];
  return { bytes, sizeBefore, sizeAfter };
}

/** All of them; E_CORRUPT, maybe after the last, where they are not what was kept. */
async function readRecords(
  kept: StorageFile,
  { bytes: header, sizeBefore }: UndoHeader,
  take: (bytes: Uint8Array, offset: number) => Promise<void>,
): Promise<void> {
  const digest = createHash("sha256");
  const { sizeBytes } = await kept.stat();
  for (let at = HEADER_BYTES; at < sizeBytes; ) {
    const head = await readBytes(kept, at, RECORD_HEAD_BYTES);
    if (head.length < RECORD_HEAD_BYTES) throw notOne(kept, "it is cut off");
    const view = new DataView(head.buffer, head.byteOffset, head.byteLength);
    const [offset, lengthBytes] = [Number(view.getBigUint64(0)), view.getUint32(8)];
    if (lengthBytes > RECORD_BYTES_MAX || offset + lengthBytes > sizeBefore)
      throw notOne(kept, "it is damaged");
    const record = await readBytes(kept, at, RECORD_HEAD_BYTES + lengthBytes);
    if (record.length < RECORD_HEAD_BYTES + lengthBytes) throw notOne(kept, "it is cut off");
    digest.update(record);
    await take(record.subarray(RECORD_HEAD_BYTES), offset);
    at += record.length;
  }
  const isWhole = Buffer.compare(joinDigests(header, digest.digest()), header.subarray(DIGESTED_BYTES)) === 0;
  if (!isWhole) throw notOne(kept, "it is damaged");
}

function joinDigests(header: Uint8Array, records: Uint8Array): Uint8Array {
  return createHash("sha256").update(header.subarray(0, DIGESTED_BYTES)).update(records).digest();
}

/** Of all that a check reads, in its order: header, tables, refcounts, snapshots, bitmaps. */
async function digestMetadata(file: StorageFile): Promise<Uint8Array> {
  const digest = createHash("sha256");
  const watched = withCalls(file, {
    read: async (target, offset) => {
      const count = await file.read(target, offset);
      digest.update(`${offset}:${count}:`).update(target.subarray(0, count));
      return count;
    },
  });
  await checkQcow2(watched, () => undefined);
  return digest.digest();
}

function notOne(kept: StorageFile, why: string): ImgtxError {
  return new ImgtxError("E_CORRUPT", `the repair can't be taken back by it: ${why}`, { image: kept.path });
}
