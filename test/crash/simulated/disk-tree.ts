// A simulated file system at one moment: inodes and the names that lead to them.
//
// Invariants
// - Copies share inode records. A record is changed only by the tree that owns it; a fork owns nothing,
//   and takes ownership away from its source too.
// - An inode without a name stays, as an open file does on Unix; nothing that is compared sees it.
// - Where names lead is kept as long as no name changes, for all copies with the same names: a rig asks for the same
//   paths thousands of times.

import { hash } from "node:crypto";
import { Content } from "./content.ts";

const ROOT = 2;
const MAX_LINKS = 40;

export interface Inode {
  readonly number: number;
  /** A device's content has the size that it has. */
  readonly kind: "file" | "folder" | "symlink" | "device";
  readonly mode: number;
  readonly bornNs: bigint;
  readonly modifiedNs: bigint;
  /** Moved by each change, a name included; setting the time of modification moves it too. */
  readonly changedNs: bigint;
  readonly content: Content;
  readonly names: ReadonlyMap<string, number>;
  readonly target: string;
  /** Which file system it is of: what is made in a folder is of the same. */
  readonly disk: number;
}

/** What a name is given to: which inode, of which folder, under which name. */
export interface Slot {
  readonly folder: number;
  readonly name: string;
  readonly inode: number | null;
}

/** Where a path leads. The inode is undefined where the last name is free. */
export interface Place {
  readonly folder: number;
  readonly name: string;
  readonly path: string;
  readonly inode: Inode | undefined;
}

export interface TreeEntry {
  readonly path: string;
  readonly inode: Inode;
}

/** Why a path leads nowhere. */
export type LookupProblem = "missing" | "not a folder" | "too many links";

export class LookupError extends Error {
  readonly problem: LookupProblem;
  constructor(problem: LookupProblem, path: string) {
    super(`${path}: ${problem}`);
    this.problem = problem;
  }
}

/** What was found out about the names of a tree. Numbers, no records: contents and times may change meanwhile. */
interface KnownNames {
  readonly places: Map<string, KnownPlace | LookupProblem>;
  readonly followed: Map<string, KnownPlace | LookupProblem>;
  readonly lists: Map<string, readonly { readonly path: string; readonly number: number }[]>;
}

type KnownPlace = Omit<Place, "inode"> & { readonly number: number | undefined };

function nothingKnown(): KnownNames {
  return { places: new Map(), followed: new Map(), lists: new Map() };
}

/** As on ext4, XFS and most others. */
const MAX_NAME_BYTES = 255;

export function makeInode(
  number: number,
  kind: Inode["kind"],
  mode: number,
  atNs: bigint,
  { target = "", disk = 0 }: { readonly target?: string; readonly disk?: number } = {},
): Inode {
  return {
    number,
    kind,
    mode,
    bornNs: atNs,
    modifiedNs: atNs,
    changedNs: atNs,
    content: new Content(),
    names: new Map(),
    target,
    disk,
  };
}

/** Later than before, also where a time of modification in the past is set. */
function changedAt({ changedNs }: Inode, atNs: bigint): bigint {
  return atNs > changedNs ? atNs : changedNs + 1n;
}

function assertShort(name: string): void {
  if (Buffer.byteLength(name) > MAX_NAME_BYTES) throw new Error(`simulated disk: no file is called ${name}`);
}

export class Tree {
  #inodes: Map<number, Inode>;
  #owned = new Set<number>();
  #names: KnownNames;
  #keys = new Map<boolean, string>();

  constructor(inodes?: Map<number, Inode>, like?: Tree) {
    this.#inodes = inodes ?? new Map([[ROOT, makeInode(ROOT, "folder", 0o755, 0n)]]);
    this.#names = like ? like.#names : nothingKnown();
    if (like) this.#keys = new Map(like.#keys);
  }

