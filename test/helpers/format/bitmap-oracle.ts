// What the tests of bitmap changes do with an image: change it by imgtx's own code, or by qemu-img, and have both
// judge what is left.

import { execFileSync } from "node:child_process";
import path from "node:path";
import {
  checkQcow2,
  openChain,
  replaceBitmaps,
  ScratchFile,
  readDirtyRanges,
  readWitnessedRanges,
} from "../../../src/format/index.ts";
import { addBitmap, clearBitmap, removeBitmap } from "../../../src/format/qcow2/change/bitmaps.ts";
import { type ByteRange, makeNodeStorage } from "../../../src/storage/index.ts";
import { applyPatch, type ImagePatch, patchOf, patchProblems } from "../image-patch.ts";

const storage = makeNodeStorage();

/** In the image's folder, where relative names of data files are looked for. */
export function run(image: string, program: string, ...args: string[]): string {
  const cwd = path.dirname(image);
  return execFileSync(program, args, { cwd, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

type Link = Parameters<typeof addBitmap>[0];

export async function withLink<T>(image: string, use: (link: Link) => Promise<T>): Promise<T> {
  const gate = { workspaceRoot: path.dirname(image), allowPaths: [], currentFolder: path.dirname(image) };
  const chain = await openChain(storage, image, { format: "qcow2", gate, backing: false });
  try {
    return await use(chain.links[0]!);
  } finally {
    await chain.close();
  }
}

export type Change =
  | { readonly kind: "add"; readonly name: string; readonly granularityBytes?: number }
  | { readonly kind: "clear" | "remove"; readonly name: string };

export function planChange(image: string, change: Change): Promise<ImagePatch> {
  return withLink(image, async (link) => {
    const file = new ScratchFile(link.file, link.stat);
    if (change.kind === "add") await addBitmap(link, file, change);
    else await (change.kind === "clear" ? clearBitmap : removeBitmap)(link, file, change);
    return await patchOf(image, file);
  });
}

export async function change(image: string, what: Change): Promise<ImagePatch> {
  const patch = await planChange(image, what);
  const problems = patchProblems(image, patch);
  if (problems.length > 0) throw new Error(problems.join("\n"));
  applyPatch(image, patch);
  return patch;
}

/** Two new bitmaps in the place of all, the second of which marks the end of the disk. */
export async function makeWitnessed(image: string, name: string, witness: string): Promise<void> {
  const added = [{ name }, { name: witness, marksEnd: true }];
  const patch = await withLink(image, async (link) => {
    const file = new ScratchFile(link.file, link.stat);
    await replaceBitmaps(link, file, { isDropped: () => true, added });
    return await patchOf(image, file);
  });
  const problems = patchProblems(image, patch);
  if (problems.length > 0) throw new Error(problems.join("\n"));
  applyPatch(image, patch);
}

export function readWitnessed(
  image: string,
  name: string,
  witness: string,
): Promise<readonly ByteRange[] | string> {
  return withLink(image, (link) => readWitnessedRanges(link, { name, witness }));
}

export function changeByQemu(image: string, what: Change): void {
  const granularity =
    what.kind === "add" && what.granularityBytes !== undefined ? ["-g", `${what.granularityBytes}`] : [];
  run(image, "qemu-img", "bitmap", `--${what.kind}`, ...granularity, "-f", "qcow2", image, what.name);
}

/** As qemu-img info lists them. */
export function listByQemu(image: string): unknown {
  const info = JSON.parse(run(image, "qemu-img", "info", "-f", "qcow2", "--output=json", image)) as {
    "format-specific": { data: { bitmaps?: unknown } };
  };
  return info["format-specific"].data.bitmaps ?? [];
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

/** The marked ranges, or why there are none to rely on. */
export function collectDirty(image: string, name: string): Promise<ByteRange[] | string> {
  return withLink(image, async (link) => {
    const dirty = await readDirtyRanges(link, name);
    if (dirty.kind === "unusable") return dirty.why;
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
