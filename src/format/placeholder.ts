// What holds a name for a file that is to get it, on file systems without a rename that does not replace.

import { placeholderOf, type StorageFile } from "../storage/index.ts";

/** Whether the file is what a move of the source's name, cut off between its two steps, has left. */
export async function isPlaceholder(file: StorageFile, source: string): Promise<boolean> {
  const content = placeholderOf(source);
  if ((await file.stat()).sizeBytes !== content.length) return false;
  const bytes = new Uint8Array(content.length);
  return (await file.read(bytes, 0)) === bytes.length && Buffer.compare(bytes, content) === 0;
}
