// Today's writer over a staged storage: the image is what the same calls make directly.

import { guestOffset } from "../../../src/units/index.ts";
import { describe, expect, test } from "vitest";
import { openChain } from "../../../src/format/chain/backing-chain.ts";
import { planImage, writeImage } from "../../../src/format/new/create.ts";
import type { CreateOptions } from "../../../src/format/new/create-options.ts";
import { openForWriting, openWriterState } from "../../../src/format/open/open-for-writing.ts";
import { openImage } from "../../../src/format/open/open-image.ts";
import { resizeImage } from "../../../src/format/qcow2/change/resize-image.ts";
import { StagedStorage } from "../../../src/format/staged/index.ts";
import type { Storage } from "../../../src/storage/index.ts";
import type { MemoryDisk } from "../../fuzz/memory-storage.ts";
import { diskWith } from "./disks.ts";
import type { CaseFigures } from "./file-cases.ts";
import { runWriterCase } from "./writer-cases.ts";
import { PATH } from "./writer-steps.ts";

const [BLOCKS, CASES_IN_BLOCK] = [4, 60];

describe("any changes of a qcow2 image through its log", () => {
  test.each(Array.from({ length: BLOCKS }, (_, block) => block * CASES_IN_BLOCK))(
    "applied and cut off anywhere, equal the same made directly, and a check is clean: seeds from %i on",
    async (first) => {
      const figures: CaseFigures = { cases: 0, cuts: 0, changes: 0 };
      const problems: string[] = [];
      for (let seed = first; seed < first + CASES_IN_BLOCK; seed += 1) {
        const problem = await runWriterCase(seed, figures).catch((error: unknown) => String(error));
        if (problem !== undefined) problems.push(`seed ${seed}: ${problem}`);
      }
      expect(problems).toEqual([]);
      expect(figures.cases).toBe(CASES_IN_BLOCK);
      expect(figures.cuts).toBeGreaterThan(CASES_IN_BLOCK);
    },
  );
});

const GATE = { allowPaths: ["/"], currentFolder: "/disks" };
const MIB = 1024 ** 2;
const [INCOMPATIBLE_AT, AUTOCLEAR_AT] = [79, 95];

async function stageNew(options: CreateOptions): Promise<{ disk: MemoryDisk; staged: StagedStorage }> {
  const disk = diskWith(new Map([[PATH, new Uint8Array(0)]]));
  const plan = await planImage({ format: "qcow2", virtualSizeBytes: MIB, options });
  const file = await disk.storage.openFile(PATH, "write");
  await writeImage({ file }, plan);
  await file.close();
  const staged = new StagedStorage(disk.storage);
  await staged.stage(PATH, { transaction: "t", log: ".imgtx-t-0.redo", guardedBy: "fence" });
  return { disk, staged };
}

async function byteAt(storage: Storage, offset: number): Promise<number> {
  const file = await storage.openFile(PATH, "read");
  const byte = new Uint8Array(1);
  await file.read(byte, offset);
  await file.close();
  return byte[0] ?? 0;
}

describe("the writer over a log", () => {
  test("keeps refcounts up and sets no dirty bit, where it would in the image itself", async () => {
    for (const isStaged of [true, false]) {
      const { disk, staged } = await stageNew({ lazyRefcounts: true, clusterSizeBytes: 4096 });
      const storage = isStaged ? staged : disk.storage;
      const image = await openForWriting(storage, PATH, { format: "qcow2", gate: GATE });
      await image.write(new Uint8Array(5000).fill(3), guestOffset(9000));
      await image.flush("asked for");
      expect(await byteAt(storage, INCOMPATIBLE_AT)).toBe(isStaged ? 0 : 1);
      await image.close();
      expect(await byteAt(storage, INCOMPATIBLE_AT)).toBe(0);
    }
  });

  test("takes the bitmaps' bit back before guest data changes, and leaves it where none does", async () => {
    for (const keepsBitmaps of [true, false]) {
      const { staged } = await stageNew({ clusterSizeBytes: 4096 });
      const file = await staged.openFile(PATH, "write");
      await file.write(Uint8Array.of(0x81), AUTOCLEAR_AT);
      await file.write(Uint8Array.of(0x80), AUTOCLEAR_AT - 7);
      const chain = await openChain(staged, PATH, { format: "qcow2", gate: GATE });
      const [link] = chain.links;
      const { header } = link!;
      // Valid, by its bit: a directory without bitmaps is none that anybody writes.
      const autoclearFeatures = [0, ...header!.autoclearFeatures];
      const files = { file, dataFile: file, isOrdered: false, keepsBitmaps };
      const state = await openWriterState({ ...link!, header: { ...header!, autoclearFeatures } }, files);
      await state.begin();
      expect(await byteAt(staged, AUTOCLEAR_AT)).toBe(keepsBitmaps ? 1 : 0);
      expect(await byteAt(staged, AUTOCLEAR_AT - 7), "what nobody knows is never kept").toBe(0);
      await chain.close();
    }
  });

  test("leaves the image as it is, and later readers and statements see what earlier ones made", async () => {
    const { disk, staged } = await stageNew({ clusterSizeBytes: 512 });
    const before = Buffer.from(disk.require(PATH).content);
    const image = await openForWriting(staged, PATH, { format: "qcow2", gate: GATE });
    await image.write(Buffer.from("the first statement"), guestOffset(700_000));
    await image.close();
    await resizeImage(staged, PATH, { format: "qcow2", gate: GATE }, 40 * MIB);
    const later = await openImage(staged, PATH, { format: "qcow2", gate: GATE });
    const bytes = new Uint8Array(19);
    await later.read(bytes, guestOffset(700_000));
    expect(Buffer.from(bytes).toString()).toBe("the first statement");
    expect(later.virtualSizeBytes).toBe(40 * MIB);
    await later.close();
    expect(disk.require(PATH).content.equals(before)).toBe(true);
    const now = await openImage(disk.storage, PATH, { format: "qcow2", gate: GATE });
    expect(now.virtualSizeBytes).toBe(MIB);
    await now.close();
  });
});
