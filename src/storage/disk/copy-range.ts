// Copying a range of one file into another. Holes of the source become holes of the target, so that a copy
// takes no more space than its original.

import { ImgtxError } from "../../errors/index.ts";
import type { FileStat, StorageFile } from "../storage.ts";

export interface CopiedRange {
  readonly source: StorageFile;
  readonly sourceOffset: number;
  readonly target: StorageFile;
  readonly targetOffset: number;
  readonly lengthBytes: number;
}

/** How one implementation does the two things that it may do better than by read and write. */
export interface CopyMeans {
  copyData(sourceOffset: number, targetOffset: number, lengthBytes: number): Promise<void>;
  /** Makes the target at least this large. */
  growTo(sizeBytes: number): Promise<void>;
}

const MEMORY_BYTES = 1024 * 1024;

/**
 * Walks the source's data and holes. E_IO where the source ends before the range does; E_INTERNAL, a bug
 * of the caller's, where both ranges overlap in one file.
 */
export async function copyBetween(range: CopiedRange, means: CopyMeans): Promise<void> {
  const { source, sourceOffset, target, targetOffset, lengthBytes } = range;
  if (lengthBytes === 0) return;
  const sourceEnd = sourceOffset + lengthBytes;
  const sourceStat = await source.stat();
  if (sourceStat.sizeBytes < sourceEnd) throw endedEarly(source, sourceStat.sizeBytes, sourceEnd);
  if (isSameFile(sourceStat, await target.stat()) && Math.abs(sourceOffset - targetOffset) < lengthBytes) {
    throw new ImgtxError("E_INTERNAL", `'${target.path}' was to be copied onto itself`, {
      image: target.path,
      offset: targetOffset,
    });
  }

  const shift = targetOffset - sourceOffset;
  let position = sourceOffset;
  while (position < sourceEnd) {
    const dataStart = Math.min((await source.seekData(position)) ?? sourceEnd, sourceEnd);
    await makeHole(target, position + shift, dataStart - position);
    if (dataStart === sourceEnd) break;
    const dataEnd = Math.min(await source.seekHole(dataStart), sourceEnd);
    await means.copyData(dataStart, dataStart + shift, dataEnd - dataStart);
    position = dataEnd;
  }
  await means.growTo(sourceEnd + shift);
}

/** The same into a file of fixed size, which ends after the range. */
export async function copyIntoPlace(range: CopiedRange): Promise<void> {
  const { source, target } = range;
  await copyBetween(range, {
    copyData: (from, to, length) => copyThroughMemory(source, from, target, to, length),
    growTo: async () => undefined,
  });
}

export async function copyThroughMemory(
  source: StorageFile,
  sourceOffset: number,
  target: StorageFile,
  targetOffset: number,
  lengthBytes: number,
): Promise<void> {
  const buffer = new Uint8Array(Math.min(lengthBytes, MEMORY_BYTES));
  for (let done = 0; done < lengthBytes; ) {
    const piece = buffer.subarray(0, Math.min(buffer.length, lengthBytes - done));
    const count = await source.read(piece, sourceOffset + done);
    if (count < piece.length) {
      throw endedEarly(source, sourceOffset + done + count, sourceOffset + lengthBytes);
    }
    await target.write(piece, targetOffset + done);
    done += count;
  }
}

async function makeHole(target: StorageFile, start: number, lengthBytes: number): Promise<void> {
  if (lengthBytes === 0) return;
  const data = await target.seekData(start);
  if (data !== undefined && data < start + lengthBytes) await target.punchHole({ start, lengthBytes });
}

function isSameFile(a: FileStat, b: FileStat): boolean {
  return a.inode === b.inode && a.fileSystem === b.fileSystem;
}

function endedEarly(source: StorageFile, sizeBytes: number, wantedBytes: number): ImgtxError {
  const message = `Could not copy '${source.path}': it ends at ${sizeBytes}, before ${wantedBytes}`;
  return new ImgtxError("E_IO", message, { image: source.path, offset: sizeBytes });
}
