// What the tests of bitmap changes do with an image: change it by imgtx's own code, or by qemu-img, and have both
// judge what is left.

import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { onTestFinished } from "vitest";
import {
  type BitmapStep,
  type ChainLink,
  changeBitmaps,
  checkQcow2,
  judgeBitmaps,
  openChain,
  readBitmapDirectory,
  readDirtyRanges,
  readWitnessedRanges,
  redoLogName,
  StagedStorage,
} from "../../../src/format/index.ts";
import { findMarkedRanges } from "../../../src/format/qcow2/read/qcow2-bitmaps.ts";
import { type ByteRange, makeNodeStorage } from "../../../src/storage/index.ts";
import { makeFolder } from "../temporary-folder.ts";

const storage = makeNodeStorage();

/** In the image's folder, where relative names of data files are looked for. */
export function run(image: string, program: string, ...args: string[]): string {
  const cwd = path.dirname(image);
  return execFileSync(program, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** keep: it stays open until the test ends. */
export async function withLink<T>(
  image: string,
  use: (link: ChainLink) => Promise<T>,
  keep?: "keep",
): Promise<T> {
  const gate = { workspaceRoot: path.dirname(image), allowPaths: [], currentFolder: path.dirname(image) };
  const chain = await openChain(storage, image, { format: "qcow2", gate, backing: false });
  if (keep) onTestFinished(async () => await chain.close());
  try {
    return await use(chain.links[0]!);
  } finally {
    if (!keep) await chain.close();
  }
}

export type Change =
  | Exclude<BitmapStep, { kind: "merge" }>
  | { readonly kind: "merge"; readonly name: string; readonly from: string; readonly image?: string };

/** What the image's file would hold with these changes. They are staged, and the image is only read. */
export async function planChange(image: string, ...changes: readonly Change[]): Promise<Buffer> {
  const staged = new StagedStorage(storage);
  const [transaction, guardedBy, folder] = ["0", "fence", makeFolder()] as const;
  await staged.stage(image, { transaction, log: redoLogName(transaction, 0), guardedBy, folder });
  try {
    return await withLink(image, async (link) => {
      const steps: BitmapStep[] = [];
      for (const { ...change } of changes) {
        if (change.kind !== "merge" || change.image === undefined) steps.push(change);
        else await withLink(change.image, async (source) => void steps.push({ ...change, source }), "keep");
      }
      await judgeBitmaps(link, steps);
      const file = await staged.openFile(image, "write");
      await changeBitmaps({ ...link, file, stat: await file.stat() }, steps, { isCounted: true });
      const { sizeBytes } = await file.stat();
      if (sizeBytes > link.stat.sizeBytes + 2 ** 28) throw new Error(`${image} would get ${sizeBytes} bytes`);
      const content = Buffer.alloc(sizeBytes);
      await file.read(content, 0);
      await file.close();
      return content;
    });
  } finally {
    await staged.close();
  }
}

export async function change(image: string, ...changes: readonly Change[]): Promise<void> {
  writeFileSync(image, await planChange(image, ...changes));
}

/** Two new bitmaps in the place of all, the second of which marks the end of the disk. */
export async function makeWitnessed(image: string, name: string, witness: string): Promise<void> {
  const present = await withLink(image, readBitmapDirectory);
  await change(
    image,
    ...present.map((each) => ({ kind: "remove", name: each.name }) as const),
    { kind: "add", name },
    { kind: "add", name: witness, marksEnd: true },
  );
}

export function readWitnessed(
  image: string,
  name: string,
  witness: string,
): ReturnType<typeof readWitnessedRanges> {
  return withLink(image, (link) => readWitnessedRanges(link, { name, witness }));
}

export function changeByQemu(image: string, what: Change): void {
  const options = optionsOf(what);
  run(image, "qemu-img", "bitmap", ...options, "-f", "qcow2", image, what.name);
}

function optionsOf(what: Change): string[] {
  if (what.kind === "merge") {
    return ["--merge", what.from, ...(what.image === undefined ? [] : ["-F", "qcow2", "-b", what.image])];
  }
  if (what.kind !== "add") return [`--${what.kind}`];
  const { granularityBytes, isDisabled } = what;
  return [
    "--add",
    ...(granularityBytes === undefined ? [] : ["-g", `${granularityBytes}`]),
    ...(isDisabled ? ["--disable"] : []),
  ];
}

/** As qemu-img info lists them. */
export function listByQemu(image: string): unknown {
  const info = JSON.parse(run(image, "qemu-img", "info", "-f", "qcow2", "--output=json", image)) as {
    "format-specific": { data: { bitmaps?: unknown } };
  };
  return info["format-specific"].data.bitmaps ?? [];
}

/** What both say in their directories, but for where the tables lie. */
export async function listOwn(image: string): Promise<unknown> {
  const directory = await withLink(image, readBitmapDirectory);
  return directory.map((entry) => ({ ...entry, bitmapTableOffset: 0 }));
}

interface Faults {
  readonly errors: number;
  readonly leaks: number;
}

/** What imgtx's own check finds. */
export async function countFaults(image: string): Promise<Faults> {
  const file = await storage.openFile(image, "read");
  try {
    const own = await checkQcow2(file, () => {});
    return { errors: own.corruptions + own.checkErrors, leaks: own.leaks };
  } finally {
    await file.close();
  }
}

/** The same, after qemu-img found no fault at all. */
export async function judge(image: string): Promise<Faults> {
  run(image, "qemu-img", "check", "-q", "-f", "qcow2", image);
  return countFaults(image);
}

/** What it marks, be it enabled or not. */
export function marksOf(image: string, name: string): Promise<ByteRange[]> {
  return withLink(image, async (link) => {
    const bitmap = (await readBitmapDirectory(link)).find((each) => each.name === name)!;
    const ranges: ByteRange[] = [];
    for await (const range of findMarkedRanges(link, bitmap)) ranges.push(range);
    return ranges;
  });
}

/** The marked ranges, or why there are none to rely on. */
export function collectDirty(image: string, name: string): Promise<ByteRange[] | string> {
  return withLink(image, async (link) => {
    const dirty = await readDirtyRanges(link, name);
    if (dirty.kind === "unusable") return dirty.fault;
    const ranges: ByteRange[] = [];
    for await (const range of dirty.ranges) ranges.push(range);
    return ranges;
  });
}

/** Ranges rounded out to the granularity, joined, and cut off at the end of the disk. */
export function roundOut(
  written: readonly ByteRange[],
  granularityBytes: number,
  sizeBytes: number,
): ByteRange[] {
  const bits = new Set<number>();
  for (const { start, lengthBytes } of written) {
    for (let bit = Math.floor(start / granularityBytes); bit * granularityBytes < start + lengthBytes; ) {
      bits.add(bit);
      bit += 1;
    }
  }
  const ranges: { start: number; lengthBytes: number }[] = [];
  for (const bit of [...bits].sort((one, other) => one - other)) {
    const start = bit * granularityBytes;
    const lengthBytes = Math.min(granularityBytes, sizeBytes - start);
    const last = ranges.at(-1);
    if (last !== undefined && last.start + last.lengthBytes === start) last.lengthBytes += lengthBytes;
    else ranges.push({ start, lengthBytes });
  }
  return ranges;
}
