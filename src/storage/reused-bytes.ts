// Memory for what is read and written one after the other: frames and changes of a redo log, which may be gigabytes
// altogether. New arrays for each would wait for a collector that looks at the heap alone, and comes too late for them.

export class ReusedBytes {
  #bytes = new Uint8Array(0);

  /** So many bytes, with whatever was in them. They are the caller's until somebody takes again. */
  take(lengthBytes: number): Uint8Array {
    if (this.#bytes.length < lengthBytes) this.#bytes = new Uint8Array(lengthBytes);
    return this.#bytes.subarray(0, lengthBytes);
  }
}
