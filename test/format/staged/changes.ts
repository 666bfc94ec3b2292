// Changes of an image for the tests of applying: each kind of page, hole and size, under each guard.

import {
  type FenceBytes,
  type Guard,
  type SealedLog,
  sectorsOfFence,
  StagedStorage,
} from "../../../src/format/staged/index.ts";
import type { Storage } from "../../../src/storage/index.ts";

export const IMAGE = "/disks/a.img";
const PAGE_BYTES = 4096;

/** A file of bytes that differ from sector to sector. */
export function imageOf(sizeBytes: number): Buffer {
  return Buffer.from(Array.from({ length: sizeBytes }, (_, at) => 1 + ((Math.floor(at / 512) * 7) % 250)));
}

export interface Change {
  readonly sizeBytes: number;
  readonly writes: readonly (readonly [offset: number, lengthBytes: number])[];
  readonly holes?: readonly (readonly [offset: number, lengthBytes: number])[];
  readonly newSizeBytes?: number;
  readonly isFenced?: boolean;
  /** Whether another fence is over what it leaves. */
  readonly keepsFence?: boolean;
}

export const GROWING: Change = {
  sizeBytes: 5 * PAGE_BYTES + 700,
  writes: [
    [600, 300],
    [2 * PAGE_BYTES - 100, 5000],
    [6 * PAGE_BYTES, 3 * PAGE_BYTES],
  ],
  holes: [[4 * PAGE_BYTES, PAGE_BYTES]],
  newSizeBytes: 11 * PAGE_BYTES + 300,
};
export const SHRINKING: Change = {
  sizeBytes: 8 * PAGE_BYTES,
  writes: [
    [600, 300],
    [3 * PAGE_BYTES, 1000],
  ],
  newSizeBytes: 3 * PAGE_BYTES + 900,
};

export const FENCE_AT = 72;
const FENCE = 0x40;
const KEPT_FENCE = 0x41;

/** Stages the change on an image that is there, and seals it. */
export async function stageChange(
  storage: Storage,
  change: Change,
): Promise<{ sealed: SealedLog; guard: Guard }> {
  const staged = new StagedStorage(storage);
  const guardedBy = change.isFenced ? "fence" : "digests";
  await staged.stage(IMAGE, { transaction: "t1", log: ".imgtx-t1-0.redo", guardedBy });
  const file = await staged.openFile(IMAGE, "write");
  for (const [offset, lengthBytes] of change.writes) {
    await file.write(new Uint8Array(lengthBytes).fill(255), offset);
  }
  for (const [start, lengthBytes] of change.holes ?? []) await file.punchHole({ start, lengthBytes });
  if (change.newSizeBytes !== undefined) await file.truncate(change.newSizeBytes);
  const before = new Uint8Array(8);
  await file.read(before, FENCE_AT);
  const fence: FenceBytes = { offset: FENCE_AT, before, after: before.map((byte) => byte ^ FENCE) };
  const { start, lengthBytes } = sectorsOfFence(fence);
  if (change.isFenced) await staged.include(IMAGE, start, lengthBytes);
  await file.close();
  const [sealed] = await staged.seal();
  await staged.close();
  const kept = change.keepsFence ? { ...fence, after: before.map((byte) => byte ^ KEPT_FENCE) } : undefined;
  return { sealed: sealed!, guard: change.isFenced ? { kind: "fence", fence, kept } : { kind: "digests" } };
}

/** What the change makes of the image. */
export function resultOf(change: Change): Buffer {
  const end = Math.max(change.sizeBytes, change.newSizeBytes ?? 0);
  const content = Buffer.concat([imageOf(change.sizeBytes), Buffer.alloc(end - change.sizeBytes)]);
  for (const [offset, lengthBytes] of change.writes) content.fill(255, offset, offset + lengthBytes);
  for (const [offset, lengthBytes] of change.holes ?? []) content.fill(0, offset, offset + lengthBytes);
  if (change.keepsFence) for (let at = 0; at < 8; at += 1) content[FENCE_AT + at]! ^= KEPT_FENCE;
  return content.subarray(0, change.newSizeBytes ?? end);
}

export const CHANGES: (readonly [string, Change])[] = [
  ["digests, growing", GROWING],
  ["digests, shrinking", SHRINKING],
  ["a fence, growing", { ...GROWING, isFenced: true }],
  ["a fence, shrinking", { ...SHRINKING, isFenced: true }],
  ["a fence that stays", { ...SHRINKING, isFenced: true, keepsFence: true }],
];
