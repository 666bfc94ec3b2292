// Doing several things at once, without leaving one behind.

/**
 * Waits for all of them, and only then throws the first error. Promise.all would throw while the others
 * still write: into files that the caller, undoing what failed, closes or removes.
 */
export async function settleAll<T>(work: readonly Promise<T>[]): Promise<T[]> {
  const results = await Promise.allSettled(work);
  return results.map((result) => {
    if (result.status === "rejected") throw result.reason;
    return result.value;
  });
}
