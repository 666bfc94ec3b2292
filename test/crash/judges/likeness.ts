// Which trees lead to the same end: those that differ in nothing but ids, times and inodes, where equal ones are equal in
// both, and later ones later. Every crash of a step recovers at another moment, and leaves all of these others.
//
// Invariant: only for disks that recovery left and that were observed since. A file whose seal does not fit its content was
// met by that: seals are left out.

import { createHash } from "node:crypto";
import { posix } from "node:path";
import type { Tree } from "../simulated/disk-tree.ts";

const OWN_FOLDER = "/.imgtx/";
/** Of the program's own files, each of which is text; a larger one is told by its bytes. */
const LONGEST_TEXT = 256 * 1024;

const SEAL = /"sha256":"[0-9a-f]{64}"(?=,"(?:table|generation|snapshot)":)/g;
const ID = /\bz{3,}[a-z0-9]+/g;
const INODE = /(?<="inode":"|^inode )\d+/gm;
/** In nanoseconds, or in milliseconds and words. */
const TIME = /\b\d{19}\b|\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g;

/** Equal for such trees. */
export function likenessOf(tree: Tree): string {
  const lines: string[] = [];
  for (const { path, inode } of tree.entries()) {
    const { number, kind, mode, target, modifiedNs, content } = inode;
    lines.push(path, `inode ${number}`, `${kind} ${mode} ${target}`);
    if (kind !== "file" && kind !== "device") continue;
    const isText = path.includes(OWN_FOLDER) && posix.extname(path) === ".json";
    const isShown = isText && content.sizeBytes <= LONGEST_TEXT;
    const bytes = isShown ? content.slice(0, content.sizeBytes) : undefined;
    lines.push(bytes ? Buffer.from(bytes).toString("latin1") : content.digest());
    if (kind === "file") lines.push(String(modifiedNs).padStart(19, "0"));
  }
  const text = ranked(lines.join("\n").replaceAll(SEAL, "seal"), TIME, (one, other) =>
    momentOf(one) < momentOf(other) ? -1 : 1,
  );
  const likeness = ranked(ranked(text, ID), INODE);
  return createHash("sha1").update(likeness, "latin1").digest("base64");
}

/** Each match as its place among all that there are: in their order, or as they come. */
function ranked(text: string, what: RegExp, order?: (one: string, other: string) => number): string {
  const found = new Set(text.match(what));
  const places = new Map((order ? [...found].sort(order) : [...found]).map((match, place) => [match, place]));
  return text.replaceAll(what, (match) => `#${places.get(match)}`);
}

function momentOf(time: string): bigint {
  return /^\d+$/.test(time) ? BigInt(time) : BigInt(Date.parse(time)) * 1_000_000n;
}
