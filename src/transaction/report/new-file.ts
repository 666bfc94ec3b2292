// A file that a command was asked for: there as a whole, durably, or not at all; never over one that is there without being
// told.
//
// Invariant: the target's name shows the old content, or the new one to its end. What a crash leaves has a name of its own.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";

const MODE = 0o644;

/** E_EXISTS where something is there that may not be overwritten, or that is no file. */
export async function assertWritable(
  storage: Storage,
  path: string,
  { overwrite }: { readonly overwrite: boolean },
): Promise<void> {
  const there = await storage.statLink(path);
  if (there === undefined || (overwrite && there.kind === "file")) return;
  const what = there.kind === "file" ? "the target exists" : "the target is no file of its own";
  throw new ImgtxError("E_EXISTS", what, {
    image: path,
    hint:
      there.kind === "file"
        ? "name another file, or say --overwrite"
        : `\`ls -ld ${shellQuote(path)}\` shows what it is`,
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
  const file = await storage.createFile(staging, MODE);
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
