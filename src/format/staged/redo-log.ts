// The redo log of one image: an append-only file beside it that holds what is to be written into it after the commit
// mark, and an index of that in memory.
//
// Invariants
// - Nothing but append and the cut at opening changes the file, and nothing before `end` is ever written again.
// - The index is what the frames up to `end` say. A frame that could not be written whole is not in it, and the next
//   one takes its place.
// - What a file holds past an end that the caller knows (it has it from a journal) is not looked at. What lies
//   before it is used only when all of it has been checked.
// - Calls that append come one after the other; reads may overlap with them.

import { posix } from "node:path";
import { elseClosed, ImgtxError } from "../../errors/index.ts";
import {
  DEVICES,
  kindOfFileSystem,
  ReusedBytes,
  type Storage,
  type StorageFile,
} from "../../storage/index.ts";
import { offsetBy } from "../../units/index.ts";
import {
  decodeRecord,
  digestIn,
  encodeFrame,
  encodeHeader,
  FRAME_HEAD_BYTES,
  FRAME_PAGES_MAX,
  type FrameHead,
  type LogHeader,
  type PageRecord,
  RECORD_BYTES,
  RECORD_CONTENT_AT,
  type RedoIdentity,
} from "./frames.ts";
import { fromHex, inLog, type LogEnd, LogScan, toHex } from "./log-scan.ts";
import { PageMap, POSITION_MAX } from "./page-map.ts";
import { type LogPosition, PAGE_BYTES, PAGE_DIGEST_BYTES, type PageIndex } from "./sectors.ts";

const LOG_MODE = 0o600;

/** The name of the log of the nth image that a transaction changes. */
export function redoLogName(transaction: string, number: number): string {
  return `.imgtx-${transaction}-${number}.redo`;
}

/** Of a log of any transaction. */
export const LOG_NAME = /^\.imgtx-[a-z0-9]+-(?:0|[1-9]\d{0,8})\.redo$/;

/** Whether it is the name of a log of this transaction. */
export function isRedoLogName(transaction: string, name: string): boolean {
  const before = `.imgtx-${transaction}-`;
  return name.startsWith(before) && /^(?:0|[1-9]\d{0,8})\.redo$/.test(name.slice(before.length));
}

/** Removes a log, durably; one that is not there is no error. Nobody may need it any more. */
export async function removeRedoLog(storage: Storage, path: string): Promise<void> {
  if ((await storage.statLink(path)) === undefined) return;
  await storage.removeFile(path);
  await storage.flushFolder(posix.dirname(path), "redo log removed");
}

const NOTHING = new Uint8Array(0);

export class RedoLog {
  readonly path: string;
  readonly header: LogHeader;
  /** Whether the folder was flushed since it has the log: seal does so, once for all logs in one. */
  isNameDurable = false;
  /** Whether it is of a block device, whose size no log changes: that may grow while the log gets longer. */
  readonly isOfDevice: boolean;
  readonly #file: StorageFile;
  readonly #start: LogEnd;
  readonly #map = new PageMap();
  /** Of the frame that is appended. */
  readonly #frame = new ReusedBytes();
  #end: LogEnd;
  #sizeBytes: number;
  #peakBytes: number;

  private constructor(file: StorageFile, header: LogHeader, start: LogEnd) {
    this.path = file.path;
    this.header = header;
    this.isOfDevice = kindOfFileSystem(header.identity.fileSystemId).name === DEVICES;
    this.#file = file;
    this.#start = start;
    this.#end = start;
    this.#sizeBytes = header.baseSizeBytes;
    this.#peakBytes = header.baseSizeBytes;
  }

  /** A new log at a path that must not exist, open. */
  static async create(storage: Storage, path: string, header: LogHeader): Promise<RedoLog> {
    return await elseClosed(await storage.createFile(path, LOG_MODE), async (file) => {
      const bytes = encodeHeader(header);
      await file.write(bytes, 0);
      const start = { position: bytes.length, digest: toHex(digestIn(bytes)) };
      return new RedoLog(file, header, start);
    });
  }

  /**
   * A log that is there, up to an end that somebody kept: all before it is checked, and what lies after it is cut off
   * where the log is opened for writing. E_CORRUPT with the offset of the damage; E_UNSUPPORTED for a later version.
   */
  static async open(storage: Storage, path: string, end: LogEnd, access: "read" | "write"): Promise<RedoLog> {
    const file = await storage.openFile(path, access, { refuseSymlink: true });
    try {
      const scan = new LogScan(file, end.position);
      const { header, end: start } = await scan.readHeader();
      const log = new RedoLog(file, header, start);
      await log.#replay(scan, end);
      if (access === "write" && (await file.stat()).sizeBytes > end.position) {
        await file.truncate(end.position);
      }
      return log;
    } catch (error) {
      await file.close();
      throw inLog(error, path);
    }
  }

  get identity(): RedoIdentity {
    return this.header.identity;
  }

  /** As large as this the image is before the log is applied, or larger where it is a block device. */
  get baseSizeBytes(): number {
    return this.isOfDevice ? this.#sizeBytes : this.header.baseSizeBytes;
  }

  /** Up to here the log is whole, in this process: what seal makes durable. */
  get end(): LogEnd {
    return this.#end;
  }

  /** Of the image, as the log leaves it. Of a block device that of the last change: no page lies past it. */
  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  /** The largest size that the image had, or was to have. Past sizeBytes there may be what is to read as zeros. */
  get peakBytes(): number {
    return this.#peakBytes;
  }

  get map(): PageMap {
    return this.#map;
  }

