// Fences of opened images: what to write to set one, and to lift one that nobody remembers.

import type { ChainLink } from "../../chain/chain-link.ts";
import {
  type BytePatch,
  FENCE_ROOM_BYTES,
  type FencePatch,
  type FencePurpose,
  isFencedHead,
  planFence,
  planLift,
  planLiftAsCorrupt,
} from "../codec/fence.ts";
import { measureHeaderCluster } from "../codec/header-cluster.ts";
import { readBytes, readHead, readOwnHeader } from "../../read-header.ts";
import type { StorageFile } from "../../../storage/index.ts";

/**
 * The patch that fences an image that is not fenced, with its owner in the name. Undefined where the format has no
 * place for a fence: raw, and version 2 of qcow2.
 */
export async function planImageFence(
  link: Pick<ChainLink, "file" | "header">,
  owner: string,
  purpose?: FencePurpose,
  layers?: number,
): Promise<FencePatch | undefined> {
  if (link.header?.version !== 3) return undefined;
  return planFence(await readHeaderArea(link), owner, purpose, layers);
}

/** The same for a qcow2 image that is open by itself. Undefined too where it is fenced already. */
export async function planFileFence(
  file: StorageFile,
  owner: string,
  purpose?: FencePurpose,
  layers?: number,
): Promise<FencePatch | undefined> {
  const header = await readOwnHeader(file, file.path, { mayLackRefcounts: true });
  return header.isFenced ? undefined : await planImageFence({ file, header }, owner, purpose, layers);
}

/**
 * The patch that lifts the fence of an image that has one, by what the fence says of itself. One that may be half changed
 * gets the corrupt bit.
 */
export async function planImageLift(link: ChainLink): Promise<BytePatch> {
  const area = await readHeaderArea(link);
  return link.header?.changer === undefined ? planLift(area) : planLiftAsCorrupt(area);
}

/** Takes the fence off a file that is open for writing, durably, by what the fence says of itself. */
export async function liftFileFence(file: StorageFile, purpose: string): Promise<void> {
  const header = await readOwnHeader(file, file.path, { mayLackRefcounts: true });
  if (header.isFenced) {
    const { offset, after } = planLift(await readHeaderArea({ file, header }));
    await file.write(after, offset);
  }
  await file.flush(purpose);
}

/** "torn" is what a write leaves that ended amid the fence, "unknown" a header that has none of these bytes' fence. */
export type FenceStanding = "up" | "down" | "torn" | "unknown";

/**
 * How a fence of these bytes stands in a header whose other fields may have changed since: it is looked at only where its
 * two sides differ.
 */
export async function findFenceStanding(file: StorageFile, fence: BytePatch): Promise<FenceStanding> {
  const now = await readAt(file, fence);
  const own = [...now.keys()].filter((at) => fence.before[at] !== fence.after[at]);
  const isAll = (side: "before" | "after") => own.every((at) => now[at] === fence[side][at]);
  if (isAll("before")) return "down";
  if (isAll("after")) return "up";
  const isOfSides = own.every((at) => now[at] === fence.before[at] || now[at] === fence.after[at]);
  return isOfSides ? "torn" : "unknown";
}

/** Writes one side of it, and leaves what the header has else. */
export async function writeStanding(file: StorageFile, fence: BytePatch, side: "up" | "down"): Promise<void> {
  const now = await readAt(file, fence);
  const bytes = side === "up" ? fence.after : fence.before;
  const next = now.map((byte, at) => (fence.before[at] === fence.after[at] ? byte : (bytes[at] ?? byte)));
  await file.write(next, fence.offset);
}

async function readAt(file: StorageFile, { offset, after }: BytePatch): Promise<Uint8Array> {
  return await readBytes(file, offset, after.length);
}

/** Whether the file is a fenced qcow2 image. */
export async function isFileFenced(file: StorageFile): Promise<boolean> {
  return isFencedHead(await readHead(file));
}

async function readHeaderArea({ file, header }: Pick<ChainLink, "file" | "header">): Promise<Uint8Array> {
  const lengthBytes = measureHeaderCluster(await readHead(file)) + FENCE_ROOM_BYTES;
  return readBytes(file, 0, Math.min(lengthBytes, header?.clusterSizeBytes ?? 0));
}
