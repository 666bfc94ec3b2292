// Doing several things at once, without leaving one behind.

/**
 * Waits for all of them, and only then throws the first error. Promise.all would throw while the others
 * still write: into files that the caller, undoing what failed, closes or removes.
 */
export async function settleAll(work: readonly Promise<unknown>[]): Promise<void> {
  const results = await Promise.allSettled(work);
  const failed = results.find((result) => result.status === "rejected");
  if (failed) throw failed.reason;
}
