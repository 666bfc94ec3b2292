// Which trees lead to the same end: those that differ in nothing but ids, times and inodes, where equal ones are equal in
// both, and later ones later. Every crash of a step recovers at another moment, and leaves all of these others.
//
// Invariant: only for disks that recovery left. A seal is left out where it fits its content, and nowhere else.

import { hash } from "node:crypto";
import { posix } from "node:path";
import type { Tree } from "../simulated/disk-tree.ts";

const OWN_FOLDER = "/.imgtx/";
/** Of the program's own files, each of which is text; a larger one is told by its bytes. */
const LONGEST_TEXT = 256 * 1024;

/** As `sealJson` writes it: the seal, what it is of, and that. */
const SEALED = /^\{"sha256":"([0-9a-f]{64})",("(?:table|generation|snapshot)":)(.*)\}\n$/s;
const ID = /\bz{3,}[a-z0-9]+/g;
const INODE = /(?<="inode":"|^inode )\d+/gm;
/** In nanoseconds, or in milliseconds and words. */
const TIME = /\b\d{19}\b|\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z/g;

/** Equal for such trees; keepsInodes: and for none with another inode. */
export function likenessOf(tree: Tree, keepsInodes = false): string {
  const lines: string[] = [];
  for (const { path, inode } of tree.entries()) {
    const { number, kind, mode, target, modifiedNs, content } = inode;
    lines.push(path, `inode ${number}`, `${kind} ${mode} ${target}`);
    if (kind !== "file" && kind !== "device") continue;
    const isText = path.includes(OWN_FOLDER) && posix.extname(path) === ".json";
    const isShown = isText && content.sizeBytes <= LONGEST_TEXT;
    const bytes = isShown ? content.slice(0, content.sizeBytes) : undefined;
    lines.push(bytes ? withoutSeal(Buffer.from(bytes)) : content.digest());
    if (kind === "file") lines.push(String(modifiedNs).padStart(19, "0"));
  }
  const text = ranked(lines.join("\n"), TIME, (one, other) => (momentOf(one) < momentOf(other) ? -1 : 1));
  const named = ranked(text, ID);
  return hash("sha1", keepsInodes ? named : ranked(named, INODE), "base64");
}

function withoutSeal(bytes: Buffer): string {
  const text = bytes.toString("latin1");
  const [, seal, label, content = ""] = SEALED.exec(text) ?? [];
  return hash("sha256", Buffer.from(content, "latin1")) === seal ? `${label}${content}` : text;
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
