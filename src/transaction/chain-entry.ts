// From an open chain to what the table and the journal keep of it.

import type { ChainEntry, DeviceEntry, DeviceTable } from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import {
  type Chain,
  type ChainLink,
  describeChanges,
  type Fingerprint,
  takeFingerprint,
} from "../format/index.ts";
import type { WatchedImage } from "./journal/index.ts";

/** Stands for the fingerprint of a file that is not made yet. */
export const NOT_MADE_YET: Fingerprint = {
  sizeBytes: 0,
  modifiedNs: "0",
  inode: "0",
  bornNs: "0",
  headerSha256: null,
};

export async function deviceEntryOf(device: string, chain: Chain): Promise<DeviceEntry> {
  const entries = await chainEntriesOf(chain);
  const { path, format, virtualSizeBytes } = activeLayer(chain);
  return { name: device, image: path, format, virtualSizeBytes, chain: entries };
}

export async function chainEntriesOf(chain: Chain): Promise<ChainEntry[]> {
  return await Promise.all(
    chain.links.map(async (link) => ({
      image: link.path,
      format: link.format,
      name: link.name ?? null,
      fingerprint: await fingerprintOf(link),
    })),
  );
}

const taken = new WeakMap<ChainLink, Fingerprint>();

/** As the link was when it was first asked for: the table and the watch of one plan must not differ. */
async function fingerprintOf(link: ChainLink): Promise<Fingerprint> {
  const known = taken.get(link);
  if (known) return known;
  const fingerprint = await takeFingerprint(link.file, link.header);
  taken.set(link, fingerprint);
  return fingerprint;
}

export function activeLayer(chain: Chain): ChainLink {
  const [top] = chain.links;
  if (!top) throw new Error("a chain has at least its active layer");
  return top;
}

/** Every file of a chain as it is now, external data files included. */
export async function watchChain(device: string, chain: Chain): Promise<WatchedImage[]> {
  const watched: WatchedImage[] = [];
  for (const link of chain.links) {
    const { path, dataFile } = link;
    watched.push({ device, image: path, fingerprint: await fingerprintOf(link) });
    if (dataFile) {
      watched.push({
        device,
        image: dataFile.path,
        fingerprint: await takeFingerprint(dataFile.file, undefined),
      });
    }
  }
  return watched;
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
    hint: "find out who wrote to it; then 'imgtx txn abort' and begin again",
  });
}

/**
 * Refuses a table in which one device writes to an image that another device reads through its chain, or
 * writes to as well: the other one's content would change under it.
 */
export function assertActiveLayersApart(table: DeviceTable): void {
  const users = new Map<string, { device: string; depth: number }[]>();
  for (const { name, chain } of table.devices) {
    for (const [depth, { image, fingerprint }] of chain.entries()) {
      for (const key of identitiesOf(image, fingerprint)) {
        users.set(key, [...(users.get(key) ?? []), { device: name, depth }]);
      }
    }
  }
  for (const { name, image, chain } of table.devices) {
    const [top] = chain;
    const keys = top ? identitiesOf(image, top.fingerprint) : [];
    const other = keys.flatMap((key) => users.get(key) ?? []).find((user) => user.device !== name);
    if (!other) continue;
    throw new ImgtxError(
      "E_IN_USE",
      other.depth === 0
        ? `it is the active layer of '${other.device}' too`
        : `'${other.device}' uses it as a backing image; a write by '${name}' would corrupt '${other.device}'`,
      { device: name, image, hint: `make an overlay over it for '${name}', and use that` },
    );
  }
}

function identitiesOf(image: string, { inode, bornNs }: Fingerprint): string[] {
  return bornNs === "0" ? [image] : [image, `${inode} ${bornNs}`];
}
