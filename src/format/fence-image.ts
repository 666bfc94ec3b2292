// Fences of opened images: what to write to set one, and to lift one that nobody remembers.

import type { ChainLink } from "./backing-chain.ts";
import { type BytePatch, FENCE_ROOM_BYTES, type FencePatch, planFence, planLift } from "./qcow2/fence.ts";
import { measureHeaderCluster } from "./qcow2/header-cluster.ts";
import { readBytes, readHead } from "./read-header.ts";

/**
 * The patch that fences an image that is not fenced, with its owner in the name. Undefined where the format has no
 * place for a fence: raw, and version 2 of qcow2.
 */
export async function planImageFence(link: ChainLink, owner: string): Promise<FencePatch | undefined> {
  if (link.header?.version !== 3) return undefined;
  return planFence(await readHeaderArea(link), owner);
}

/** The patch that lifts the fence of an image that has one, by what the fence says of itself. */
export async function planImageLift(link: ChainLink): Promise<BytePatch> {
  return planLift(await readHeaderArea(link));
}

async function readHeaderArea({ file, header }: ChainLink): Promise<Uint8Array> {
  const lengthBytes = measureHeaderCluster(await readHead(file)) + FENCE_ROOM_BYTES;
  return readBytes(file, 0, Math.min(lengthBytes, header?.clusterSizeBytes ?? 0));
}
