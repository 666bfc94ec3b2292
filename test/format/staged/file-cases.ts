// Random calls on one file: made through a staged storage, and the same made directly on a copy. Each read, each size
// and each hole has to be the same, and so has the file once the log is applied, wherever that is cut off.

import {
  type FenceBytes,
  type Guard,
  redoLogName,
  type SealedLog,
  sectorsOfFence,
  StagedStorage,
} from "../../../src/format/staged/index.ts";
import type { StorageFile } from "../../../src/storage/index.ts";
import type { MemoryDisk } from "../../fuzz/memory-storage.ts";
import { type Random, seededRandom } from "../../helpers/random.ts";
import { applySealed, diskWith, resumeAt } from "./disks.ts";

const IMAGE = "/disks/a.img";
const SOURCE = "/disks/source.img";
const SIZE_MAX = 20 * 4096;
const SECTOR_BYTES = 512;

export interface CaseFigures {
  cases: number;
  /** Applications that were cut off, and changes that those after them made. */
  cuts: number;
  changes: number;
}

/** What is wrong in the case of this seed; undefined where nothing is. */
export async function runFileCase(seed: number, figures: CaseFigures): Promise<string | undefined> {
  const random = seededRandom(seed);
  const isFenced = random.below(2) === 0;
  const sizeMin = isFenced ? SECTOR_BYTES : 0;
  const before = randomBytes(random, sizeMin + random.below(SIZE_MAX));
  const files = new Map([
    [IMAGE, before],
    [SOURCE, randomBytes(random, SIZE_MAX)],
  ]);
  const [disk, direct] = [diskWith(files), diskWith(files)];
  const begun = new StagedStorage(disk.storage);
  await begun.stage(IMAGE, {
    transaction: "t",
    log: redoLogName("t", random.below(3)),
    guardedBy: isFenced ? "fence" : "digests",
  });
  const staged = await makeCalls(random, { staged: begun, disk, direct }, sizeMin);
  if (typeof staged === "string") return staged;
  if (!disk.require(IMAGE).content.equals(before)) return "the image was touched before the mark";
  const fence = isFenced ? await stageFence(staged, before) : undefined;
  const [sealed] = await staged.seal();
  if (sealed === undefined) return "nothing was sealed";
  await staged.close();
  const raised = Buffer.from(before);
  if (fence) raised.set(fence.after, fence.offset);
  const applied = new Map([
    [IMAGE, raised],
    [`/disks/${sealed.log}`, disk.require(`/disks/${sealed.log}`).content],
  ]);
  figures.cases += 1;
  const guard: Guard = fence ? { kind: "fence", fence } : { kind: "digests" };
  return await judgeApplying(applied, sealed, guard, direct.require(IMAGE).content, figures);
}

/** Cuts the application off before each of its changes, and applies again. */
async function judgeApplying(
  files: ReadonlyMap<string, Uint8Array>,
  sealed: SealedLog,
  guard: Guard,
  after: Buffer,
  figures: CaseFigures,
): Promise<string | undefined> {
  for (let calls = 0; ; calls += 1) {
    const disk = diskWith(files);
    const { wasCut } = await applySealed(disk.storage, sealed, guard, calls);
    if (wasCut) {
      figures.cuts += 1;
      figures.changes += (await applySealed(disk.storage, sealed, guard)).changes;
    }
    const problem = firstDifference(disk.require(sealed.image).content, after);
    if (problem !== undefined) return `applied, and cut off before change ${calls}: ${problem}`;
    if (!wasCut) return undefined;
  }
}

/** A fence as in a header: it changes some bytes of the first sector. */
async function stageFence(staged: StagedStorage, image: Uint8Array): Promise<FenceBytes> {
  const before = image.slice(72, 80);
  const fence = { offset: 72, before, after: before.map((byte) => byte ^ 0x5a) };
  const { start, lengthBytes } = sectorsOfFence(fence);
  await staged.include(IMAGE, start, lengthBytes);
  return fence;
}

/** The storage that shows what the calls made; or what is wrong. */
async function makeCalls(
  random: Random,
  { staged: begun, disk, direct }: { staged: StagedStorage; disk: MemoryDisk; direct: MemoryDisk },
  sizeMin: number,
): Promise<StagedStorage | string> {
  let staged = begun;
  const openOurs = async () => {
    return { file: await staged.openFile(IMAGE, "write"), source: await staged.openFile(SOURCE, "read") };
  };
  let ours = await openOurs();
  const theirs = {
    file: await direct.storage.openFile(IMAGE, "write"),
    source: await direct.storage.openFile(SOURCE, "read"),
  };
  let kept: { sealed: readonly SealedLog[]; content: Buffer } | undefined;
  const steps = 1 + random.below(12);
  for (let step = 1; step <= steps; step += 1) {
    const node = direct.require(IMAGE);
    if (random.below(8) > 0) {
      const call = await chooseCall(random, theirs.file, sizeMin);
      for (const { file, source } of [ours, theirs]) await call(file, source);
    } else if (kept === undefined || random.below(2) === 0) {
      kept = { sealed: await staged.seal(), content: Buffer.from(node.content) };
    } else {
      await Promise.all([ours.file.close(), ours.source.close()]);
      staged = await resumeAt(staged, disk.storage, kept.sealed);
      ours = await openOurs();
      node.content = Buffer.from(kept.content);
    }
    const problem = await compareFiles(random, ours.file, node.content);
    if (problem !== undefined) return `after step ${step}: ${problem}`;
  }
  for (const { file, source } of [ours, theirs]) await Promise.all([file.close(), source.close()]);
  return staged;
}

