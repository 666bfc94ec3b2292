// A page that a command was asked for: there as a whole, durably, or not at all; never over a file that is there without
// being told, and then only over a page: a disk's name is typed, or completed, as fast as a page's.
//
// Invariant: the target's name shows the old content, or the new one to its end. What a crash leaves has a name of its own.

import { posix } from "node:path";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import { assertOutsideOwnFolder, canonicalPath } from "../../device/index.ts";
import { shellQuote } from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";

const MODE = 0o644;

/** What every page begins with. */
const PAGE_START = "<!DOCTYPE html>";

/** E_EXISTS where something is there that may not be overwritten, or that is no page. E_NOT_FOUND without its folder. */
export async function assertWritable(
  storage: Storage,
  path: string,
  { overwrite }: { readonly overwrite: boolean },
): Promise<void> {
  const canonical = await canonicalPath(storage, path);
  assertOutsideOwnFolder(canonical);
  const there = await storage.statLink(canonical);
  if (there === undefined) return;
  if (there.kind !== "file") {
    throw new ImgtxError("E_EXISTS", "the target is no file of its own", {
      image: path,
      hint: `\`ls -ld ${shellQuote(path)}\` shows what it is`,
    });
  }
  const isPage = await beginsAsPage(storage, path);
  if (overwrite && isPage) return;
  const message = isPage ? "the target exists" : "the target exists, and is no page of HTML";
  const hint = isPage ? "name another file, or say --overwrite" : "name another file";
  throw new ImgtxError("E_EXISTS", message, { image: path, hint });
}

/** An empty file counts as one: it may have been made for it. */
async function beginsAsPage(storage: Storage, path: string): Promise<boolean> {
  return await whileOpen(await storage.openFile(path, "read"), async (file) => {
    const start = new Uint8Array(PAGE_START.length);
    const count = await file.read(start, 0);
    return (
      count === 0 ||
      Buffer.from(start.subarray(0, count)).toString().toLowerCase() === PAGE_START.toLowerCase()
    );
  });
}

export async function writeNewFile(
  storage: Storage,
  path: string,
  content: Uint8Array,
  options: { readonly overwrite: boolean },
): Promise<void> {
  await assertWritable(storage, path, options);
  const folder = posix.dirname(path);
  const staging = posix.join(folder, `.imgtx-report-${storage.host.randomName()}`);
  const file = await storage.createFile(staging, MODE).catch((error: unknown) => {
    // Of the name that was given: nobody knows the other.
    throw error instanceof ImgtxError && error.image === staging
      ? error.reworded(error.message.replaceAll(staging, path), { image: path })
      : error;
  });
  try {
    try {
      await file.write(content, 0);
      // Before its name: one that is durable first would show a torn file.
      await file.flush("report");
    } finally {
      await file.close();
    }
    if (options.overwrite) await storage.rename(staging, path);
    else await storage.renameWithoutReplacing(staging, path);
  } catch (error) {
    await storage.removeFile(staging).catch((cause: unknown) => {
      // What failed before says more.
      if (!(cause instanceof ImgtxError)) throw cause;
    });
    throw error;
  }
  await storage.flushFolder(folder, "report name");
}
