// What a library of C functions is to the rest, whichever runtime calls them.

/** A pointer that a library gave. */
export type NativePointer = bigint;
export type NativeValue =
  | number
  | string
  | Uint8Array
  | BigInt64Array
  | BigUint64Array
  | NativePointer
  | null;

/** A bigint for a pointer, and for a number that is no safe integer. */
export type NativeResult = number | bigint;

/**
 * A function that is bound. Most of those of the C library return -1 for an error, whose number errno() gives right
 * after. `async` calls it on another thread where the runtime can; errno can't be asked for then.
 */
export interface NativeFunction {
  (...values: NativeValue[]): NativeResult;
  async(...values: [...NativeValue[], (error: Error | null, result: NativeResult) => void]): void;
}

export interface NativeLibrary {
  /** Takes a prototype in C, in which `str` is a text. Throws where the library has no such function. */
  func(prototype: string): NativeFunction;
}

export interface Foreign {
  /** null is the C library. Throws where there is none of that name. */
  load(name: string | null): NativeLibrary;
  /** Where the bytes lie in memory. */
  address(bytes: Uint8Array): NativePointer;
  errno(): number;
}