type Call = (file: StorageFile, source: StorageFile) => Promise<void>;

async function chooseCall(random: Random, file: StorageFile, sizeMin: number): Promise<Call> {
  const { sizeBytes } = await file.stat();
  const unit = [1, 512, 4096][random.below(3)] ?? 1;
  const roundTo = (bytes: number): number => Math.floor(bytes / unit) * unit;
  const start = roundTo(random.below(SIZE_MAX));
  const lengthBytes = 1 + roundTo(random.below([300, 3000, 30_000][random.below(3)] ?? 1));
  switch (random.below(8)) {
    case 0:
    case 1: {
      const bytes = randomBytes(random, lengthBytes);
      return async (each) => await each.write(bytes, start);
    }
    case 2:
      return async (each) => await each.write(new Uint8Array(lengthBytes), start);
    case 3: {
      // What is there already, as a writer does that writes a table anew.
      const from = Math.min(start, Math.max(0, sizeBytes - 1));
      const bytes = new Uint8Array(lengthBytes);
      const present = bytes.subarray(0, await file.read(bytes, from));
      return async (each) => await each.write(present, from);
    }
    case 4:
      return async (each) => await each.truncate(Math.max(sizeMin, start));
    case 5:
    case 6:
      return async (each) => await each.punchHole({ start, lengthBytes });
    default: {
      if (random.below(2) === 0) return async (each) => await each.allocate({ start, lengthBytes });
      const count = Math.min(lengthBytes, SIZE_MAX - start);
      return async (each, source) => await each.copyRangeFrom(source, start, roundTo(start / 2), count);
    }
  }
}

async function compareFiles(random: Random, ours: StorageFile, content: Buffer): Promise<string | undefined> {
  const { sizeBytes } = await ours.stat();
  if (sizeBytes !== content.length) return `${sizeBytes} bytes in the place of ${content.length}`;
  const offset = random.below(SIZE_MAX);
  const bytes = new Uint8Array(1 + random.below(20_000));
  const count = await ours.read(bytes, offset);
  const problem = firstDifference(bytes.subarray(0, count), content.subarray(offset, offset + bytes.length));
  if (problem !== undefined) return `read from ${offset}: ${problem}`;
  const at = random.below(sizeBytes + 1);
  const data = (await ours.seekData(at)) ?? sizeBytes;
  if (!isZeros(content.subarray(at, data))) return `no data from ${at} to ${data}`;
  const hole = await ours.seekHole(at);
  const behind = (await ours.seekData(hole)) ?? sizeBytes;
  if (hole < at || hole > Math.max(at, sizeBytes)) return `a hole at ${hole}, asked for from ${at} on`;
  if (!isZeros(content.subarray(hole, behind))) return `a hole from ${hole} to ${behind}`;
  return undefined;
}

const ZEROS = Buffer.alloc(SIZE_MAX + 64 * 1024);

function isZeros(bytes: Buffer): boolean {
  return ZEROS.compare(bytes, 0, bytes.length, 0, bytes.length) === 0;
}

export function firstDifference(ours: Uint8Array, theirs: Uint8Array): string | undefined {
  if (Buffer.compare(ours, theirs) === 0) return undefined;
  const at = ours.findIndex((byte, index) => byte !== theirs[index]);
  return `${ours.length} bytes in the place of ${theirs.length}, other ones from ${at} on`;
}

/** Some of it zeros, in ranges that fit pages and in others. */
function randomBytes(random: Random, lengthBytes: number): Uint8Array {
  const bytes = new Uint8Array(lengthBytes);
  for (let at = 0; at < lengthBytes; ) {
    const stop = at + 1 + random.below(3 * 4096);
    if (random.below(3) > 0) {
      const seed = random.below(256);
      for (let byte = at; byte < Math.min(stop, lengthBytes); byte += 1)
        bytes[byte] = 1 + ((seed + byte) % 251);
    }
    at = random.below(2) === 0 ? stop : Math.ceil(stop / 4096) * 4096;
  }
  return bytes;
}
