// What the guest of the differential fuzzer must read: its bytes, and which of them are not known, since a
// discard may leave what was there, or zeros, or what shows from below.

import type { GuestRequest } from "./differential-tools.ts";

export class GuestModel {
  readonly #bytes: Buffer;
  /** 1 for a byte that may read as anything. */
  readonly #isOpen: Buffer;

  constructor(sizeBytes: number, bytes = Buffer.alloc(sizeBytes), isOpen = Buffer.alloc(sizeBytes)) {
    this.#bytes = bytes;
    this.#isOpen = isOpen;
  }

  get sizeBytes(): number {
    return this.#bytes.length;
  }

  copy(): GuestModel {
    return this.resized(this.sizeBytes);
  }

  /** Cut off, or with zeros past the end. */
  resized(sizeBytes: number): GuestModel {
    const fit = (source: Buffer): Buffer<ArrayBuffer> => {
      const target = Buffer.alloc(sizeBytes);
      source.copy(target);
      return target;
    };
    return new GuestModel(sizeBytes, fit(this.#bytes), fit(this.#isOpen));
  }

  apply({ kind, start, lengthBytes, byte }: GuestRequest): void {
    const end = start + lengthBytes;
    this.#isOpen.fill(kind === "discard" ? 1 : 0, start, end);
    this.#bytes.fill(kind === "write" || kind === "compressed" ? byte : 0, start, end);
  }

  /** In words, where content is not what it must be; undefined where it is. */
  findDifference(content: Buffer): string | undefined {
    if (content.length !== this.sizeBytes) return `a disk of ${content.length} bytes, not ${this.sizeBytes}`;
    if (content.equals(this.#bytes)) return undefined;
    for (let at = 0; at < content.length; at += 1) {
      if (content[at] === this.#bytes[at] || this.#isOpen[at] === 1) continue;
      return `byte ${at} is ${content[at]}, not ${this.#bytes[at]}`;
    }
    return undefined;
  }
}