  /** At most FRAME_PAGES_MAX of them, by ascending pages. */
  async appendPages(records: readonly PageRecord[]): Promise<void> {
    const isAscending = records.every(
      ({ page }, index) => index === 0 || page > (records[index - 1]?.page ?? page),
    );
    if (records.length === 0 || records.length > FRAME_PAGES_MAX || !isAscending) {
      throw this.#impossible(`${records.length} pages in a frame, in no order`);
    }
    await this.#append({ kind: "pages", count: records.length }, records);
  }

  /** digests: PAGE_DIGEST_BYTES for each page, or nothing. */
  async appendHole(first: PageIndex, pages: number, digests: Uint8Array): Promise<void> {
    const count = digests.length / PAGE_DIGEST_BYTES;
    if (pages < 1 || (count !== 0 && count !== pages)) {
      throw this.#impossible(`a hole of ${pages} pages with ${count} digests`);
    }
    await this.#append({ kind: "hole", first, pages, digests: count }, digests);
  }

  async appendSize(sizeBytes: number): Promise<void> {
    await this.#append({ kind: "size", sizeBytes }, NOTHING);
  }

  /** Pages side by side as they are in the image, from this one on; at most FRAME_PAGES_MAX. */
  async appendReplaced(first: PageIndex, contents: Uint8Array): Promise<void> {
    const count = contents.length / PAGE_BYTES;
    if (!this.header.keepsReplaced || !Number.isInteger(count) || count < 1 || count > FRAME_PAGES_MAX) {
      throw this.#impossible(`${count} pages of what is replaced`);
    }
    await this.#append({ kind: "replaced", first, count }, contents);
  }

  /** The page as it was in the image. Undefined where the log does not have it. */
  async readReplaced(page: PageIndex): Promise<Uint8Array | undefined> {
    const position = this.#map.findReplaced(page);
    if (position === undefined) return undefined;
    const bytes = new Uint8Array(PAGE_BYTES);
    await this.#read(bytes, position);
    return bytes;
  }

  /** What a page was to replace, without its content. */
  async readRecordHead(position: LogPosition): Promise<PageRecord> {
    const bytes = new Uint8Array(RECORD_CONTENT_AT);
    await this.#read(bytes, position);
    return decodeRecord(bytes);
  }

  /** Records that lie side by side, from this one on. Their parts share the memory. */
  async readRecords(position: LogPosition, count: number, memory: ReusedBytes): Promise<PageRecord[]> {
    const bytes = memory.take(count * RECORD_BYTES);
    await this.#read(bytes, position);
    return Array.from({ length: count }, (_, index) =>
      decodeRecord(bytes.subarray(index * RECORD_BYTES, (index + 1) * RECORD_BYTES)),
    );
  }

  /** A part of the page whose record is there. */
  async readContent(position: LogPosition, target: Uint8Array, from: number): Promise<void> {
    if (from + target.length > PAGE_BYTES) throw new RangeError("a page has no bytes there");
    await this.#read(target, offsetBy(position, RECORD_CONTENT_AT + from));
  }

  async readDigests(position: LogPosition, pages: number): Promise<Uint8Array> {
    const digests = new Uint8Array(pages * PAGE_DIGEST_BYTES);
    await this.#read(digests, position);
    return digests;
  }

  /** What was appended is durable when this returns. */
  async flush(): Promise<void> {
    await this.#file.flush("redo log");
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  #impossible(what: string): ImgtxError {
    return new ImgtxError("E_INTERNAL", `the redo log would get ${what}`, { image: this.path });
  }

  async #append(head: FrameHead, payload: Uint8Array | readonly PageRecord[]): Promise<void> {
    const { position } = this.#end;
    const frame = encodeFrame(head, payload, fromHex(this.#end.digest), this.#frame);
    if (position + frame.length > POSITION_MAX) {
      throw new ImgtxError("E_UNSUPPORTED", "a redo log can't be longer than 32 TiB", { image: this.path });
    }
    await this.#file.write(frame, position);
    this.#end = { position: position + frame.length, digest: toHex(digestIn(frame)) };
    this.#index(head, frame.subarray(FRAME_HEAD_BYTES), (position + FRAME_HEAD_BYTES) as LogPosition);
  }

  async #replay(scan: LogScan, end: LogEnd): Promise<void> {
    for await (const frame of scan.frames(this.#start)) {
      this.#end = frame.end;
      this.#index(frame.head, frame.payload, frame.position);
    }
    if (this.#end.position === end.position && this.#end.digest === end.digest) return;
    throw new ImgtxError("E_CORRUPT", "the redo log can't be used: it is not the one that was written", {
      offset: this.#end.position,
    });
  }

  #index(head: FrameHead, payload: Uint8Array, position: LogPosition): void {
    if (head.kind === "size") {
      this.#sizeBytes = head.sizeBytes;
      this.#peakBytes = Math.max(this.#peakBytes, head.sizeBytes);
    } else if (head.kind === "hole") {
      this.#map.setHole(head.first, offsetBy(head.first, head.pages), head.digests === 0 ? 0 : position);
    } else if (head.kind === "replaced") {
      for (let index = 0; index < head.count; index += 1) {
        this.#map.setReplaced(offsetBy(head.first, index), offsetBy(position, index * PAGE_BYTES));
      }
    } else {
      for (let index = 0; index < head.count; index += 1) {
        const at = index * RECORD_BYTES;
        const { page, changed } = decodeRecord(payload.subarray(at, at + RECORD_BYTES));
        this.#map.setPage({ page, position: offsetBy(position, at), changed });
      }
    }
  }

  /** What the index leads to is there: less is damage since the log was opened. */
  async #read(target: Uint8Array, position: LogPosition): Promise<void> {
    if ((await this.#file.read(target, position)) === target.length) return;
    throw new ImgtxError("E_CORRUPT", "the redo log was cut off while it was in use", {
      image: this.path,
      offset: position,
    });
  }
}
