// Random changes of qcow2 images of every layout: made by today's writer through a staged storage, and the same made
// directly on a copy. What they read and refuse on the way has to be the same, and so have the files once the logs are
// applied, wherever that is cut off; and a check finds nothing in them.

import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { planImage, writeImage } from "../../../src/format/new/create.ts";
import type { CreateOptions } from "../../../src/format/new/create-options.ts";
import { planFileFence } from "../../../src/format/qcow2/change/fence-image.ts";
import { checkQcow2 } from "../../../src/format/qcow2/check/check.ts";
import {
  type Guard,
  type SealedLog,
  sectorsOfFence,
  StagedStorage,
} from "../../../src/format/staged/index.ts";
import type { MemoryDisk } from "../../fuzz/memory-storage.ts";
import { type Random, seededRandom } from "../../helpers/random.ts";
import { applySealed, diskWith, resumeAt } from "./disks.ts";
import { type CaseFigures, firstDifference } from "./file-cases.ts";
import { chooseCalls, chooseSteps, makeStep, PATH } from "./writer-steps.ts";

const BASE = "/disks/base.raw";
const DATA = "/disks/data.raw";
/** Cut off at each change up to so many; of more, at a choice of them. */
const CUTS_MAX = 16;

interface Subject {
  readonly files: ReadonlyMap<string, Uint8Array>;
  readonly clusterBytes: number;
  readonly sizeBytes: number;
  readonly version: 2 | 3;
}

interface StagedLog {
  readonly sealed: SealedLog;
  readonly guard: Guard;
}

/** What is wrong in the case of this seed; undefined where nothing is. */
export async function runWriterCase(seed: number, figures: CaseFigures): Promise<string | undefined> {
  const random = seededRandom(seed);
  const subject = await makeSubject(random);
  const [disk, direct] = [diskWith(subject.files), diskWith(subject.files)];
  let staged = new StagedStorage(disk.storage);
  const fence = await stageAll(staged, disk, subject);
  const steps = chooseSteps(random, subject.clusterBytes, subject.sizeBytes);
  for (const step of steps) {
    const [point, before] = [await staged.seal(), contentsOf(direct)];
    const [ours, theirs] = [await makeStep(staged, step), await makeStep(direct.storage, step)];
    // As the engine takes a statement back that was refused halfway.
    if (ours !== undefined) {
      staged = await resumeAt(staged, disk.storage, point);
      for (const [path, content] of before) direct.put(path, content);
    }
    if (ours !== theirs) return `${JSON.stringify(step)}: ${ours} in the place of ${theirs}`;
  }
  for (const [path, before] of subject.files) {
    if (!disk.require(path).content.equals(before)) return `${path} was touched before the mark`;
  }
  const sealed = await staged.seal();
  await staged.close();
  const logs = sealed.map((each): StagedLog => {
    const isFenced = fence !== undefined && each.image === PATH;
    return { sealed: each, guard: isFenced ? { kind: "fence", fence } : { kind: "digests" } };
  });
  if (fence) disk.require(PATH).content.set(fence.after, fence.offset);
  figures.cases += 1;
  const problem = await judgeLogs(random, disk, direct, logs, figures);
  // What a writer that keeps no bitmaps up leaves of them is for a check to collect.
  return problem ?? (await judgeImage(direct, { mayLeak: steps.some(({ kind }) => kind === "bitmap") }));
}

/** Stages the image, and its data file by a log of its own. Returns the image's fence, where it can have one. */
async function stageAll(staged: StagedStorage, disk: MemoryDisk, subject: Subject) {
  const guardedBy = subject.version === 3 ? "fence" : "digests";
  await staged.stage(PATH, { transaction: "t", log: ".imgtx-t-0.redo", guardedBy });
  if (subject.files.has(DATA)) {
    await staged.stage(DATA, { transaction: "t", log: ".imgtx-t-1.redo", guardedBy: "digests" });
  }
  if (subject.version === 2) return undefined;
  const file = await disk.storage.openFile(PATH, "read");
  const fence = await planFileFence(file, "t");
  await file.close();
  if (fence === undefined) throw new Error("an image of version 3 without a place for a fence");
  const { start, lengthBytes } = sectorsOfFence(fence);
  await staged.include(PATH, start, lengthBytes);
  return fence;
}

async function judgeLogs(
  random: Random,
  disk: MemoryDisk,
  direct: MemoryDisk,
  logs: readonly StagedLog[],
  figures: CaseFigures,
): Promise<string | undefined> {
  const files = contentsOf(disk);
  const changes = await applyAll(diskWith(files), logs);
  const every = Math.max(1, Math.ceil(changes / CUTS_MAX));
  for (let calls = random.below(every); calls <= changes; calls += every) {
    const again = diskWith(files);
    if (calls < changes) {
      await applyAll(again, logs, calls);
      figures.cuts += 1;
    }
    figures.changes += await applyAll(again, logs);
    for (const { sealed } of logs) {
      const problem = firstDifference(
        again.require(sealed.image).content,
        direct.require(sealed.image).content,
      );
      if (problem !== undefined) return `${sealed.image}, cut off before change ${calls}: ${problem}`;
    }
  }
  return undefined;
}

