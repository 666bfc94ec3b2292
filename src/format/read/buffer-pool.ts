// Buffers of one size, used again: memory that is new costs a page fault for every 4 KiB, which takes as long
// as reading into it does.

export class BufferPool {
  readonly #sizeBytes: number;
  readonly #free: Uint8Array[] = [];

  constructor(sizeBytes: number) {
    this.#sizeBytes = sizeBytes;
  }

  /** Lends a buffer for as long as the work takes; what is in it is left from before. */
  async lend<T>(work: (buffer: Uint8Array) => Promise<T>): Promise<T> {
    const buffer = this.#free.pop() ?? Buffer.allocUnsafeSlow(this.#sizeBytes);
    try {
      return await work(buffer);
    } finally {
      this.#free.push(buffer);
    }
  }
}
