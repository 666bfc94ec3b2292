// Calls of a C library on Node's thread pool, for work that takes long.
//
// Invariants
// - What a call reads and writes is kept from the garbage collector until it has ended: koffi does not keep it.
// - No more calls at once than koffi has memory ready for: else they take 2.6 times the processor time.

import type { NativeFunction, NativeResult, NativeValue } from "./foreign-library.ts";

const inUse = new Set<readonly NativeValue[]>();
/** Beyond what koffi keeps memory ready for, each call would get its own from the system: twice the time. */
const CALLS_AT_ONCE = 6;
const waiting: (() => void)[] = [];

/** What the function returns. It runs on another thread: errno can't be asked for. */
export async function callInPool(
  call: NativeFunction,
  values: readonly NativeValue[],
): Promise<NativeResult> {
  if (inUse.size >= CALLS_AT_ONCE) {
    await new Promise<void>((resolve) => {
      waiting.push(resolve);
    });
  }
  inUse.add(values);
  return new Promise((resolve, reject) => {
    call.async(...values, (error, result) => {
      inUse.delete(values);
      waiting.shift()?.();
      if (error === null) resolve(result);
      else reject(error);
    });
  });
}
