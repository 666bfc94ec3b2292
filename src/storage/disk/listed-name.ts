// The name under which a folder lists a file, where the file system takes others for it too.
//
// exFAT, FAT, NTFS and shares of other systems find `a.qcow2` as `A.QCOW2`. Where the kernel knows the file system,
// both are one file, with one inode number. FUSE makes another file of each spelling, with a number, and locks, of its
// own: a device's image would be another file than the one that is about to be written over.
//
// Invariants
// - Asked only where inode numbers may be made up; and folders are read only where a name in other letters is found.
// - What no folder lists so (a short name of DOS) stays as it is.

import { lstatSync, readdirSync, realpathSync } from "node:fs";
import { posix } from "node:path";
import { kindAt } from "../kernel/file-system.ts";
import { quietly } from "../quietly.ts";

/** What is asked of the system; a test answers in its place. */
export interface NameLookup {
  readonly keepsInodes: (path: string) => boolean;
  readonly isThere: (path: string) => boolean;
  readonly namesIn: (folder: string) => readonly string[];
}

const OF_SYSTEM: NameLookup = {
  keepsInodes: (path) => quietly(() => kindAt(path).keepsInodes, true),
  isThere: (path) => quietly(() => lstatSync(path, { throwIfNoEntry: false }) !== undefined, false),
  namesIn: (folder) => quietly(() => readdirSync(folder), []),
};

/** The same path, without links in it, in the letters that its folders list. */
export function listedPath(real: string, lookup: NameLookup = OF_SYSTEM): string {
  if (real === "/" || lookup.keepsInodes(real)) return real;
  const folder = posix.dirname(real);
  const name = posix.basename(real);
  const above = listedPath(folder, lookup);
  return posix.join(above, listedName(above, name, lookup));
}

const keepers = new Map<string, boolean>();

/** Of the file system with this number, on which the path is. It is asked once. */
export function keepsInodes(path: string, fileSystem: string): boolean {
  const isKeeper = keepers.get(fileSystem) ?? OF_SYSTEM.keepsInodes(path);
  keepers.set(fileSystem, isKeeper);
  return isKeeper;
}

/** The path by which a file is one file: its own where that is what the folders list, or leads over a link. */
export function pathAsListed(path: string, fileSystem: string): string {
  if (keepsInodes(path, fileSystem)) return path;
  const real = quietly(() => realpathSync.native(path), path);
  const listed = listedPath(real);
  return listed === real || quietly(() => lstatSync(path).isSymbolicLink(), true) ? path : listed;
}

function listedName(folder: string, name: string, { isThere, namesIn }: NameLookup): string {
  const inOtherLetters = swapCase(name);
  if (inOtherLetters === name || !isThere(posix.join(folder, inOtherLetters))) return name;
  const names = namesIn(folder);
  if (names.includes(name)) return name;
  const alike = names.filter((one) => fold(one) === fold(name));
  return alike.length === 1 ? (alike[0] ?? name) : name;
}

const fold = (name: string): string => name.toUpperCase().toLowerCase();

function swapCase(name: string): string {
  return Array.from(name, (letter) => {
    const upper = letter.toUpperCase();
    return upper === letter ? letter.toLowerCase() : upper;
  }).join("");
}
