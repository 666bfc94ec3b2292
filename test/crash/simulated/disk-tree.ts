// A simulated file system at one moment: inodes and the names that lead to them.
//
// Invariants
// - Copies share inode records. A record is changed only by the tree that owns it; a fork owns nothing,
//   and takes ownership away from its source too.
// - An inode without a name stays, as an open file does on Unix; nothing that is compared sees it.

import { createHash } from "node:crypto";
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

export class Tree {
  #inodes: Map<number, Inode>;
  #owned = new Set<number>();

  constructor(inodes?: Map<number, Inode>) {
    this.#inodes = inodes ?? new Map([[ROOT, makeInode(ROOT, "folder", 0o755, 0n)]]);
  }

  fork(): Tree {
    this.#owned.clear();
    return new Tree(new Map(this.#inodes));
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
    this.#inodes.set(inode.number, inode);
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
    this.#inodes.set(number, { ...inode, content, modifiedNs: atNs, changedNs: changedAt(inode, atNs) });
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
    this.#inodes.set(number, { ...inode, changedNs: changedAt(inode, atNs) });
  }

  assign(slot: Slot, atNs: bigint): void {
    const folder = this.get(slot.folder);
    const names = this.#owned.has(slot.folder)
      ? (folder.names as Map<string, number>)
      : new Map(folder.names);
    if (slot.inode === null) names.delete(slot.name);
    else names.set(slot.name, slot.inode);
    this.#inodes.set(slot.folder, { ...folder, names, modifiedNs: atNs });
    this.#owned.add(slot.folder);
  }

  /** Follows a path; the last name's symbolic link only if asked to. */
  lookUp(path: string, follow: boolean): Place {
    return this.#walk(path, follow, path, MAX_LINKS);
  }

  #walk(path: string, follow: boolean, asked: string, linksLeft: number): Place {
    const parts = path.split("/").filter((part) => part !== "" && part !== ".");
    const trail: { inode: Inode; path: string; name: string }[] = [
      { inode: this.get(ROOT), path: "", name: "" },
    ];
    for (const [index, name] of parts.entries()) {
      const here = trail.at(-1)!;
      if (here.inode.kind !== "folder") throw new LookupError("not a folder", asked);
      if (name === "..") {
        if (trail.length > 1) trail.pop();
        continue;
      }
      if (Buffer.byteLength(name) > MAX_NAME_BYTES)
        throw new Error(`simulated disk: no file is called ${name}`);
      const isLast = index === parts.length - 1;
      const number = here.inode.names.get(name);
      if (number === undefined) {
        if (!isLast) throw new LookupError("missing", asked);
        return { folder: here.inode.number, name, path: `${here.path}/${name}`, inode: undefined };
      }
      const inode = this.get(number);
      if (inode.kind === "symlink" && (!isLast || follow)) {
        if (linksLeft === 0) throw new LookupError("too many links", asked);
        const start = inode.target.startsWith("/") ? "" : `${here.path}/`;
        const rest = parts.slice(index + 1).join("/");
        return this.#walk(`${start}${inode.target}${rest && `/${rest}`}`, follow, asked, linksLeft - 1);
      }
      trail.push({ inode, path: `${here.path}/${name}`, name });
    }
    const end = trail.at(-1)!;
    const folder = trail.at(-2)?.inode.number ?? ROOT;
    return { folder, name: end.name, path: end.path || "/", inode: end.inode };
  }

  /** Everything that has a name, in the order of the paths. Symbolic links are not followed. */
  *entries(from = ROOT, path = ""): Generator<TreeEntry> {
    const folder = this.get(from);
    for (const name of [...folder.names.keys()].sort()) {
      const inode = this.get(folder.names.get(name)!);
      yield { path: `${path}/${name}`, inode };
      if (inode.kind === "folder") yield* this.entries(inode.number, `${path}/${name}`);
    }
  }

  /** Equal for trees that no program can tell apart, but for times (and even those, if asked for). */
  key(times: boolean): string {
    const hash = createHash("sha1");
    for (const { path, inode } of this.entries()) {
      hash.update(`${path}\n${inode.number} ${inode.kind} ${inode.mode} ${inode.target}\n`);
      if (inode.kind === "file" || inode.kind === "device") hash.update(inode.content.digest());
      if (inode.kind === "file" && times) hash.update(`${inode.modifiedNs}`);
    }
    return hash.digest("base64");
  }

  /** A tree of the named inodes only: what a file system keeps over a reboot. */
  rebooted(): Tree {
    const inodes = new Map([[ROOT, this.get(ROOT)]]);
    for (const { inode } of this.entries()) inodes.set(inode.number, inode);
    this.#owned.clear();
    return new Tree(inodes);
  }
}
