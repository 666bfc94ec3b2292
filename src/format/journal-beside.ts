// Where the journal of a change lies whose image is in no workspace: in a hidden folder beside the image, named after
// it. Whoever opens the image, from wherever, finds there what an interrupted command has left.
//
// Invariant: the name follows from the image's alone, by its real path, so that all agree on it.

import { createHash } from "node:crypto";
import { posix } from "node:path";
import type { Storage } from "../storage/index.ts";

const SUFFIX = ".imgtx";
/** What the strictest of the usual file systems, eCryptfs, takes for a name. */
const NAME_BYTES_MAX = 143;
const HEAD_BYTES = 80;

/** The folder for an image, by its real path. */
export function folderBeside(image: string): string {
  const name = posix.basename(image);
  const plain = `.${name}${SUFFIX}`;
  return posix.join(posix.dirname(image), Buffer.byteLength(plain) <= NAME_BYTES_MAX ? plain : shorten(name));
}

/** As much of the name as there is room for, whole characters, and what tells it from others that begin so. */
function shorten(name: string): string {
  let head = "";
  for (const character of name) {
    if (Buffer.byteLength(head + character) > HEAD_BYTES) break;
    head += character;
  }
  const digest = createHash("sha256").update(name).digest("hex").slice(0, 32);
  return `.${head}~${digest}${SUFFIX}`;
}

/** Whether a folder may be that of an image beside it. */
export function isBesideImage(folder: string): boolean {
  return /^\..+\.imgtx$/s.test(posix.basename(folder));
}

export interface Beside {
  /** Real path. */
  readonly image: string;
  readonly folder: string;
}

/** The folder beside an image, where there is one, or something else of its name. */
export async function findBeside(storage: Storage, path: string): Promise<Beside | undefined> {
  const isLink = (await storage.statLink(path))?.kind === "symlink";
  if (isLink && !(await storage.stat(path))) return undefined;
  const image = isLink ? await storage.realPath(path) : path;
  const folder = folderBeside(image);
  return (await storage.statLink(folder)) && { image, folder };
}
