// A change of a file as plain data: what a scratch file has that the file has not, and carrying it out.

import { closeSync, fstatSync, ftruncateSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import type { ScratchFile } from "../../src/format/index.ts";

export interface PatchWrite {
  readonly offset: number;
  /** What stands there now: shorter than after where the file ends inside, empty where it ends before. */
  readonly before: Uint8Array;
  readonly after: Uint8Array;
}

export interface ImagePatch {
  /** By ascending offset, without overlaps. */
  readonly writes: readonly PatchWrite[];
  /** Of the file afterwards. */
  readonly sizeBytes: number;
}

/** Differences that are as near as this go into one write. */
const GAP_BYTES = 16;
const CHUNK_BYTES = 65_536;

/** What differs. Zeros behind the end of the file are not in it. */
export async function patchOf(path: string, scratch: ScratchFile): Promise<ImagePatch> {
  const { sizeBytes } = await scratch.stat();
  const before = readFileSync(path);
  const after: { start: number; bytes: Buffer }[] = [];
  for (let start = 0; start < sizeBytes; start += CHUNK_BYTES) {
    const bytes = Buffer.alloc(Math.min(CHUNK_BYTES, sizeBytes - start));
    await scratch.read(bytes, start);
    const was = Buffer.alloc(bytes.length);
    was.set(before.subarray(start, start + bytes.length));
    if (!bytes.equals(was)) after.push({ start, bytes });
  }
  const ranges: { start: number; end: number; bytes: number[] }[] = [];
  for (const { start, bytes } of after) {
    for (const [index, byte] of bytes.entries()) {
      const at = start + index;
      if ((before[at] ?? 0) === byte) continue;
      const last = ranges.at(-1);
      const isNear = last !== undefined && at - last.end <= GAP_BYTES;
      if (isNear) {
        // What lies between is as it was.
        for (let gap = last.end; gap < at; gap += 1) last.bytes.push(before[gap] ?? 0);
        last.bytes.push(byte);
        last.end = at + 1;
      } else ranges.push({ start: at, end: at + 1, bytes: [byte] });
    }
  }
  const writes = ranges.map(({ start, end, bytes }) => ({
    offset: start,
    before: before.subarray(start, end),
    after: Uint8Array.from(bytes),
  }));
  return { writes, sizeBytes };
}

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
