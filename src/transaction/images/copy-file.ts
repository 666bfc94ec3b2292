// A copy of a file, byte for byte, but for its first bytes where those are to be others.
//
// Invariants
// - Holes stay holes: only what the file system says is data is written.
// - All below a mark is in the copy, and flushed.
// - Read back: what is on the disk by then is held against the source, which is read again.

import { ImgtxError } from "../../errors/index.ts";
import { flushAlong } from "../../format/index.ts";
import type { StorageFile } from "../../storage/index.ts";

/** What is copied in one go. */
const STRIDE_BYTES = 4 * 2 ** 20;

export interface FileCopy {
  readonly source: StorageFile;
  readonly target: StorageFile;
  /** What the copy begins with instead. Undefined: as the source. */
  readonly head: Uint8Array | undefined;
}

export interface HowToCopy {
  /** All below that is in the copy; 0: nothing is known of it. */
  readonly startBytes: number;
  readonly signal: AbortSignal | undefined;
  readonly throttle: ((lengthBytes: number) => Promise<void>) | undefined;
  /** Told of what has been gone through since it was called last. */
  readonly onProgress: (lengthBytes: number) => void;
  readonly isMarkDue: () => boolean;
  readonly keepMark: (offset: number) => Promise<void>;
}

/** Returns the bytes that were written; none where the file system shares the blocks. The copy is durable then. */
export async function copyFile(copy: FileCopy, how: HowToCopy): Promise<number> {
  const { source, target, head } = copy;
  const { sizeBytes } = await source.stat();
  let copiedBytes = 0;
  if (how.startBytes === 0) {
    if ((await target.stat()).sizeBytes > 0) await target.truncate(0);
    if (await target.cloneFrom(source)) how.onProgress((await source.stat()).allocatedBytes);
    else copiedBytes = await copyData(copy, sizeBytes, how);
  } else copiedBytes = await copyData(copy, sizeBytes, how);
  if (head) await target.write(head, 0);
  await target.flush("copied-so-far");
  return copiedBytes;
}

async function copyData({ source, target }: FileCopy, sizeBytes: number, how: HowToCopy): Promise<number> {
  const { startBytes, signal, onProgress, isMarkDue, keepMark } = how;
  const throttle = flushAlong(target, how.throttle);
  if (startBytes === 0) await target.truncate(sizeBytes);
  const buffer = new Uint8Array(Math.min(STRIDE_BYTES, Math.max(1, sizeBytes)));
  let copiedBytes = 0;
  for (let at = startBytes; ; ) {
    const start = at < sizeBytes ? await source.seekData(at) : undefined;
    if (start === undefined || start >= sizeBytes) return copiedBytes;
    const end = Math.min(await source.seekHole(start), start + STRIDE_BYTES, sizeBytes);
    signal?.throwIfAborted();
    const part = buffer.subarray(0, end - start);
    await readWhole(source, part, start);
    await throttle(part.length);
    await target.write(part, start);
    copiedBytes += part.length;
    onProgress(part.length);
    at = end;
    if (!isMarkDue() || at >= sizeBytes) continue;
    await target.flush("copied-so-far");
    await keepMark(at);
  }
}

/** E_IO where the copy does not read as it should. */
export async function verifyFile(
  { source, target, head = new Uint8Array() }: FileCopy,
  { signal, onProgress }: Pick<HowToCopy, "signal" | "onProgress">,
): Promise<void> {
  const { sizeBytes } = await source.stat();
  if ((await target.stat()).sizeBytes !== sizeBytes) throw isOther(source, target, sizeBytes);
  target.forget?.({ start: 0, lengthBytes: sizeBytes });
  const [wanted, found] = [new Uint8Array(STRIDE_BYTES), new Uint8Array(STRIDE_BYTES)];
  for (let at = 0; at < sizeBytes; ) {
    signal?.throwIfAborted();
    const [one, other] = [await source.seekData(at), await target.seekData(at)];
    const start = Math.min(one ?? sizeBytes, other ?? sizeBytes);
    const end = Math.min(start + STRIDE_BYTES, sizeBytes);
    if (start >= end) return;
    const [expected, present] = [wanted.subarray(0, end - start), found.subarray(0, end - start)];
    await readWhole(source, expected, start);
    await readWhole(target, present, start);
    if (start < head.length) expected.set(head.subarray(start, end));
    if (Buffer.compare(expected, present) !== 0) throw isOther(source, target, start);
    onProgress(end - start);
    at = end;
  }
}

async function readWhole(file: StorageFile, into: Uint8Array, offset: number): Promise<void> {
  const read = await file.read(into, offset);
  if (read === into.length) return;
  throw new ImgtxError("E_CHANGED", "the file became shorter while it was copied", { image: file.path });
}

function isOther(source: StorageFile, target: StorageFile, offset: number): ImgtxError {
  return new ImgtxError(
    "E_IO",
    `what was written does not read back as it is in '${source.path}': a disk may be failing`,
    { image: target.path, offset, hint: "look at the kernel's log; the source is as it was" },
  );
}