  fork(): Tree {
    this.#owned.clear();
    return new Tree(new Map(this.#inodes), this);
  }

  #set(inode: Inode): void {
    this.#inodes.set(inode.number, inode);
    this.#keys.clear();
  }

  get(number: number): Inode {
    const inode = this.#inodes.get(number);
    if (!inode) throw new Error(`simulated disk: no inode ${number}`);
    return inode;
  }

  /** A number that no inode with a name has; numbers of lost files come back, as on real disks. */
  freeNumber(): number {
    let highest = ROOT;
    for (const number of this.#inodes.keys()) highest = Math.max(highest, number);
    return highest + 1;
  }

  /** Puts a record in place that other trees may share. */
  share(inode: Inode): void {
    this.#set(inode);
    if (inode.kind !== "file") this.#names = nothingKnown();
    this.#owned.delete(inode.number);
  }

  has(number: number): boolean {
    return this.#inodes.has(number);
  }

  /** Changes a file's bytes. */
  changeContent(number: number, atNs: bigint, change: (content: Content) => void): void {
    const inode = this.get(number);
    const content = this.#owned.has(number) ? inode.content : inode.content.fork();
    change(content);
    this.#set({ ...inode, content, modifiedNs: atNs, changedNs: changedAt(inode, atNs) });
    this.#owned.add(number);
  }

  /** Makes a folder the root of a file system of its own, before anything lies in it. */
  mount(path: string, disk: number): void {
    const { inode } = this.lookUp(path, true);
    if (inode?.kind !== "folder") throw new LookupError("not a folder", path);
    this.share({ ...inode, disk });
  }

  /** Puts the node of a block device there, which is full of these bytes, as its last user left it. */
  attachDevice(path: string, content: Uint8Array): void {
    const { folder, name } = this.lookUp(path, false);
    const number = this.freeNumber();
    this.share({ ...makeInode(number, "device", 0o660, 0n), content: Content.of(content) });
    this.assign({ folder, name, inode: number }, 0n);
  }

  /** A file that has got another name. */
  touch(number: number, atNs: bigint): void {
    const inode = this.get(number);
    this.#set({ ...inode, changedNs: changedAt(inode, atNs) });
  }

  assign(slot: Slot, atNs: bigint): void {
    const folder = this.get(slot.folder);
    const names = this.#owned.has(slot.folder)
      ? (folder.names as Map<string, number>)
      : new Map(folder.names);
    if (slot.inode === null) names.delete(slot.name);
    else names.set(slot.name, slot.inode);
    this.#set({ ...folder, names, modifiedNs: atNs });
    this.#names = nothingKnown();
    this.#owned.add(slot.folder);
  }

  /** Follows a path; the last name's symbolic link only if asked to. */
  lookUp(path: string, follow: boolean): Place {
    const place = this.find(path, follow);
    if (typeof place === "string") throw new LookupError(place, path);
    return place;
  }

  /** The same, or why it leads nowhere. */
  find(path: string, follow: boolean): Place | LookupProblem {
    const known = follow ? this.#names.followed : this.#names.places;
    let place = known.get(path);
    if (place === undefined) known.set(path, (place = this.#findIn(path, follow)));
    if (typeof place === "string") return place;
    const { folder, name, path: leads, number } = place;
    return { folder, name, path: leads, inode: number === undefined ? undefined : this.get(number) };
  }

  /** By way of its folder, which is known from the files beside it. */
  #findIn(path: string, follow: boolean): KnownPlace | LookupProblem {
    const cut = path.lastIndexOf("/");
    const name = path.slice(cut + 1);
    if (cut <= 0 || ["", ".", ".."].includes(name)) return this.#walk(path, follow, MAX_LINKS);
    const above = this.find(path.slice(0, cut), true);
    if (typeof above === "string") return above;
    const { inode } = above;
    if (inode?.kind !== "folder") return inode ? "not a folder" : "missing";
    const number = inode.names.get(name);
    const isLink = number !== undefined && this.get(number).kind === "symlink";
    if (isLink && follow) return this.#walk(path, follow, MAX_LINKS);
    assertShort(name);
    return { folder: inode.number, name, path: `${above.path === "/" ? "" : above.path}/${name}`, number };
  }

  #walk(path: string, follow: boolean, linksLeft: number): KnownPlace | LookupProblem {
    const parts = path.split("/").filter((part) => part !== "" && part !== ".");
    const trail: { inode: Inode; path: string; name: string }[] = [
      { inode: this.get(ROOT), path: "", name: "" },
    ];
    for (const [index, name] of parts.entries()) {
      const here = trail.at(-1)!;
      if (here.inode.kind !== "folder") return "not a folder";
      if (name === "..") {
        if (trail.length > 1) trail.pop();
        continue;
      }
      assertShort(name);
      const isLast = index === parts.length - 1;
      const number = here.inode.names.get(name);
      if (number === undefined) {
        if (!isLast) return "missing";
        return { folder: here.inode.number, name, path: `${here.path}/${name}`, number };
      }
      const inode = this.get(number);
      if (inode.kind === "symlink" && (!isLast || follow)) {
        if (linksLeft === 0) return "too many links";
        const start = inode.target.startsWith("/") ? "" : `${here.path}/`;
        const rest = parts.slice(index + 1).join("/");
        return this.#walk(`${start}${inode.target}${rest && `/${rest}`}`, follow, linksLeft - 1);
      }
      trail.push({ inode, path: `${here.path}/${name}`, name });
    }
    const end = trail.at(-1)!;
    const folder = trail.at(-2)?.inode.number ?? ROOT;
    return { folder, name: end.name, path: end.path || "/", number: end.inode.number };
  }

  /** Everything that has a name, in the order of the paths. Symbolic links are not followed. */
  entries(from = ROOT, path = ""): TreeEntry[] {
    const key = `${from} ${path}`;
    let list = this.#names.lists.get(key);
    if (list === undefined) this.#names.lists.set(key, (list = [...this.#list(from, path)]));
    return list.map((entry) => ({ path: entry.path, inode: this.get(entry.number) }));
  }

  *#list(from: number, path: string): Generator<{ readonly path: string; readonly number: number }> {
    const folder = this.get(from);
    for (const name of [...folder.names.keys()].sort()) {
      const inode = this.get(folder.names.get(name)!);
      yield { path: `${path}/${name}`, number: inode.number };
      if (inode.kind === "folder") yield* this.#list(inode.number, `${path}/${name}`);
    }
  }

  /** Equal for trees that no program can tell apart, but for times (and even those, if asked for). */
  key(times: boolean): string {
    const known = this.#keys.get(times) ?? this.#keyOf(times);
    this.#keys.set(times, known);
    return known;
  }

  #keyOf(times: boolean): string {
    const lines = this.entries().map(({ path, inode }) => {
      const { number, kind, mode, target, content, modifiedNs } = inode;
      const bytes = kind === "file" || kind === "device" ? content.digest() : "";
      return `${path}\n${number} ${kind} ${mode} ${target}\n${bytes}${kind === "file" && times ? modifiedNs : ""}`;
    });
    return hash("sha1", lines.join(""), "base64");
  }

  /** A tree of the named inodes only: what a file system keeps over a reboot. */
  rebooted(): Tree {
    const inodes = new Map([[ROOT, this.get(ROOT)]]);
    for (const { inode } of this.entries()) inodes.set(inode.number, inode);
    this.#owned.clear();
    return new Tree(inodes, this);
  }
}