function contentsOf(disk: MemoryDisk): ReadonlyMap<string, Buffer> {
  const paths = disk.namesIn("/disks").map((name) => `/disks/${name}`);
  return new Map(paths.map((path) => [path, Buffer.from(disk.require(path).content)]));
}

/** One log after the other, until so many changes are made. */
async function applyAll(
  disk: MemoryDisk,
  logs: readonly StagedLog[],
  calls = Number.POSITIVE_INFINITY,
): Promise<number> {
  let changes = 0;
  for (const { sealed, guard } of logs) {
    const applied = await applySealed(disk.storage, sealed, guard, calls - changes);
    changes += applied.changes;
    if (applied.wasCut) break;
  }
  return changes;
}

async function judgeImage(
  disk: MemoryDisk,
  { mayLeak }: { readonly mayLeak: boolean },
): Promise<string | undefined> {
  const file = await disk.storage.openFile(PATH, "read");
  const findings: string[] = [];
  const { corruptions, leaks, checkErrors } = await checkQcow2(file, (line) => {
    findings.push(line);
  });
  await file.close();
  return corruptions + (mayLeak ? 0 : leaks) + checkErrors === 0 ? undefined : findings.join("; ");
}

const SNAPSHOT_FIXTURES = ["snapshots.qcow2", "snapshots-v2.qcow2", "snapshots-resized.qcow2"];
const unpacked = new Map<string, Uint8Array>();

async function makeSubject(random: Random): Promise<Subject> {
  if (random.below(6) > 0) return await makeNewSubject(random);
  const name = SNAPSHOT_FIXTURES[random.below(SNAPSHOT_FIXTURES.length)] ?? "snapshots.qcow2";
  const content = unpacked.get(name) ?? gunzipSync(readFileSync(`fixtures/${name}.gz`));
  unpacked.set(name, content);
  const view = new DataView(content.buffer, content.byteOffset, content.byteLength);
  return {
    files: new Map([[PATH, content]]),
    clusterBytes: 2 ** view.getUint32(20),
    sizeBytes: Number(view.getBigUint64(24)),
    version: view.getUint32(4) === 2 ? 2 : 3,
  };
}

/** A new image of some layout with something in it. */
async function makeNewSubject(random: Random): Promise<Subject> {
  const { options, clusterBytes, hasBacking, version } = chooseLayout(random);
  const clusters = clusterBytes >= 2 ** 20 ? 1 + random.below(3) : 3 + random.below(60);
  const odd = random.below(2) === 0 ? 0 : 512 * random.below(clusterBytes / 512);
  const sizeBytes = clusters * clusterBytes + odd;
  const disk = diskWith(new Map());
  if (hasBacking) disk.put(BASE, Buffer.alloc(512 * random.below((2 * sizeBytes) / 512), 7));
  const plan = await planImage({ format: "qcow2", virtualSizeBytes: sizeBytes, options });
  disk.put(PATH, Buffer.alloc(0));
  const file = await disk.storage.openFile(PATH, "write");
  const hasDataFile = options.dataFileName !== undefined;
  if (hasDataFile) disk.put(DATA, Buffer.alloc(0));
  const dataFile = hasDataFile ? await disk.storage.openFile(DATA, "write") : undefined;
  await writeImage({ file, dataFile }, plan);
  const refusal = await makeStep(disk.storage, {
    kind: "guest",
    calls: chooseCalls(random, clusterBytes, sizeBytes),
  });
  if (refusal !== undefined && refusal !== "E_UNSUPPORTED") throw new Error(`the first writes: ${refusal}`);
  const paths = [PATH, DATA, BASE].filter((path) => disk.find(path) !== undefined);
  return {
    files: new Map(paths.map((path) => [path, disk.require(path).content])),
    clusterBytes,
    sizeBytes,
    version,
  };
}

function chooseLayout(random: Random) {
  const bits = [9, 9, 9, 10, 12, 12, 12, 14, 14, 16, 16, random.below(12) === 0 ? 21 : 9];
  const clusterBytes = 2 ** (bits[random.below(bits.length)] ?? 9);
  const version: 2 | 3 = random.below(6) === 0 ? 2 : 3;
  const hasDataFile = version === 3 && random.below(6) === 0;
  const hasBacking = random.below(3) === 0;
  const isNew = version === 3;
  const options: CreateOptions = {
    clusterSizeBytes: clusterBytes,
    compat: isNew ? "1.1" : "0.10",
    ...(isNew ? { refcountBits: 2 ** random.below(7), lazyRefcounts: random.below(4) === 0 } : {}),
    ...(isNew && clusterBytes >= 16_384 ? { extendedL2: random.below(2) === 0 } : {}),
    ...(hasDataFile ? { dataFileName: DATA, dataFileRaw: !hasBacking && random.below(2) === 0 } : {}),
    ...(hasBacking ? { backingFileName: BASE, backingFormat: "raw" } : {}),
    ...(!hasBacking && random.below(5) === 0 ? { preallocation: "metadata" } : {}),
  };
  return { options, clusterBytes, hasBacking, version };
}
