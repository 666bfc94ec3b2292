// A log that is carried out: how far it came is told, and strangers are left alone.

import { describe, expect, test } from "vitest";
import {
  type Guard,
  RedoLog,
  type SealedLog,
  StagedStorage,
  surveyImage,
} from "../../../src/format/staged/index.ts";
import type { Survey } from "../../../src/format/staged/survey.ts";
import type { Storage } from "../../../src/storage/index.ts";
import type { MemoryDisk } from "../../fuzz/memory-storage.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import {
  type Change,
  CHANGES,
  FENCE_AT,
  GROWING,
  IMAGE,
  imageOf,
  resultOf,
  SHRINKING,
  stageChange,
} from "./changes.ts";
import { applySealed, diskWith } from "./disks.ts";

const PAGE_BYTES = 4096;
const SECTOR_BYTES = 512;

interface Prepared {
  readonly disk: MemoryDisk;
  readonly sealed: SealedLog;
  readonly guard: Guard;
}

async function prepare(change: Change): Promise<Prepared> {
  const disk = diskWith(new Map([[IMAGE, imageOf(change.sizeBytes)]]));
  const { sealed, guard } = await stageChange(disk.storage, change);
  if (guard.kind === "fence") disk.require(IMAGE).content.set(guard.fence!.after, guard.fence!.offset);
  return { disk, sealed, guard };
}

async function survey(
  storage: Storage,
  sealed: Pick<SealedLog, "image" | "log" | "end">,
  guard: Guard,
): Promise<Survey> {
  const log = await RedoLog.open(storage, `/disks/${sealed.log}`, sealed.end, "read");
  const file = await storage.openFile(IMAGE, "read");
  try {
    return await surveyImage(log, file, guard);
  } finally {
    await log.close();
    await file.close();
  }
}

describe("how far a log was applied", () => {
  test.each(CHANGES)("is told after each of its changes: %s", async (_, change) => {
    const { disk: first, sealed, guard } = await prepare(change);
    expect(await survey(first.storage, sealed, guard)).toEqual({ state: "untouched" });
    for (let calls = 1; ; calls += 1) {
      const { disk } = await prepare(change);
      const { wasCut } = await applySealed(disk.storage, sealed, guard, calls);
      expect(await survey(disk.storage, sealed, guard)).toEqual({ state: wasCut ? "partly" : "applied" });
      if (!wasCut) {
        expect(disk.require(IMAGE).content.equals(resultOf(change))).toBe(true);
        return;
      }
    }
  });

  test.each(CHANGES)(
    "is told where a write ended amid a sector, and it is gone on with: %s",
    async (_, change) => {
      for (const tornBytes of [1, 75, 76, 300, 512 + 76]) {
        for (let calls = 0, wasCut = true; wasCut; calls += 1) {
          const { disk, sealed, guard } = await prepare(change);
          ({ wasCut } = await applySealed(disk.storage, sealed, guard, calls, tornBytes));
          const { state } = await survey(disk.storage, sealed, guard);
          expect(["untouched", "partly", "applied"], `${calls} calls, ${tornBytes} bytes`).toContain(state);
          await applySealed(disk.storage, sealed, guard);
          expect(disk.require(IMAGE).content.equals(resultOf(change))).toBe(true);
        }
      }
    },
  );

  // A flush that fails may lose all that was written, and the file's size with it, while the page cache shows them.
  test.each(CHANGES)(
    "does not matter to what the next call changes, the size among it: %s",
    async (_, change) => {
      const whole = await prepare(change);
      const { changes } = await applySealed(whole.disk.storage, whole.sealed, whole.guard);
      const { disk, sealed, guard } = await prepare(change);
      await applySealed(disk.storage, sealed, guard, changes - 1);
      expect(await applySealed(disk.storage, sealed, guard)).toMatchObject({ changes });
    },
  );

  test("is told, and it is gone on with, under a fence that was there before and stays", async () => {
    for (let calls = 0, wasCut = true; wasCut; calls += 1) {
      const disk = diskWith(new Map([[IMAGE, imageOf(GROWING.sizeBytes)]]));
      const { sealed } = await stageChange(disk.storage, { ...GROWING, isFenced: true });
      const guard = { kind: "fence", fence: undefined } as const;
      ({ wasCut } = await applySealed(disk.storage, sealed, guard, calls));
      const { state } = await survey(disk.storage, sealed, guard);
      expect(["untouched", "partly", "applied"]).toContain(state);
      await applySealed(disk.storage, sealed, guard);
      expect(disk.require(IMAGE).content.equals(resultOf(GROWING))).toBe(true);
    }
  });

  test("counts as finished when the fence is down, whatever a guest has written since", async () => {
    const { disk, sealed, guard } = await prepare({ ...GROWING, isFenced: true });
    await applySealed(disk.storage, sealed, guard);
    const { content } = disk.require(IMAGE);
    content.fill(77, 700, 800);
    content.fill(78, 7 * PAGE_BYTES, 8 * PAGE_BYTES);
    const written = Buffer.from(content);
    expect(await survey(disk.storage, sealed, guard)).toEqual({ state: "used" });
    await applySealed(disk.storage, sealed, guard);
    expect(disk.require(IMAGE).content.equals(written)).toBe(true);
  });

  test("a fence that was never raised is not taken for one that is down", async () => {
    // The log changes nothing in the fence's own sector.
    const { disk, sealed, guard } = await prepare({ ...GROWING, isFenced: true, writes: [[9000, 9000]] });
    disk.require(IMAGE).content = imageOf(GROWING.sizeBytes);
    expect(await survey(disk.storage, sealed, guard)).toEqual({ state: "untouched" });
  });
});

