// Reads a redo log from its start, frame by frame, and checks each by its digest: in a window of memory, whatever
// the log's length.
//
// Invariant: nothing of a frame is believed before its digest was checked, but for its length, which is bounded.

import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import {
  damaged,
  decodeFrameHead,
  decodeHeader,
  digestIn,
  FRAME_HEAD_BYTES,
  type FrameHead,
  HEADER_FIXED_BYTES,
  isChained,
  type LogHeader,
  measureHeader,
  measurePayload,
} from "./frames.ts";
import type { LogPosition } from "./sectors.ts";

/** A place in a log, and the digest of all before it. Plain data: a journal keeps it. */
export interface LogEnd {
  readonly position: number;
  /** SHA-256, in hexadecimal digits. */
  readonly digest: string;
}

export interface ScannedFrame {
  readonly head: FrameHead;
  /** Of its payload. */
  readonly position: LogPosition;
  /** Valid until the next frame is asked for. */
  readonly payload: Uint8Array;
  /** After it. */
  readonly end: LogEnd;
}

const WINDOW_BYTES = 1024 * 1024;

export class LogScan {
  readonly #file: StorageFile;
  readonly #endAt: number;
  readonly #window: Uint8Array;
  #windowAt = 0;
  #windowBytes = 0;

  /** endAt: what lies after it is not read. */
  constructor(file: StorageFile, endAt: number) {
    this.#file = file;
    this.#endAt = endAt;
    this.#window = new Uint8Array(Math.min(WINDOW_BYTES, endAt));
  }

  async readHeader(): Promise<{ header: LogHeader; end: LogEnd }> {
    const fixed = await this.#need(0, HEADER_FIXED_BYTES, 0);
    const position = measureHeader(fixed);
    const bytes = await this.#need(0, position, 0);
    return { header: decodeHeader(bytes), end: { position, digest: toHex(digestIn(bytes)) } };
  }

  /** All frames from there to the end. E_CORRUPT, with the place of the frame, for what is not as it was written. */
  async *frames(from: LogEnd): AsyncGenerator<ScannedFrame> {
    let end = from;
    while (end.position < this.#endAt) {
      const at = end.position;
      const head = decodeFrameHead(await this.#need(at, FRAME_HEAD_BYTES, at));
      if (head === undefined) throw damaged("a frame is damaged", at);
      const lengthBytes = FRAME_HEAD_BYTES + measurePayload(head);
      const bytes = await this.#need(at, lengthBytes, at);
      if (!isChained(bytes, fromHex(end.digest))) throw damaged("a frame is damaged", at);
      end = { position: at + lengthBytes, digest: toHex(digestIn(bytes)) };
      const position = (at + FRAME_HEAD_BYTES) as LogPosition;
      yield { head, position, payload: bytes.subarray(FRAME_HEAD_BYTES), end };
    }
  }

  /** Bytes of the file, inside the window. frameAt: where what they belong to begins. */
  async #need(offset: number, lengthBytes: number, frameAt: number): Promise<Uint8Array> {
    if (offset + lengthBytes > this.#endAt) throw damaged("a frame ends past the end of the log", frameAt);
    if (offset < this.#windowAt || offset + lengthBytes > this.#windowAt + this.#windowBytes) {
      const wanted = this.#window.subarray(0, this.#endAt - offset);
      this.#windowAt = offset;
      this.#windowBytes = await this.#file.read(wanted, offset);
    }
    const start = offset - this.#windowAt;
    if (start + lengthBytes > this.#windowBytes) throw damaged("its file is cut off", frameAt);
    return this.#window.subarray(start, start + lengthBytes);
  }
}

export function toHex(digest: Uint8Array): string {
  return Buffer.from(digest).toString("hex");
}

export function fromHex(digest: string): Uint8Array {
  return Buffer.from(digest, "hex");
}

/** The same error with the log's name, and what may help. */
export function inLog(error: unknown, log: string): unknown {
  if (!(error instanceof ImgtxError) || error.image !== undefined) return error;
  if (error.code !== "E_CORRUPT") return error.with({ image: log });
  return error.with({
    image: log,
    hint: "put the log back from a copy; nothing is written to its image before",
  });
}
