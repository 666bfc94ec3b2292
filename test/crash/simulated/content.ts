// The bytes of one simulated file, cheap to copy.
//
// Invariants
// - Copies share chunks. A chunk is written to only through the Content whose token it carries, and a
//   fork takes the token away from both sides, so no copy ever sees another's later writes.
// - A chunk that is not there reads as zeros: it is a hole. Bytes of a chunk past the end of the
//   file are always zero, so that growing the file again shows zeros and not what was cut off.
// - Two contents of equal bytes have equal digests, whether they have holes or zeros there.

import { hash } from "node:crypto";
import { isFilledWith } from "../../helpers/filled.ts";

/** As ext4 with its default block size; holes start and end on it. */
const CHUNK_BYTES = 4096;

interface Chunk {
  readonly bytes: Uint8Array;
  readonly token: object;
  digest: string | undefined;
}

const NO_DATA = "-";

export class Content {
  #sizeBytes = 0;
  #chunks = new Map<number, Chunk>();
  #token = {};
  #digest: string | undefined;

  static of(bytes: Uint8Array): Content {
    const content = new Content();
    content.write(bytes, 0);
    return content;
  }

  get sizeBytes(): number {
    return this.#sizeBytes;
  }

  get allocatedBytes(): number {
    return this.#chunks.size * CHUNK_BYTES;
  }

  fork(): Content {
    const copy = new Content();
    copy.#sizeBytes = this.#sizeBytes;
    copy.#chunks = new Map(this.#chunks);
    copy.#digest = this.#digest;
    this.#token = {};
    return copy;
  }

  /** Fills target from offset; returns the bytes read, fewer only at the end of the file. */
  read(target: Uint8Array, offset: number): number {
    const end = Math.min(offset + target.length, this.#sizeBytes);
    let at = offset;
    while (at < end) {
      const index = Math.floor(at / CHUNK_BYTES);
      const within = at - index * CHUNK_BYTES;
      const count = Math.min(CHUNK_BYTES - within, end - at);
      const chunk = this.#chunks.get(index);
      const piece = target.subarray(at - offset, at - offset + count);
      if (chunk) piece.set(chunk.bytes.subarray(within, within + count));
      else piece.fill(0);
      at += count;
    }
    return Math.max(0, end - offset);
  }

  slice(offset: number, lengthBytes: number): Uint8Array {
    const bytes = new Uint8Array(Math.max(0, Math.min(lengthBytes, this.#sizeBytes - offset)));
    this.read(bytes, offset);
    return bytes;
  }

  write(source: Uint8Array, offset: number): void {
    let at = 0;
    while (at < source.length) {
      const index = Math.floor((offset + at) / CHUNK_BYTES);
      const within = offset + at - index * CHUNK_BYTES;
      const count = Math.min(CHUNK_BYTES - within, source.length - at);
      this.#own(index).bytes.set(source.subarray(at, at + count), within);
      at += count;
    }
    this.#sizeBytes = Math.max(this.#sizeBytes, offset + source.length);
    this.#digest = undefined;
  }

  truncate(sizeBytes: number): void {
    if (sizeBytes < this.#sizeBytes) this.#zero(sizeBytes, this.#sizeBytes);
    this.#sizeBytes = sizeBytes;
    this.#digest = undefined;
  }

  punch(start: number, lengthBytes: number): void {
    this.#zero(start, Math.min(start + lengthBytes, this.#sizeBytes));
    this.#digest = undefined;
  }

  seekData(offset: number): number | undefined {
    for (let at = offset; at < this.#sizeBytes; at = nextChunk(at)) {
      if (this.#chunks.has(Math.floor(at / CHUNK_BYTES))) return at;
    }
    return undefined;
  }

  seekHole(offset: number): number {
    for (let at = offset; at < this.#sizeBytes; at = nextChunk(at)) {
      if (!this.#chunks.has(Math.floor(at / CHUNK_BYTES))) return at;
    }
    return Math.max(offset, this.#sizeBytes);
  }

  digest(): string {
    if (this.#digest !== undefined) return this.#digest;
    let chunks = `${this.#sizeBytes}`;
    for (const index of [...this.#chunks.keys()].sort((one, other) => one - other)) {
      const chunk = this.#chunks.get(index);
      const digest = chunk === undefined ? NO_DATA : digestOfChunk(chunk);
      if (digest !== NO_DATA) chunks += `;${index}:${digest}`;
    }
    this.#digest = hash("sha1", chunks, "base64");
    return this.#digest;
  }

  #zero(start: number, end: number): void {
    for (let at = start; at < end; at = nextChunk(at)) {
      const index = Math.floor(at / CHUNK_BYTES);
      if (!this.#chunks.has(index)) continue;
      const from = at - index * CHUNK_BYTES;
      const to = Math.min(CHUNK_BYTES, end - index * CHUNK_BYTES);
      if (from === 0 && (to === CHUNK_BYTES || end >= this.#sizeBytes)) this.#chunks.delete(index);
      else this.#own(index).bytes.fill(0, from, to);
    }
  }

  #own(index: number): Chunk {
    const present = this.#chunks.get(index);
    if (present && present.token === this.#token) {
      present.digest = undefined;
      return present;
    }
    const bytes = new Uint8Array(CHUNK_BYTES);
    if (present) bytes.set(present.bytes);
    const chunk: Chunk = { bytes, token: this.#token, digest: undefined };
    this.#chunks.set(index, chunk);
    return chunk;
  }
}

function nextChunk(offset: number): number {
  return (Math.floor(offset / CHUNK_BYTES) + 1) * CHUNK_BYTES;
}

function digestOfChunk(chunk: Chunk): string {
  chunk.digest ??= isFilledWith(0, chunk.bytes) ? NO_DATA : hash("sha1", chunk.bytes, "base64");
  return chunk.digest;
}