describe("what a stranger wrote", () => {
  test("is left as it is, and told with its place, where digests are the guard", async () => {
    for (const offset of [700, 2 * PAGE_BYTES + 9, 4 * PAGE_BYTES + 3000]) {
      const { disk, sealed, guard } = await prepare(GROWING);
      disk.require(IMAGE).content[offset] = 99;
      const at = Math.floor(offset / SECTOR_BYTES) * SECTOR_BYTES;
      expect(await survey(disk.storage, sealed, guard)).toEqual({ state: "foreign", offset: at });
      const error = await errorFrom(applySealed(disk.storage, sealed, guard));
      expect(error).toMatchObject({ code: "E_CHANGED", image: IMAGE, offset: at });
      expect(disk.require(IMAGE).content[offset]).toBe(99);
    }
  });

  test.each(["a page", "a hole"])(
    "between two changes of %s is not taken for what they replace",
    async (what) => {
      const disk = diskWith(new Map([[IMAGE, imageOf(8 * PAGE_BYTES)]]));
      const staged = new StagedStorage(disk.storage);
      await staged.stage(IMAGE, { transaction: "t1", log: ".imgtx-t1-0.redo", guardedBy: "digests" });
      const file = await staged.openFile(IMAGE, "write");
      if (what === "a page") await file.write(new Uint8Array(PAGE_BYTES).fill(255), PAGE_BYTES);
      else await file.punchHole({ start: PAGE_BYTES, lengthBytes: PAGE_BYTES });
      disk.require(IMAGE).content.fill(99, PAGE_BYTES, PAGE_BYTES + 9);
      await file.write(new Uint8Array(PAGE_BYTES).fill(254), PAGE_BYTES);
      const [sealed] = await staged.seal();
      await staged.close();
      const error = await errorFrom(applySealed(disk.storage, sealed!, { kind: "digests" }));
      expect(error).toMatchObject({ code: "E_CHANGED", offset: PAGE_BYTES });
    },
  );

  test.each(["a page", "the size", "a hole"])(
    "is kept from a file that its image's fence guards, in which %s changes",
    async (what) => {
      const disk = diskWith(new Map([[IMAGE, imageOf(8 * PAGE_BYTES)]]));
      const staged = new StagedStorage(disk.storage);
      await staged.stage(IMAGE, { transaction: "t1", log: ".imgtx-t1-0.redo", guardedBy: "owner" });
      const file = await staged.openFile(IMAGE, "write");
      if (what === "a page") await file.write(new Uint8Array(9), PAGE_BYTES);
      else if (what === "the size") await file.truncate(PAGE_BYTES);
      else await file.punchHole({ start: PAGE_BYTES, lengthBytes: PAGE_BYTES });
      const [sealed] = await staged.seal();
      await staged.close();
      const end = applySealed(disk.storage, sealed!, { kind: "owner" });
      if (what !== "a hole") expect(await errorFrom(end)).toMatchObject({ code: "E_INTERNAL" });
      else await end;
      const expected = imageOf(8 * PAGE_BYTES);
      if (what === "a hole") expected.fill(0, PAGE_BYTES, 2 * PAGE_BYTES);
      expect(Buffer.compare(disk.require(IMAGE).content, expected)).toBe(0);
    },
  );

  test("stays where the log changes nothing, in the very page", async () => {
    const { disk, sealed, guard } = await prepare(GROWING);
    disk.require(IMAGE).content[1100] = 99;
    await applySealed(disk.storage, sealed, guard);
    const expected = resultOf(GROWING);
    expected[1100] = 99;
    expect(disk.require(IMAGE).content.equals(expected)).toBe(true);
  });

  test("past the former end of the file is none of theirs: a power cut may leave anything there", async () => {
    const { disk, sealed, guard } = await prepare(GROWING);
    const { content } = disk.require(IMAGE);
    disk.require(IMAGE).content = Buffer.concat([
      content,
      Buffer.alloc(8 * PAGE_BYTES - content.length, 0xa5),
    ]);
    expect(await survey(disk.storage, sealed, guard)).toEqual({ state: "partly" });
    await applySealed(disk.storage, sealed, guard);
    const written = disk.require(IMAGE).content.subarray(6 * PAGE_BYTES);
    expect(written.equals(resultOf(GROWING).subarray(6 * PAGE_BYTES))).toBe(true);
  });

  test("is left as it is where the fence itself is another's, and nothing else is written", async () => {
    const { disk, sealed, guard } = await prepare({ ...GROWING, isFenced: true });
    disk.require(IMAGE).content[FENCE_AT] = 99;
    const before = Buffer.from(disk.require(IMAGE).content);
    expect((await errorFrom(applySealed(disk.storage, sealed, guard))).code).toBe("E_CHANGED");
    expect(disk.require(IMAGE).content.equals(before)).toBe(true);
  });

  test("to the first sector is told where nothing of the log was applied: its fence was lifted by others", async () => {
    const { disk, sealed, guard } = await prepare({ ...GROWING, isFenced: true });
    const { content } = disk.require(IMAGE);
    content.set(imageOf(FENCE_AT + 8).subarray(FENCE_AT), FENCE_AT);
    content.fill(99, 200, 300);
    expect(await survey(disk.storage, sealed, guard)).toEqual({ state: "foreign", offset: 0 });
  });

  test("past the end of the file stays, where the log changes no size", async () => {
    const { disk, sealed, guard } = await prepare({ sizeBytes: 20_000, writes: [[600, 300]] });
    const longer = Buffer.concat([disk.require(IMAGE).content, Buffer.alloc(900, 99)]);
    disk.require(IMAGE).content = Buffer.from(longer);
    expect(await survey(disk.storage, sealed, guard)).toEqual({ state: "untouched" });
    await applySealed(disk.storage, sealed, guard);
    longer.fill(255, 600, 900);
    expect(disk.require(IMAGE).content.equals(longer)).toBe(true);
  });

  test("is told where the file has a size that it never had", async () => {
    const { disk, sealed, guard } = await prepare(SHRINKING);
    disk.require(IMAGE).content = Buffer.concat([disk.require(IMAGE).content, Buffer.alloc(9)]);
    expect(await survey(disk.storage, sealed, guard)).toMatchObject({ state: "foreign" });
    expect((await errorFrom(applySealed(disk.storage, sealed, guard))).code).toBe("E_CHANGED");
  });
});

