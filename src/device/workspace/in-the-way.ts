// Names that only imgtx gives, and that something else has: an editor's file, a folder, a FIFO.

import { ImgtxError } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";

/**
 * Frees a name in .imgtx that is about to be given to a file or a link: what a crash left there is nobody's, and an
 * empty folder holds nothing. E_EXISTS for a folder with something in it.
 */
export async function clearTheWay(storage: Storage, path: string): Promise<void> {
  const there = await storage.statLink(path);
  if (!there) return;
  if (there.kind !== "folder") {
    await storage.removeFile(path);
    return;
  }
  if ((await storage.readFolder(path)).length > 0) throw inTheWay(path, "its own file");
  await storage.removeFolder(path);
}

export function inTheWay(path: string, what: string): ImgtxError {
  return new ImgtxError("E_EXISTS", `'${path}' is in the way: imgtx keeps ${what} there`, {
    image: path,
    hint: `move it away: \`mv ${shellQuote(path)} ${shellQuote(`${path}.old`)}\``,
  });
}
