// Replaces a small file so that a crash leaves the old content or the new, never a mixture.

import { whileOpen } from "../../errors/index.ts";
import { posix } from "node:path";
import { clearTheWay } from "./in-the-way.ts";
import type { FileStat, Storage, StorageFile } from "../../storage/index.ts";

export interface ReplacePurposes {
  readonly content: string;
  readonly name: string;
}

/** What is written, perhaps with a word on the very file that it is written to. */
export type NewContent = Uint8Array | ((file: FileStat) => Uint8Array);

/** Does the whole of it, for one file. */
export async function replaceFile(
  storage: Storage,
  path: string,
  content: NewContent,
  mode: NewMode,
  purposes: ReplacePurposes,
): Promise<void> {
  await writeBeside(storage, path, content, mode, purposes.content);
  await moveOver(storage, path, purposes.name);
}

/** The mode that the umask makes of this one; `exact`: this one, whatever the umask says. */
export type NewMode = number | { readonly exact: number };

/**
 * Writes bytes beside path, durably. A file that an earlier crash left there is cleared away first: nothing
 * refers to it.
 */
export async function writeBeside(
  storage: Storage,
  path: string,
  content: NewContent,
  mode: NewMode,
  purpose: string,
): Promise<void> {
  await removeBeside(storage, path);
  const file = await storage.createFile(besideOf(path), typeof mode === "number" ? mode : mode.exact);
  await whileOpen(file, async () => {
    const made = await file.stat();
    if (typeof mode !== "number" && made.mode !== mode.exact)
      await file.setAccess({ ...made, mode: mode.exact });
    await file.write(content instanceof Uint8Array ? content : content(made), 0);
    // Flush before the rename: a name that is durable before its content would show a torn file.
    await file.flush(purpose);
  });
}

/** Moves what writeBeside wrote over path, durably. */
export async function moveOver(storage: Storage, path: string, purpose: string): Promise<void> {
  await renameOver(storage, path);
  await flushNameOf(storage, path, purpose);
}

/** The same in two steps, for who has something to do in between. */
export async function renameOver(storage: Storage, path: string): Promise<void> {
  await storage.rename(besideOf(path), path);
}

export async function flushNameOf(storage: Storage, path: string, purpose: string): Promise<void> {
  await storage.flushFolder(posix.dirname(path), purpose);
}

/** Removes what writeBeside wrote, or a crash in it left. Nothing there is no error. */
export async function removeBeside(storage: Storage, path: string): Promise<void> {
  await clearTheWay(storage, besideOf(path));
}

/** What is shown of a file that nobody writes to: what it was, and what it is. */
const MOST_SIZES = 3;

export async function readWholeFile(storage: Storage, path: string, limitBytes: number): Promise<Uint8Array> {
  return await whileOpen(await storage.openFile(path, "read"), async (file) => {
    let bytes = new Uint8Array();
    let count = 0;
    // A mounting may show the size of the file that had the name before, and cut the reading there: only that, by its
    // end, has it look again.
    for (let tries = 0, isWhole = false; !isWhole && tries < MOST_SIZES; tries += 1) {
      bytes = new Uint8Array(Math.min((await file.stat()).sizeBytes + 1, limitBytes));
      count = await readInPieces(file, bytes);
      isWhole = count === Math.min((await file.stat()).sizeBytes, limitBytes);
    }
    return bytes.subarray(0, count);
  });
}

/** Which are read at once: for larger ones threads would have to be started first, while nothing else is to be done. */
const PIECE_BYTES = 64 * 1024;

async function readInPieces(file: StorageFile, target: Uint8Array): Promise<number> {
  let done = 0;
  for (let isMore = true; isMore && done < target.length; ) {
    const piece = target.subarray(done, done + PIECE_BYTES);
    const count = await file.read(piece, done);
    done += count;
    isMore = count === piece.length;
  }
  return done;
}

function besideOf(path: string): string {
  return `${path}.new`;
}