describe("the guard", () => {
  test("finds the fence's sectors in the log, also where they were written again as they were", async () => {
    const disk = diskWith(new Map([[IMAGE, imageOf(8 * PAGE_BYTES)]]));
    const staged = new StagedStorage(disk.storage);
    await staged.stage(IMAGE, { transaction: "t1", log: ".imgtx-t1-0.redo", guardedBy: "fence" });
    await staged.include(IMAGE, 0, 600);
    const file = await staged.openFile(IMAGE, "write");
    await file.write(imageOf(PAGE_BYTES), 0);
    expect(await staged.seal()).toMatchObject([{ changedSectors: 2 }]);
  });

  test("that a log was not made for is a mistake of the caller's, and nothing is written", async () => {
    const unchecked = await prepare({ ...GROWING, isFenced: true });
    const before = Buffer.from(unchecked.disk.require(IMAGE).content);
    const wrong = applySealed(unchecked.disk.storage, unchecked.sealed, { kind: "digests" });
    expect((await errorFrom(wrong)).code).toBe("E_INTERNAL");
    expect(unchecked.disk.require(IMAGE).content.equals(before)).toBe(true);
    const { disk, sealed } = await prepare(SHRINKING);
    const fence = { offset: 72, before: new Uint8Array(8), after: new Uint8Array(8) };
    expect((await errorFrom(applySealed(disk.storage, sealed, { kind: "fence", fence }))).code).toBe(
      "E_INTERNAL",
    );
  });
});
