// Doing many things, a few at a time.

import { settleAll } from "../../errors/index.ts";

/**
 * Works on the items in their order, so many at once. After a failure none is begun any more; the first error
 * is thrown when those under way have ended, since they may still write into memory of the caller's.
 */
export async function forEachLimited<T>(
  items: readonly T[],
  limit: number,
  work: (item: T) => Promise<void>,
): Promise<void> {
  let next = 0;
  let hasFailed = false;
  async function takeItems(): Promise<void> {
    while (next < items.length && !hasFailed) {
      const item = items[next] as T;
      next += 1;
      try {
        await work(item);
      } catch (error) {
        hasFailed = true;
        throw error;
      }
    }
  }
  await settleAll(Array.from({ length: Math.min(limit, items.length) }, takeItems));
}

/** What goes wrong is for whoever waits for the work; in the set it only makes room. */
export function trackIn<T>(set: Set<Promise<void>>, work: Promise<T>): Promise<T> {
  const settled = work.then(
    () => undefined,
    () => undefined,
  );
  set.add(settled);
  void settled.then(() => set.delete(settled));
  return work;
}
