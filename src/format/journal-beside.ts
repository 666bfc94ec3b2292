// Where the journal of a change lies whose image is in no workspace: in a hidden folder beside the image, named after
// it. Whoever opens the image, from wherever, finds there what an interrupted command has left. Beside a device node nothing
// lasts: the folder of a block device lies where the host keeps what programs have to remember.
//
// Invariants
// - The name follows from the image's alone, by its real path, so that all agree on it.
// - That of a block device follows from what the device is called for good: by whatever node, and after each start of the
//   host, it is the same.

import { createHash } from "node:crypto";
import { posix } from "node:path";
import { unlessItFails } from "../errors/index.ts";
import type { FileStat, Storage } from "../storage/index.ts";

const SUFFIX = ".imgtx";
/** What the strictest of the usual file systems, eCryptfs, takes for a name. */
const NAME_BYTES_MAX = 143;
const HEAD_BYTES = 80;

/** Root's own: who may write to devices is root, or could be. */
const FOLDER_OF_DEVICES = "/var/lib/imgtx";

/** The folder for an image, by its real path and what is there. */
export function folderBeside(image: string, there: Pick<FileStat, "kind" | "inode"> | undefined): string {
  if (there?.kind === "device") return posix.join(FOLDER_OF_DEVICES, `.${there.inode}${SUFFIX}`);
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

/** Its real path; of a block device the path as it is named, since the node that this leads to has another name after the next start. */
export async function placeOfImage(storage: Storage, path: string): Promise<string> {
  if ((await storage.stat(path))?.kind !== "device") return await storage.realPath(path);
  return posix.join(await storage.realPath(posix.dirname(path)), posix.basename(path));
}

export interface Beside {
  /** Real path. */
  readonly image: string;
  readonly folder: string;
}

/** The folder beside an image, where there is one, or something else of its name. */
export async function findBeside(storage: Storage, path: string): Promise<Beside | undefined> {
  const link = await storage.statLink(path);
  const there = link?.kind === "symlink" ? await storage.stat(path) : link;
  if (link && !there) return undefined;
  const image = link?.kind === "symlink" ? await placeOfImage(storage, path) : path;
  const folder = folderBeside(image, there);
  return (await storage.statLink(folder)) && { image, folder };
}

/**
 * Those of the images, by their paths, that may have a folder beside them: each folder that many of them lie in is read
 * once. The others have none.
 */
export async function besideCandidates(storage: Storage, paths: readonly string[]): Promise<string[]> {
  const byFolder = new Map<string, string[]>();
  for (const path of paths) {
    const folder = posix.dirname(path);
    const there = byFolder.get(folder);
    if (there) there.push(path);
    else byFolder.set(folder, [path]);
  }
  const candidates: string[] = [];
  for (const [folder, images] of byFolder) {
    const listed = (await isWorthReading(storage, folder, images.length))
      ? await unlessItFails(async () => await listFolder(storage, folder))
      : undefined;
    candidates.push(...images.filter((image) => listed === undefined || mayHaveOne(image, listed)));
  }
  return candidates;
}

/** Names, each as a file system would find it that tells no case, or no spelling, apart. */
interface Listed {
  /** Of what may be a folder beside an image. */
  readonly names: ReadonlySet<string>;
  /** Of links, which lead to where their image has its folder, and of devices, which have theirs elsewhere. */
  readonly special: ReadonlySet<string>;
}

async function listFolder(storage: Storage, folder: string): Promise<Listed> {
  const { names, special } = await storage.readKinds(folder);
  const beside = names.map(foldName).filter((name) => name.endsWith(FOLDED_SUFFIX));
  return { names: new Set(beside), special: new Set(special.map(foldName)) };
}

const FOLDED_SUFFIX = SUFFIX.toUpperCase();

function foldName(path: string): string {
  return posix.basename(path).normalize("NFKD").toUpperCase();
}

function mayHaveOne(image: string, { names, special }: Listed): boolean {
  if (names.size === 0 && special.size === 0) return false;
  return special.has(foldName(image)) || names.has(foldName(folderBeside(image, undefined)));
}

/** Where so few are asked for, or so much else is there, that is slower. */
const FEW = 4;
/** A name takes some dozen bytes of its folder. */
const FOLDER_BYTES_PER_IMAGE = 1024;

async function isWorthReading(storage: Storage, folder: string, images: number): Promise<boolean> {
  if (images < FEW) return false;
  const stat = await unlessItFails(async () => await storage.stat(folder));
  return stat?.kind === "folder" && stat.sizeBytes <= images * FOLDER_BYTES_PER_IMAGE;
}
