// All that a reader of an image does, as steps that a hostile image is put through: each ends well, or in a
// typed error.
//
// Invariant: a step is bounded by itself, since a disk of petabytes is no fault of imgtx: so many extents, so
// many bytes read.

import { guestOffset, offsetBy, guestRange } from "../../src/units/index.ts";
import type { CliContext } from "../../src/cli/context.ts";
import { run } from "../../src/cli/main.ts";
import {
  checkQcow2,
  describeImage,
  measureQcow2,
  measureRaw,
  openForCheck,
  openForInfo,
  openImage,
  type CheckResult,
  type GateOptions,
  type OpenedImage,
} from "../../src/format/index.ts";
import { findMarkedRanges, readBitmapDirectory } from "../../src/format/qcow2/read/qcow2-bitmaps.ts";
import type { ImageOptions } from "../../src/format/open/open-image.ts";
import { readSnapshotTable } from "../../src/format/qcow2/read/qcow2-snapshots.ts";
import type { Storage } from "../../src/storage/index.ts";
import { IMAGE_FOLDER, IMAGE_PATH } from "./hostile-subject.ts";

export interface Step {
  readonly name: string;
  run(storage: Storage): Promise<unknown>;
}

export const GATE: GateOptions = { allowPaths: [], currentFolder: IMAGE_FOLDER };
const EXTENTS_MAX = 4000;
const READ_BYTES_MAX = 2 * 1024 * 1024;
const BUFFER_BYTES = 256 * 1024;
const MARKED_RANGES_MAX = 1000;
const SNAPSHOTS_MAX = 3;

export const READING_STEPS: readonly Step[] = [
  { name: "read", run: (storage) => withImage(storage, {}, readThrough) },
  { name: "read alone", run: (storage) => withImage(storage, { backing: false }, readThrough) },
  { name: "info", run: readInfo },
  { name: "measure", run: (storage) => withImage(storage, {}, measure) },
  { name: "snapshots", run: readSnapshots },
  { name: "bitmaps", run: readBitmaps },
];

async function withImage(
  storage: Storage,
  options: Partial<ImageOptions>,
  work: (image: OpenedImage) => Promise<void>,
): Promise<void> {
  const image = await openImage(storage, IMAGE_PATH, { format: "qcow2", gate: GATE, ...options });
  try {
    await work(image);
  } finally {
    await image.close();
  }
}

/** Extents from the start on, and the bytes of those that hold data; then both ends of the disk. */
async function readThrough(image: OpenedImage): Promise<void> {
  const { virtualSizeBytes } = image;
  const buffer = new Uint8Array(BUFFER_BYTES);
  let left = READ_BYTES_MAX;
  let count = 0;
  for (let at = 0; at < virtualSizeBytes && count < EXTENTS_MAX; ) {
    const extents = await image.findExtents(guestRange(at, virtualSizeBytes - at));
    if (extents.length === 0) throw new Error(`no extent at ${at}`);
    for (const { start, lengthBytes, kind } of extents) {
      if (start !== at || lengthBytes <= 0) throw new Error(`an extent at ${start}, ${lengthBytes} long`);
      at += lengthBytes;
      if (kind === "unallocated") continue;
      for (let from = start; from < at && left > 0; from = offsetBy(from, BUFFER_BYTES)) {
        const part = buffer.subarray(0, Math.min(BUFFER_BYTES, at - from));
        await image.read(part, from);
        left -= part.length;
      }
    }
    if (at > virtualSizeBytes) throw new Error(`extents end at ${at}, the disk at ${virtualSizeBytes}`);
    count += extents.length;
  }
  const end = buffer.subarray(0, Math.min(BUFFER_BYTES, virtualSizeBytes));
  await image.read(end, guestOffset(0));
  await image.read(end, guestOffset(virtualSizeBytes - end.length));
}

async function measure(image: OpenedImage): Promise<void> {
  measureRaw({ image });
  await measureQcow2({ image }, {});
}

async function readInfo(storage: Storage): Promise<void> {
  const link = await openForInfo(storage, IMAGE_PATH, "qcow2", { allowPaths: [], currentFolder: "/" });
  try {
    await describeImage(link);
  } finally {
    await link.file.close();
  }
}

/** What the check says, line by line, and in sum. */
export async function judge(storage: Storage, lines: string[] = []): Promise<CheckResult> {
  const subject = await openForCheck(storage, IMAGE_PATH, { format: "qcow2", gate: GATE });
  try {
    return await checkQcow2(subject.file, (line) => {
      if (lines.length < 100) lines.push(line);
    });
  } finally {
    await subject.close();
  }
}

async function readSnapshots(storage: Storage): Promise<void> {
  const ids: string[] = [];
  await withImage(storage, { backing: false }, async ({ chain }) => {
    const [link] = chain.links;
    if (link === undefined) return;
    const { entries } = await readSnapshotTable(link);
    ids.push(...entries.slice(0, SNAPSHOTS_MAX).map(({ id }) => id));
  });
  for (const snapshot of ids) await withImage(storage, { snapshot }, readThrough);
}

async function readBitmaps(storage: Storage): Promise<void> {
  await withImage(storage, { backing: false }, async ({ chain }) => {
    const [link] = chain.links;
    if (link === undefined) return;
    for (const bitmap of await readBitmapDirectory(link)) {
      let count = 0;
      for await (const range of findMarkedRanges(link, bitmap)) {
        if (range.start + range.lengthBytes > link.virtualSizeBytes) throw new Error("a range past the end");
        count += 1;
        if (count === MARKED_RANGES_MAX) break;
      }
    }
  });
}

/** Whole command lines that only read. */
export const COMMAND_LINES: readonly (readonly string[])[] = [
  ["info", "--output=json", IMAGE_PATH],
  ["info", "--backing-chain", IMAGE_PATH],
  ["check", "--output=json", IMAGE_PATH],
  ["check", "-f", "qcow2", IMAGE_PATH],
  ["map", "--max-length=16M", IMAGE_PATH],
  ["map", "--max-length=16M", "--output=json", IMAGE_PATH],
  ["measure", "-O", "qcow2", IMAGE_PATH],
  ["compare", "-f", "qcow2", IMAGE_PATH, `${IMAGE_FOLDER}/beside.raw`],
  ["compare", IMAGE_PATH, IMAGE_PATH],
];

export interface Said {
  readonly status: number;
  readonly stdout: string;
  readonly stderr: string;
}

export async function runCommandLine(storage: Storage, words: readonly string[]): Promise<Said> {
  const said = { stdout: "", stderr: "" };
  const outputTo = (name: "stdout" | "stderr"): CliContext["stdout"] => ({
    write: (text) => {
      if (said[name].length < 1_000_000) said[name] += text;
    },
    isTTY: false,
    columns: undefined,
  });
  const status = await run(words, {
    storage,
    cwd: IMAGE_FOLDER,
    env: {},
    stdout: outputTo("stdout"),
    stderr: outputTo("stderr"),
    stdin: async () => "",
    program: "qemu-img",
  });
  return { status, ...said };
}
