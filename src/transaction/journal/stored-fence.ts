// The bytes of a fence, as journals and the device table keep them.

import { type FenceBytes, isFencePatch } from "../../format/index.ts";
import type { StoredFence } from "./records.ts";

export function storeFence({ offset, before, after }: FenceBytes): StoredFence {
  return { offset, before: toBase64(before), after: toBase64(after) };
}

export function fenceBytesOf({ offset, before, after }: StoredFence): FenceBytes {
  return { offset, before: Buffer.from(before, "base64"), after: Buffer.from(after, "base64") };
}

/** Whether it is one of a fence: of what is none neither side is written, whoever stored it. */
export function isStoredFence(fence: StoredFence): boolean {
  return isFencePatch(fenceBytesOf(fence));
}

function toBase64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}
