// From an open chain to what the table and the journal keep of it.

import {
  type ChainEntry,
  type DeviceEntry,
  type DeviceTable,
  trustedBy,
  withTrusted,
} from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import { type Chain, type ChainLink, describeChanges, type Fingerprint } from "../format/index.ts";
import type { WatchedImage } from "./journal/index.ts";

/** Stands for the fingerprint of a file that is not made yet. */
export const NOT_MADE_YET: Fingerprint = {
  sizeBytes: 0,
  modifiedNs: "0",
  inode: "0",
  bornNs: "0",
  headerSha256: null,
};

/** A device on this chain, with neither a mirror nor a freeze. It trusts what the device did, if it was one before. */
export function deviceEntryOf(device: string, chain: Chain, before?: DeviceEntry): DeviceEntry {
  const entry = { name: device, ...placeOf(chain), mirror: null, frozen: null };
  return withTrusted(entry, before ? trustedBy(before) : []);
}

/** What of a device's entry follows from its chain. */
export function placeOf(chain: Chain): Pick<DeviceEntry, "image" | "format" | "virtualSizeBytes" | "chain"> {
  const { path, format, virtualSizeBytes } = activeLayer(chain);
  return { image: path, format, virtualSizeBytes, chain: chainEntriesOf(chain) };
}

/** What a result says where a device goes to another image, and its mirror does not come along. */
export function notesOnMirrorLeft({ name, mirror }: DeviceEntry): string[] {
  return mirror ? [`${mirror.image} stays as it is, and is the mirror of '${name}' no more`] : [];
}

export function chainEntriesOf(chain: Chain): ChainEntry[] {
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

/** Every file of a chain as it was opened, external data files included. */
export function watchChain(device: string, chain: Chain): WatchedImage[] {
  return chain.links.flatMap(({ path, fingerprint, dataFile }) => [
    { device, image: path, fingerprint },
    ...(dataFile ? [{ device, image: dataFile.path, fingerprint: dataFile.fingerprint }] : []),
  ]);
}

/**
 * Whether both are one file: the same inode, born at the same instant. Where the file system keeps no
 * birth times, the inode number alone has to do. The number of the file system does not count: it may
 * be another one after a reboot.
 */
export function isSameFile(
  a: Pick<Fingerprint, "inode" | "bornNs">,
  b: Pick<Fingerprint, "inode" | "bornNs">,
): boolean {
  return a.inode === b.inode && a.bornNs === b.bornNs;
}

/** E_CHANGED, with what is different, unless the image is what it was. */
export function assertUnchanged(watched: WatchedImage, now: Fingerprint, since: string): void {
  const changes = describeChanges(watched.fingerprint, now);
  if (changes.length === 0) return;
  throw new ImgtxError("E_CHANGED", `the image has changed since ${since}: ${changes.join(", ")}`, {
    image: watched.image,
    ...(watched.device !== null && { device: watched.device }),
    hint: "find out who wrote to it; then `imgtx txn abort` and begin again",
  });
}

/**
 * Refuses a table in which one device writes to an image that another device reads through its chain, or
 * writes to as well: the other one's content would change under it. The error is about a changed device.
 */
export function assertActiveLayersApart(table: DeviceTable, changed: readonly string[]): void {
  const users = new Map<string, { device: string; depth: number }[]>();
  // A mirror counts as a device of its own beside: it is written to when it is brought in line. What it and
  // its own device have in common is as it should be.
  const chains = table.devices.flatMap(({ name, image, chain, mirror }) => [
    { name, image, chain },
    ...(mirror ? [{ name, image: mirror.image, chain: mirror.chain }] : []),
  ]);
  for (const { name, chain } of chains) {
    for (const [depth, entry] of chain.entries()) {
      for (const key of identitiesOf(entry)) {
        const known = users.get(key);
        if (known) known.push({ device: name, depth });
        else users.set(key, [{ device: name, depth }]);
      }
    }
  }
  for (const { name: writer, image, chain } of chains) {
    const keys = chain.slice(0, 1).flatMap(identitiesOf);
    const other = keys.flatMap((key) => users.get(key) ?? []).find((user) => user.device !== writer);
    if (other) throw sharedImage({ writer, image, user: other.device, isBacking: other.depth > 0, changed });
  }
}

function sharedImage(shared: {
  writer: string;
  image: string;
  user: string;
  isBacking: boolean;
  changed: readonly string[];
}): ImgtxError {
  const { writer, image, user, isBacking, changed } = shared;
  const isWritersFault = changed.includes(writer) || !changed.includes(user);
  const [device, other] = isWritersFault ? [writer, user] : [user, writer];
  const danger = `a write by '${writer}' would corrupt '${user}'`;
  const message = !isBacking
    ? `it is the active layer of '${other}' too`
    : isWritersFault
      ? `'${user}' uses it as a backing image; ${danger}`
      : `it is in the chain and the active layer of '${writer}'; ${danger}`;
  const hint = isWritersFault
    ? `make an overlay over it for '${device}', and use that`
    : `give '${writer}' an overlay of its own over it first, with \`imgtx snapshot\``;
  return new ImgtxError("E_IN_USE", message, { device, image, hint });
}

/** Whatever tells that a file is the image or its data file. */
function identitiesOf(entry: ChainEntry): string[] {
  const files = entry.dataFile ? [entry, entry.dataFile] : [entry];
  return files.flatMap(({ image, fingerprint: { inode, bornNs } }) =>
    bornNs === "0" ? [image] : [image, `${inode} ${bornNs}`],
  );
}
