// From an open chain to what the table and the journal keep of it.

import {
  type ChainEntry,
  type DeviceEntry,
  type DeviceTable,
  filesOfEntry,
  type SeenFile,
  trustedBy,
  withTrusted,
} from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import {
  type Chain,
  type ChainLink,
  describeChanges,
  type Fingerprint,
  identityOf,
  inSmallerVolume,
  isSameFile,
  settleFingerprint,
  type ImageFormat,
  shellQuote,
} from "../../../format/index.ts";
import type { Storage } from "../../../storage/index.ts";
import type { Note } from "../../notes/notes.ts";
import { NOT_MADE_YET, type WatchedImage } from "../../journal/index.ts";
import type { PlanContext } from "./action.ts";

/** A device on this chain, with neither a mirror nor a freeze. It trusts what the device did, and has its provisioner, if it was one before. */
export function deviceEntryOf(device: string, chain: Chain, before?: DeviceEntry): DeviceEntry {
  const { provision } = before ?? {};
  const entry = {
    name: device,
    ...placeOf(chain),
    mirror: null,
    frozen: null,
    ...(provision && { provision }),
  };
  return withTrusted(entry, before ? trustedBy(before) : []);
}

/** What of a device's entry follows from its chain. */
export function placeOf(chain: Chain): Pick<DeviceEntry, "image" | "format" | "virtualSizeBytes" | "chain"> {
  const { path, format, virtualSizeBytes } = activeLayer(chain);
  return { image: path, format, virtualSizeBytes, chain: chainEntriesOf(chain) };
}

/** Where an operator's file stands among images of a chain: by what identifies it, whatever its name. Index -1: nowhere. */
export async function findLink(
  device: string,
  links: readonly ChainLink[],
  file: string,
  { storage, canonicalPath }: Pick<PlanContext, "storage" | "canonicalPath">,
): Promise<{ readonly path: string; readonly index: number }> {
  const path = await canonicalPath(file, device);
  const stat = await storage.stat(path);
  const index = stat ? links.findIndex((link) => identityOf(link.stat) === identityOf(stat)) : -1;
  return { path, index };
}

/** What a result says where a device goes to another image, and its mirror does not come along. */
export function notesOnMirrorLeft({ name, mirror }: DeviceEntry): Note[] {
  return mirror ? [{ code: "mirror left", image: mirror.image, device: name }] : [];
}

export function chainEntriesOf(chain: Pick<Chain, "links">): ChainEntry[] {
  return chain.links.map(({ path, format, name, fingerprint, dataFile }) => ({
    image: path,
    format,
    name: name ?? null,
    fingerprint,
    dataFile: dataFile ? { image: dataFile.path, fingerprint: dataFile.fingerprint } : null,
  }));
}

export function activeLayer(chain: Chain): ChainLink {
  const [top] = chain.links;
  if (!top) throw new Error("a chain has at least its active layer");
  return top;
}

/** The chain with fingerprints that later writes would show in, as far as that takes milliseconds: what copies go by. */
export async function settleChain(host: Storage["host"], chain: Chain): Promise<Chain> {
  const settled = chain.links.map(async (link): Promise<ChainLink> => {
    const { dataFile } = link;
    return {
      ...link,
      fingerprint: await settleFingerprint(host, link.file, link.fingerprint),
      dataFile: dataFile && {
        ...dataFile,
        fingerprint: await settleFingerprint(host, dataFile.file, dataFile.fingerprint),
      },
    };
  });
  return { links: await Promise.all(settled), close: async () => await chain.close() };
}

/** Every file of a chain as it was opened, external data files included. */
export function watchChain(device: string, chain: Chain): WatchedImage[] {
  return chain.links.flatMap(({ path, fingerprint, dataFile }) => [
    { device, image: path, fingerprint },
    ...(dataFile ? [{ device, image: dataFile.path, fingerprint: dataFile.fingerprint }] : []),
  ]);
}

/**
 * E_CHANGED, with what is different, unless the image is what it was, or of qcow2 in a volume that became larger. isAlone: of a
 * command that is a transaction by itself. isFilled: what is raw becomes an image of qcow2.
 */
export function assertUnchanged(
  watched: WatchedImage,
  now: Fingerprint,
  {
    since,
    isAlone,
    isFilled,
  }: { readonly since: string; readonly isAlone: boolean; readonly isFilled: boolean },
): void {
  const { fingerprint: before } = watched;
  const changes = describeChanges(before, isFilled ? inSmallerVolume(before, now) : now);
  if (changes.length === 0) return;
  throw new ImgtxError("E_CHANGED", `the image has changed since ${since}: ${changes.join(", ")}`, {
    image: watched.image,
    ...(watched.device !== null && { device: watched.device }),
    hint: isAlone
      ? "find out who wrote to it, then run the command again"
      : "find out who wrote to it; then `imgtx txn abort` and begin again",
  });
}

