// What a file may offer to those who compare its bytes with another's. A storage may leave out any of it.

/** As many bytes of two files. */
export interface RangePair {
  readonly files: readonly [ComparableFile, ComparableFile];
  readonly offsets: readonly [number, number];
  readonly lengthBytes: number;
}

export interface ComparableFile {
  /**
   * Fills target from offset with what is in memory, without waiting. Returns the bytes read: fewer, or 0, where the rest would
   * have to be waited for, and for any error.
   */
  readNow?(target: Uint8Array, offset: number): number;
  /**
   * Has another thread compare the ranges, of files of this kind. A yes alone counts: false also for what can't be read, or
   * lies past an end. Undefined, and nothing done, where that thread has enough to do, or there is none (yet).
   */
  areEqualElsewhere?(ranges: readonly RangePair[]): Promise<boolean> | undefined;
  /** Its descriptor, for a thread that reads it, or a program that is to hold its locks. Left out where it has none. */
  readonly open?: () => number;
}
