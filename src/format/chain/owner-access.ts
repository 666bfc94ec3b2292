// What another user than the caller could do with a file: permission bits, groups and POSIX ACL, as path
// resolution and acl(5) have them. root opens what it likes, and must not do so for whoever wrote a name into an
// image (as a tenant may, whose image root converts or mirrors).

import { posix } from "node:path";
import type { FileStat, Host, Storage } from "../../storage/index.ts";

const READ = 4;
const WRITE = 2;
const SEARCH = 1;
const STICKY = 0o1000;
const ROOT = 0;

/** A user with the groups that are known of it. */
interface User {
  readonly id: number;
  readonly groups: readonly number[];
}

/**
 * Whether the user could open the file. Both paths are real ones: no link is left in them. Folders on the way to
 * the user's own image do not count: who put it there lets the user in, or hands over what is open.
 */
export async function canOpen(
  storage: Storage,
  userId: number,
  path: string,
  { access, ownImage }: { readonly access: "read" | "write"; readonly ownImage: string },
): Promise<boolean> {
  const user = knownUser(storage, userId);
  const wanted = access === "read" ? READ : READ | WRITE;
  return (await may(storage, user, path, wanted)) && (await canReach(storage, user, path, ownImage));
}

/**
 * Whether the user could give names in the folder, which is a real path, or take that of `taken` away: in a sticky
 * folder that is for the owners of the folder and of what has the name.
 */
export async function canChangeNames(
  storage: Storage,
  userId: number,
  folder: string,
  { taken, ownImage }: { readonly taken?: string; readonly ownImage: string },
): Promise<boolean> {
  const user = knownUser(storage, userId);
  if (!(await may(storage, user, folder, WRITE | SEARCH))) return false;
  if (!(await canReach(storage, user, folder, ownImage))) return false;
  const there = await storage.stat(folder);
  if (taken === undefined || !there || (there.mode & STICKY) === 0) return true;
  return there.ownerId === userId || (await storage.statLink(taken))?.ownerId === userId;
}

function knownUser(storage: Storage, id: number): User {
  return { id, groups: storage.host.groupsOfUser(id) ?? [] };
}

async function canReach(storage: Storage, user: User, path: string, ownImage: string): Promise<boolean> {
  for (let folder = posix.dirname(path); !isOnTheWay(folder, ownImage); folder = posix.dirname(folder)) {
    if (!(await may(storage, user, folder, SEARCH))) return false;
  }
  return true;
}

function isOnTheWay(folder: string, path: string): boolean {
  return folder === "/" || path.startsWith(`${folder}/`);
}

/** Whether the caller could be led to what is not for that user: only root opens more than it is given. */
export function opensForOthers(host: Host, ownerId: number): boolean {
  return ownerId !== ROOT && host.userId === ROOT;
}

async function may(storage: Storage, user: User, path: string, wanted: number): Promise<boolean> {
  const stat = await storage.stat(path);
  return stat !== undefined && judge(user, stat, await readAcl(storage, path), wanted);
}

/** One class decides, the first that the user is in. */
export function judge(
  user: User,
  stat: Pick<FileStat, "mode" | "ownerId" | "groupId">,
  acl: Acl | undefined,
  wanted: number,
): boolean {
  if (user.id === ROOT) return true;
  if (user.id === stat.ownerId) return grants(stat.mode >> 6, wanted);
  const named = acl?.users.get(user.id);
  if (acl && named !== undefined) return grants(named & acl.mask, wanted);
  const groups = acl
    ? new Map([...acl.groups, [stat.groupId, acl.owningGroup]])
    : new Map([[stat.groupId, stat.mode >> 3]]);
  const granted = [...groups].filter(([id]) => user.groups.includes(id));
  if (granted.length > 0) return granted.some(([, bits]) => grants(bits & (acl?.mask ?? 7), wanted));
  return grants(stat.mode, wanted);
}

function grants(bits: number, wanted: number): boolean {
  return (bits & wanted) === wanted;
}

export interface Acl {
  readonly users: ReadonlyMap<number, number>;
  readonly groups: ReadonlyMap<number, number>;
  readonly owningGroup: number;
  readonly mask: number;
}

const VERSION = 2;
const HEADER_BYTES = 4;
const ENTRY_BYTES = 8;
const TAG_USER = 0x02;
const TAG_OWNING_GROUP = 0x04;
const TAG_GROUP = 0x08;
const TAG_MASK = 0x10;

async function readAcl(storage: Storage, path: string): Promise<Acl | undefined> {
  const bytes = await storage.readAttribute(path, "system.posix_acl_access");
  return bytes && decodeAcl(bytes);
}

/** struct posix_acl_xattr: a version of 32 bits, then entries of a tag and bits (16 each) and an id (32). */
export function decodeAcl(bytes: Uint8Array): Acl | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < HEADER_BYTES || view.getUint32(0, true) !== VERSION) return undefined;
  const users = new Map<number, number>();
  const groups = new Map<number, number>();
  let owningGroup = 0;
  let mask = 7;
  for (let at = HEADER_BYTES; at + ENTRY_BYTES <= bytes.length; at += ENTRY_BYTES) {
    const [tag, bits, id] = [
      view.getUint16(at, true),
      view.getUint16(at + 2, true),
      view.getUint32(at + 4, true),
    ];
    if (tag === TAG_USER) users.set(id, bits);
    else if (tag === TAG_GROUP) groups.set(id, bits);
    else if (tag === TAG_OWNING_GROUP) owningGroup = bits;
    else if (tag === TAG_MASK) mask = bits;
  }
  return { users, groups, owningGroup, mask };
}
