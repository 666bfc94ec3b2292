// Replaces a small file so that a crash leaves the old content or the new, never a mixture.

import type { Storage } from "../storage/index.ts";

export interface ReplacePurposes {
  readonly content: string;
  readonly name: string;
}

/**
 * Writes bytes beside path, flushes them, moves them over path, and flushes the folder. A file that an
 * earlier crash left beside it is cleared away first: nothing refers to it.
 */
export async function replaceFile(
  storage: Storage,
  path: string,
  bytes: Uint8Array,
  mode: number,
  purposes: ReplacePurposes,
): Promise<void> {
  const fresh = `${path}.new`;
  if (await storage.statLink(fresh)) await storage.removeFile(fresh);
  const file = await storage.createFile(fresh, mode);
  try {
    await file.write(bytes, 0);
    // Flush before the rename: a name that is durable before its content would show a torn file.
    await file.flush(purposes.content);
  } finally {
    await file.close();
  }
  await storage.rename(fresh, path);
  await storage.flushFolder(folderOf(path), purposes.name);
}

export async function readWholeFile(storage: Storage, path: string, limitBytes: number): Promise<Uint8Array> {
  const file = await storage.openFile(path, "read");
  try {
    const { sizeBytes } = await file.stat();
    const bytes = new Uint8Array(Math.min(sizeBytes, limitBytes));
    const count = await file.read(bytes, 0);
    return bytes.subarray(0, count);
  } finally {
    await file.close();
  }
}

function folderOf(path: string): string {
  return path.slice(0, path.lastIndexOf("/")) || "/";
}