/**
 * Refuses a table in which one device writes to an image that another device reads through its chain, or
 * writes to as well: the other one's content would change under it. The error is about a changed device. Those that
 * are not changed were apart before, and are only compared with the changed ones: there may be thousands of images.
 */
export async function assertActiveLayersApart(
  storage: Storage,
  table: DeviceTable,
  changed: readonly string[],
): Promise<void> {
  // A mirror counts as a device of its own beside: it is written to when it is brought in sync. What it and
  // its own device have in common is as it should be.
  const chains = table.devices.flatMap(({ name, image, chain, mirror }) => [
    { name, image, chain },
    ...(mirror ? [{ name, image: mirror.image, chain: mirror.chain }] : []),
  ]);
  const own = new Set(changed);
  const keys = new Set(
    chains.flatMap(({ name, chain }) => (own.has(name) ? chain.flatMap(filesOfEntry).flatMap(keysOf) : [])),
  );
  const users = new Map<string, User[]>();
  for (const { name: device, chain } of chains) {
    for (const [depth, entry] of chain.entries()) {
      for (const file of filesOfEntry(entry)) {
        for (const key of keysOf(file)) {
          if (!keys.has(key)) continue;
          const known = users.get(key);
          if (known) known.push({ file, device, depth });
          else users.set(key, [{ file, device, depth }]);
        }
      }
    }
  }
  for (const { name: writer, image, chain } of chains) {
    const [top] = chain;
    const others = (user: User): boolean =>
      user.device !== writer && (own.has(writer) || own.has(user.device));
    const other = top && (await findUser(storage, top, users, others));
    if (!other) continue;
    const { device: user, depth } = other;
    throw sharedImage({ writer, image, format: top.format, user, isBacking: depth > 0, changed });
  }
}

/** An image, or data file, of a device's chain. */
interface User {
  readonly file: SeenFile;
  readonly device: string;
  readonly depth: number;
}

/** Who of them has the image, or its data file, as well. */
async function findUser(
  storage: Storage,
  top: ChainEntry,
  users: ReadonlyMap<string, readonly User[]>,
  isAsked: (user: User) => boolean,
): Promise<User | undefined> {
  for (const file of filesOfEntry(top)) {
    for (const key of keysOf(file)) {
      for (const user of users.get(key) ?? [])
        if (isAsked(user) && (await areOne(storage, file, user.file))) return user;
    }
  }
  return undefined;
}

/** Two names of one file have one of them in common; two files may as well. */
function keysOf({ image, fingerprint: { inode } }: SeenFile): string[] {
  return inode === NOT_MADE_YET.inode ? [image] : [image, inode];
}

/**
 * A copy of a file system has its id, its inodes and its birth times; and what was kept of a file may be of another
 * mounting. So those that look like one are looked at, as they are now: few ever do.
 */
async function areOne(storage: Storage, a: SeenFile, b: SeenFile): Promise<boolean> {
  if (a.image === b.image) return true;
  if (!isSameFile(a.fingerprint, b.fingerprint)) return false;
  const [one, other] = [await storage.stat(a.image), await storage.stat(b.image)];
  return !one || !other || identityOf(one) === identityOf(other);
}

function sharedImage(shared: {
  writer: string;
  image: string;
  format: ImageFormat;
  user: string;
  isBacking: boolean;
  changed: readonly string[];
}): ImgtxError {
  const { writer, image, format, user, isBacking, changed } = shared;
  const isWritersFault = changed.includes(writer) || !changed.includes(user);
  const [device, other] = isWritersFault ? [writer, user] : [user, writer];
  const danger = `a write by '${writer}' would corrupt '${user}'`;
  const message = !isBacking
    ? `it is the active layer of '${other}' too`
    : isWritersFault
      ? `'${user}' uses it as a backing image; ${danger}`
      : `it is in the chain and the active layer of '${writer}'; ${danger}`;
  const overlay = `\`imgtx img create -f qcow2 -b ${shellQuote(image)} -F ${format} OVERLAY\``;
  const away = `give '${other}' an overlay of its own over it first, with \`imgtx snapshot ${other} FILE\``;
  const hint = !isBacking
    ? `${away}; then ${overlay} makes one for '${device}'`
    : isWritersFault
      ? `make an overlay over it for '${device}', and use that: ${overlay}`
      : away;
  return new ImgtxError("E_IN_USE", message, { device, image, hint });
}
