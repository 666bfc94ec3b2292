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
/** In nanoseconds, or in milliseconds and words; an id; an inode. */
const TOKEN = /(\b\d{19}\b|\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z)|(\bz{3,}[a-z0-9]+)|(?<="inode":")\d+/g;

interface Token {
  readonly kind: "time" | "id" | "inode";
  readonly text: string;
}

/** A text as the digest of what is left without its tokens, each of which stands once in the list: the first it has first. */
interface Told {
  readonly digest: string;
  readonly tokens: readonly Token[];
}

/** More than one scenario makes; then all are forgotten. */
const MOST = 4096;
const names = new Map<string, Told>();
const texts = new Map<string, Told>();

/** Equal for such trees; keepsInodes: and for none with another inode. */
export function likenessOf(tree: Tree, keepsInodes = false): string {
  const digests: string[] = [];
  const tokens: Token[] = [];
  const add = (told: Told): void => {
    digests.push(told.digest);
    tokens.push(...told.tokens);
  };
  for (const { path, inode } of tree.entries()) {
    const { number, kind, mode, target, modifiedNs, content } = inode;
    const name = `${path}\n${kind} ${mode} ${target}`;
    add(once(names, name, () => tell(name)));
    tokens.push({ kind: "inode", text: String(number) });
    if (kind !== "file" && kind !== "device") continue;
    const isText = path.includes(OWN_FOLDER) && posix.extname(path) === ".json";
    const digest = content.digest();
    if (!isText || content.sizeBytes > LONGEST_TEXT) digests.push(digest);
    else add(once(texts, digest, () => tell(withoutSeal(Buffer.from(content.slice(0, content.sizeBytes))))));
    if (kind === "file") tokens.push({ kind: "time", text: String(modifiedNs).padStart(19, "0") });
  }
  return hash("sha1", [...digests, ...ranksOf(tokens, keepsInodes)].join("\n"), "base64");
}

function tell(text: string): Told {
  const places = new Map<string, number>();
  const tokens: Token[] = [];
  const rest = text.replaceAll(TOKEN, (match, time?: string, id?: string) => {
    const kind = time === undefined ? (id === undefined ? "inode" : "id") : "time";
    const key = `${kind} ${match}`;
    if (!places.has(key)) {
      places.set(key, tokens.length);
      tokens.push({ kind, text: match });
    }
    return `#${kind} ${places.get(key)}`;
  });
  return { digest: hash("sha1", rest, "base64"), tokens };
}

function once(known: Map<string, Told>, key: string, make: () => Told): Told {
  const found = known.get(key);
  if (found !== undefined) return found;
  if (known.size >= MOST) known.clear();
  const made = make();
  known.set(key, made);
  return made;
}

function withoutSeal(bytes: Buffer): string {
  const text = bytes.toString("latin1");
  const [, seal, label, content = ""] = SEALED.exec(text) ?? [];
  return hash("sha256", Buffer.from(content, "latin1")) === seal ? `${label}${content}` : text;
}

/** Each token as its place among all that there are of its kind: times in their order, the others as they come. */
function ranksOf(tokens: readonly Token[], keepsInodes: boolean): (string | number)[] {
  const places = {
    time: new Map<string, number>(),
    id: new Map<string, number>(),
    inode: new Map<string, number>(),
  };
  for (const { kind, text } of tokens) if (!places[kind].has(text)) places[kind].set(text, places[kind].size);
  const times = [...places.time.keys()].map((text) => ({ text, moment: momentOf(text) }));
  times.sort((one, other) => (one.moment < other.moment ? -1 : 1));
  for (const [place, { text }] of times.entries()) places.time.set(text, place);
  return tokens.map(({ kind, text }) => (kind === "inode" && keepsInodes ? text : places[kind].get(text)!));
}

/** In nanoseconds, of 19 digits until the year 2286. */
function momentOf(time: string): string {
  return time.includes("T") ? `${Date.parse(time)}000000` : time;
}
