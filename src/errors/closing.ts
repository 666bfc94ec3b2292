// What is open is closed, whatever becomes of the work on it.

interface Open {
  close(): Promise<void>;
}

/** Closes it when the work on it has ended, well or not. */
export async function whileOpen<O extends Open, T>(open: O, work: (open: O) => Promise<T> | T): Promise<T> {
  try {
    return await work(open);
  } finally {
    await open.close();
  }
}

/** Closes it where the work on it fails: what comes of that goes on to use it, and closes it. */
export async function elseClosed<O extends Open, T>(open: O, work: (open: O) => Promise<T> | T): Promise<T> {
  try {
    return await work(open);
  } catch (error) {
    await open.close();
    throw error;
  }
}
