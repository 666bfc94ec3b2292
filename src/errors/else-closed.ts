// What is open is closed where the work on it fails.

/** What comes of something open, which stays open for that; it is closed where nothing comes of it. */
export async function elseClosed<Open extends { close(): Promise<void> }, T>(
  open: Open,
  work: (open: Open) => Promise<T> | T,
): Promise<T> {
  try {
    return await work(open);
  } catch (error) {
    await open.close();
    throw error;
  }
}
