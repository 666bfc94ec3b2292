// qemu-img judges new images: the same options give the same file, byte for byte.

import { execFileSync } from "node:child_process";
import { describe, expect } from "vitest";
import { type ImagePlan, planImage, writeImage } from "../../../src/format/new/create.ts";
import type { CreateOptions } from "../../../src/format/new/create-options.ts";
import { makeNodeStorage, type StorageFile } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img");
const storage = makeNodeStorage();
const MIB = 1024 ** 2;
const GIB = 1024 ** 3;

function run(folder: string, ...args: string[]): string {
  return execFileSync("qemu-img", args, { cwd: folder, encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** How `qemu-img create` is told of the options. */
function optionList(options: CreateOptions): string[] {
  const onOff = (value: boolean | undefined) => (value === undefined ? undefined : value ? "on" : "off");
  const pairs = {
    cluster_size: options.clusterSizeBytes,
    compat: options.compat,
    lazy_refcounts: onOff(options.lazyRefcounts),
    refcount_bits: options.refcountBits,
    preallocation: options.preallocation,
    extended_l2: onOff(options.extendedL2),
    compression_type: options.compressionType,
    data_file: options.dataFileName,
    data_file_raw: onOff(options.dataFileRaw),
    backing_file: options.backingFileName,
    backing_fmt: options.backingFormat,
    nocow: onOff(options.noCow),
    extent_size_hint: options.extentSizeHintBytes,
  };
  const list = Object.entries(pairs).flatMap(([key, value]) =>
    value === undefined ? [] : [`${key}=${value}`],
  );
  return list.length === 0 ? [] : ["-o", list.join(",")];
}

interface NewImage {
  readonly format?: "raw" | "qcow2";
  readonly sizeBytes: number;
  readonly options: CreateOptions;
}

async function createOurs(folder: string, name: string, image: NewImage): Promise<ImagePlan> {
  const { format = "qcow2", sizeBytes, options } = image;
  const plan = await planImage({ format, virtualSizeBytes: sizeBytes, options });
  const file = await storage.createFile(`${folder}/${name}`, 0o644);
  const dataName = options.dataFileName;
  const dataFile =
    dataName === undefined ? undefined : await storage.createFile(`${folder}/${dataName}`, 0o644);
  await writeImage({ file, dataFile }, plan);
  await file.close();
  await dataFile?.close();
  return plan;
}

const STEP_BYTES = 1024 * 1024;

/**
 * Where the files first differ; undefined where they are the same. Holes are not read. Clusters that nothing
 * uses don't count, nor those of guest data: in them QEMU leaves refcount tables that it has outgrown.
 */
async function findDifference(
  one: string,
  other: string,
  plan: ImagePlan | undefined,
): Promise<string | undefined> {
  const files = [await storage.openFile(one, "read"), await storage.openFile(other, "read")] as const;
  try {
    const sizes = [(await files[0].stat()).sizeBytes, (await files[1].stat()).sizeBytes];
    if (sizes[0] !== sizes[1]) return `sizes ${sizes.join(" and ")}`;
    for (const file of files) {
      for (let at = await file.seekData(0); at !== undefined; ) {
        const end = Math.min(await file.seekHole(at), at + STEP_BYTES);
        const difference = await compareRange(files, at, end, plan);
        if (difference !== undefined) return `byte ${difference}`;
        at = await file.seekData(end);
      }
    }
    return undefined;
  } finally {
    await Promise.all(files.map((file) => file.close()));
  }
}

async function compareRange(
  files: readonly [StorageFile, StorageFile],
  start: number,
  end: number,
  plan: ImagePlan | undefined,
): Promise<number | undefined> {
  const [left, right] = [new Uint8Array(end - start), new Uint8Array(end - start)];
  await files[0].read(left, start);
  await files[1].read(right, start);
  if (Buffer.compare(left, right) === 0) return undefined;
  const differing = left.findIndex((byte, index) => byte !== right[index] && isUsed(plan, start + index));
  return differing === -1 ? undefined : start + differing;
}

function isUsed(plan: ImagePlan | undefined, offset: number): boolean {
  if (plan?.format !== "qcow2") return true;
  const { clusterBits, runs } = plan.layout;
  const clusterBytes = 2 ** clusterBits;
  const cluster = Math.floor(offset / clusterBytes);
  const isData = runs.some(
    (run) => offset >= run.hostOffset && offset < run.hostOffset + run.count * clusterBytes,
  );
  if (isData && plan.choices.dataFileName === undefined) return false;
  return plan.layout.used.some(({ first, count }) => cluster >= first && cluster < first + count);
}

async function expectSameFile(image: NewImage): Promise<void> {
  const [ours, theirs] = [makeFolder(), makeFolder()];
  for (const folder of [ours, theirs]) {
    if (image.options.backingFileName === undefined) continue;
    run(
      folder,
      "create",
      "-q",
      "-f",
      image.options.backingFormat ?? "raw",
      image.options.backingFileName,
      "5M",
    );
  }
  const { format = "qcow2", sizeBytes, options } = image;
  run(theirs, "create", "-q", "-f", format, ...optionList(options), "disk", String(sizeBytes));
  const plan = await createOurs(ours, "disk", image);
  expect(await findDifference(`${ours}/disk`, `${theirs}/disk`, plan)).toBeUndefined();
  if (options.dataFileName !== undefined) {
    const [one, other] = [`${ours}/${options.dataFileName}`, `${theirs}/${options.dataFileName}`];
    expect(await findDifference(one, other, undefined)).toBeUndefined();
  }
  if (format === "qcow2") run(ours, "check", "-q", "disk");
}

const CLUSTER_SIZES = [512, 4096, 65_536, 2 ** 21];

const PLAIN: NewImage[] = [
  ...CLUSTER_SIZES.flatMap((clusterSizeBytes) =>
    [0, 512, 10 * MIB + 512, 3 * GIB].map((sizeBytes) => ({ sizeBytes, options: { clusterSizeBytes } })),
  ),
  ...[1, 2, 4, 8, 32, 64].map((refcountBits) => ({ sizeBytes: GIB, options: { refcountBits } })),
  { sizeBytes: GIB, options: {} },
  { sizeBytes: GIB, options: { compat: "0.10" } },
  { sizeBytes: GIB, options: { compat: "1.1", lazyRefcounts: true } },
  { sizeBytes: GIB, options: { extendedL2: true, clusterSizeBytes: 16_384 } },
  { sizeBytes: GIB, options: { compressionType: "zstd" } },
  { sizeBytes: GIB, options: { dataFileName: "data" } },
  { sizeBytes: 5 * MIB, options: { backingFileName: "base", backingFormat: "raw" } },
  { sizeBytes: 5 * MIB, options: { backingFileName: "base", backingFormat: "qcow2", compat: "0.10" } },
  { sizeBytes: 5 * MIB, options: { backingFileName: "base", backingFormat: "raw", clusterSizeBytes: 4096 } },
  { sizeBytes: GIB, options: { noCow: true, extentSizeHintBytes: 65_536 } },
  // L1 tables that do not fit what one refcount block counts, so that more are made in their midst.
  { sizeBytes: 20 * GIB, options: { clusterSizeBytes: 512, refcountBits: 64 } },
  { sizeBytes: 127 * GIB, options: { clusterSizeBytes: 512, refcountBits: 1 } },
];

const PREALLOCATED: NewImage[] = [
  ...["metadata", "falloc", "full"].flatMap((preallocation) => [
    ...CLUSTER_SIZES.map((clusterSizeBytes) => ({
      sizeBytes: 9 * MIB + 1024,
      options: { clusterSizeBytes, preallocation },
    })),
    { sizeBytes: 9 * MIB, options: { preallocation, refcountBits: 64, clusterSizeBytes: 512 } },
    { sizeBytes: 9 * MIB, options: { preallocation, refcountBits: 1 } },
    { sizeBytes: 9 * MIB, options: { preallocation, compat: "0.10", clusterSizeBytes: 1024 } },
    { sizeBytes: 0, options: { preallocation } },
    { sizeBytes: 5 * MIB + 512, options: { preallocation, dataFileName: "data" } },
    { sizeBytes: 5 * MIB, options: { preallocation, dataFileName: "data", dataFileRaw: true } },
    { sizeBytes: 9 * MIB, options: { preallocation, extendedL2: true } },
    {
      sizeBytes: 9 * MIB,
      options: { preallocation, extendedL2: true, backingFileName: "base", backingFormat: "raw" },
    },
  ]),
  { sizeBytes: 5 * MIB, options: { dataFileName: "data", dataFileRaw: true } },
  // Many L2 tables, refcount tables that grow twice, and slices of tables larger than QEMU caches.
  { sizeBytes: 150 * MIB, options: { preallocation: "metadata", clusterSizeBytes: 512 } },
  { sizeBytes: 60 * MIB, options: { preallocation: "metadata", clusterSizeBytes: 512, refcountBits: 64 } },
  { sizeBytes: 40 * GIB, options: { preallocation: "metadata", clusterSizeBytes: 16_384 } },
  { sizeBytes: 300 * GIB, options: { preallocation: "metadata" } },
  {
    sizeBytes: 700 * GIB,
    options: { preallocation: "metadata", clusterSizeBytes: 2 ** 21, refcountBits: 64 },
  },
  { sizeBytes: 30 * MIB, options: { preallocation: "falloc", clusterSizeBytes: 512, refcountBits: 64 } },
];

const RAW: NewImage[] = [
  { format: "raw", sizeBytes: 0, options: {} },
  { format: "raw", sizeBytes: 1000, options: {} },
  { format: "raw", sizeBytes: 7 * GIB, options: {} },
  { format: "raw", sizeBytes: 3 * MIB, options: { preallocation: "falloc" } },
  { format: "raw", sizeBytes: 5 * MIB, options: { preallocation: "full" } },
];

function titled(images: readonly NewImage[]): [string, NewImage][] {
  return images.map((image) => [
    `${image.format ?? "qcow2"} of ${image.sizeBytes} bytes, ${JSON.stringify(image.options)}`,
    image,
  ]);
}

describe("a new image is what qemu-img makes", () => {
  qemu.test.each(titled([...PLAIN, ...RAW]))("%s", async (_, image) => expectSameFile(image));
});

describe("a preallocated image is what qemu-img makes", () => {
  qemu.test.each(titled(PREALLOCATED))("%s", async (_, image) => expectSameFile(image));
});

const REFUSED: NewImage[] = [
  { sizeBytes: 200 * GIB, options: { clusterSizeBytes: 512 } },
  { sizeBytes: MIB, options: { clusterSizeBytes: 1000 } },
  { sizeBytes: MIB, options: { clusterSizeBytes: 256 } },
  { sizeBytes: MIB, options: { clusterSizeBytes: 2 ** 22 } },
  { sizeBytes: MIB, options: { extendedL2: true, clusterSizeBytes: 4096 } },
  { sizeBytes: MIB, options: { extendedL2: true, compat: "0.10" } },
  { sizeBytes: MIB, options: { compat: "0.9" } },
  { sizeBytes: MIB, options: { refcountBits: 3 } },
  { sizeBytes: MIB, options: { refcountBits: 128 } },
  { sizeBytes: MIB, options: { refcountBits: 8, compat: "0.10" } },
  { sizeBytes: MIB, options: { dataFileRaw: true } },
  { sizeBytes: MIB, options: { preallocation: "metadata", backingFileName: "base", backingFormat: "raw" } },
  {
    sizeBytes: MIB,
    options: { dataFileName: "data", dataFileRaw: true, backingFileName: "base", backingFormat: "raw" },
  },
  { sizeBytes: MIB, options: { compat: "0.10", lazyRefcounts: true } },
  { sizeBytes: MIB, options: { compat: "0.10", compressionType: "zstd" } },
  { sizeBytes: MIB, options: { compressionType: "lz4" } },
  { sizeBytes: MIB, options: { compat: "0.10", dataFileName: "data" } },
  { sizeBytes: MIB, options: { preallocation: "some" } },
  { sizeBytes: MIB, options: { backingFormat: "raw" } },
  { format: "raw", sizeBytes: MIB, options: { preallocation: "metadata" } },
  { format: "raw", sizeBytes: MIB, options: { clusterSizeBytes: 4096 } },
];

describe("what qemu-img refuses is refused in its words", () => {
  qemu.test.each(titled(REFUSED))("%s", async (_, image) => {
    const folder = makeFolder();
    run(folder, "create", "-q", "-f", "raw", "base", "1M");
    const { format = "qcow2", sizeBytes, options } = image;
    let words = "";
    try {
      run(folder, "create", "-q", "-f", format, ...optionList(options), "disk", String(sizeBytes));
    } catch (error) {
      words = (error as { stderr: string }).stderr;
    }
    const refusal = await errorFrom(planImage({ format, virtualSizeBytes: sizeBytes, options }));
    expect(words).toBe(`qemu-img: disk: ${refusal.message}\n`);
  });
});
