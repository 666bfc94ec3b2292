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
  const top = activeLayer(chain);
  return { name: device, image: top.path, format: top.format, chain: entries };
}

export async function chainEntriesOf(chain: Chain): Promise<ChainEntry[]> {
  return await Promise.all(
    chain.links.map(async (link) => ({
      image: link.path,
      format: link.format,
      name: link.name ?? null,
      fingerprint: await takeFingerprint(link.file, link.header),
    })),
  );
}

export function activeLayer(chain: Chain): ChainLink {
  const [top] = chain.links;
  if (!top) throw new Error("a chain has at least its active layer");
  return top;
}

/** Every file of a chain as it is now, external data files included. */
export async function watchChain(device: string, chain: Chain): Promise<WatchedImage[]> {
  const watched: WatchedImage[] = [];
  for (const { path, file, header, dataFile } of chain.links) {
    watched.push({ device, image: path, fingerprint: await takeFingerprint(file, header) });
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
