// Carries out a patch on a file, as the engine does behind its commit mark.

import { closeSync, fstatSync, ftruncateSync, openSync, readSync, writeSync } from "node:fs";
import type { ImagePatch, PatchWrite } from "../../src/format/qcow2/change/image-patch.ts";

/** Makes the writes in the order given: all of them in theirs, without one. */
export function applyPatch(
  path: string,
  { writes, sizeBytes }: ImagePatch,
  inOrder: readonly PatchWrite[] = writes,
): void {
  const file = openSync(path, "r+");
  try {
    if (fstatSync(file).size < sizeBytes) ftruncateSync(file, sizeBytes);
    for (const { offset, after } of inOrder) writeSync(file, after, 0, after.length, offset);
  } finally {
    closeSync(file);
  }
}

/** What is not as a patch must be: its writes, and that they say what stands in the file. */
export function patchProblems(path: string, { writes, sizeBytes }: ImagePatch): string[] {
  const problems: string[] = [];
  const file = openSync(path, "r");
  try {
    const { size } = fstatSync(file);
    if (sizeBytes < size) problems.push(`the file would shrink to ${sizeBytes}`);
    let end = 0;
    for (const { offset, before, after } of writes) {
      if (offset < end) problems.push(`the write at ${offset} begins inside the one before`);
      end = offset + after.length;
      if (end > sizeBytes) problems.push(`the write at ${offset} ends behind the file`);
      const present = Buffer.alloc(after.length);
      const count = readSync(file, present, 0, present.length, offset);
      if (!present.subarray(0, count).equals(before)) problems.push(`not what stands at ${offset}`);
      if (present.equals(after)) problems.push(`nothing changes at ${offset}`);
    }
  } finally {
    closeSync(file);
  }
  return problems;
}
