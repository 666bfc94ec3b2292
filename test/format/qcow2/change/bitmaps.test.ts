// Changes of bitmaps: what they refuse and why, and that a hostile image gets no more than an error.

import { readFileSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../../src/errors/index.ts";
import { judgeBitmaps } from "../../../../src/format/qcow2/change/bitmaps.ts";
import { readBitmapDirectory } from "../../../../src/format/qcow2/read/qcow2-bitmaps.ts";
import { type BitmapEntry, encodeBitmapDirectory } from "../../../../src/format/qcow2/codec/bitmap.ts";
import { findExtension } from "../../../../src/format/qcow2/codec/header-extension.ts";
import { startEffort } from "../../../helpers/effort.ts";
import { FIXTURES, unpackFixture } from "../../../helpers/fixtures.ts";
import { seededRandom } from "../../../helpers/random.ts";
import {
  type Change,
  change,
  collectDirty,
  countFaults,
  planChange,
  withLink,
} from "../../../helpers/format/bitmap-oracle.ts";
import { errorFrom } from "../../../helpers/expect-error.ts";
import { makeOverlay, makeRaw } from "../../../helpers/make-image.ts";
import { makeFolder } from "../../../helpers/temporary-folder.ts";

const unpack = (name: string) => unpackFixture(name, makeFolder());
const listBitmaps = (image: string) => withLink(image, readBitmapDirectory);

/** Overwrites bytes of a file, which may grow. */
function poke(image: string, at: number, bytes: Uint8Array): void {
  const present = readFileSync(image);
  const content = Buffer.alloc(Math.max(present.length, at + bytes.length));
  content.set(present);
  content.set(bytes, at);
  writeFileSync(image, content);
}

function word(value: number): Uint8Array {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64BE(BigInt(value));
  return bytes;
}

/** Gives an image whose directory has room another directory, in place. */
async function setDirectory(image: string, edit: (entries: readonly BitmapEntry[]) => BitmapEntry[]) {
  const extension = await withLink(image, async (link) => findExtension(link.header!.extensions, "bitmaps")!);
  const bytes = encodeBitmapDirectory(edit(await listBitmaps(image)));
  poke(image, extension.bitmapDirectoryOffset, bytes);
  const at = readFileSync(image).indexOf(word(extension.bitmapDirectoryOffset));
  poke(image, at - 8, word(bytes.length));
}

const CHANGES: Change[] = [
  { kind: "add", name: "new" },
  { kind: "add", name: "fine", granularityBytes: 512 },
  { kind: "clear", name: "nightly" },
  { kind: "remove", name: "nightly" },
  { kind: "remove", name: "weekly" },
  { kind: "enable", name: "weekly" },
  { kind: "disable", name: "nightly" },
  { kind: "merge", name: "weekly", from: "nightly" },
];

describe("a plan", () => {
  test("of a removal takes back all that its addition did, but for the size of the file", async () => {
    const image = await unpack("over-raw.qcow2");
    const before = readFileSync(image);
    await change(image, { kind: "add", name: "one" });
    await change(image, { kind: "remove", name: "one" });
    const after = readFileSync(image);
    expect(after.subarray(0, before.length).equals(before)).toBe(true);
    expect(await listBitmaps(image)).toEqual([]);
  });

  test("is refused for what the image can't have", async () => {
    const image = await unpack("bitmaps.qcow2");
    const refusals: [Change, string][] = [
      [{ kind: "add", name: "nightly" }, "E_EXISTS"],
      [{ kind: "add", name: "" }, "E_USAGE"],
      [{ kind: "add", name: "ä".repeat(512) }, "E_USAGE"],
      [{ kind: "add", name: "a\0b" }, "E_USAGE"],
      [{ kind: "add", name: "\ud800" }, "E_USAGE"],
      ...[0, -512, 256, 1000, 2 ** 32, Number.NaN, Number.POSITIVE_INFINITY].map(
        (granularityBytes) => [{ kind: "add", name: "new", granularityBytes }, "E_USAGE"] as [Change, string],
      ),
      [{ kind: "clear", name: "none" }, "E_NOT_FOUND"],
      [{ kind: "remove", name: "none" }, "E_NOT_FOUND"],
    ];
    for (const [what, code] of refusals) {
      const error = await errorFrom(planChange(image, what));
      expect(error, JSON.stringify(what)).toMatchObject({ code, image, hint: expect.any(String) as string });
    }
    await change(image, { kind: "add", name: "ä".repeat(511), granularityBytes: 2 ** 31 });
    expect(await listBitmaps(image)).toHaveLength(3);
  });

  test.each([
    ["v2.qcow2", "E_UNSUPPORTED"],
    ["empty-guest.qcow2", "E_UNSUPPORTED"],
    ["dirty.qcow2", "E_REFUSED"],
    ["corrupt/bit-corrupt.qcow2", "E_CORRUPT"],
    ["corrupt/petabyte.qcow2", "E_UNSUPPORTED"],
  ])("is refused for %s: %s", async (name, code) => {
    const image = await unpack(name);
    expect(await errorFrom(planChange(image, CHANGES[0]!))).toMatchObject({ code, image });
  });

  test("is refused for a raw image", async () => {
    const image = makeRaw(`${makeFolder()}/disk`);
    const qcow2 = await unpack("v3.qcow2");
    const error = await withLink(qcow2, (link) =>
      errorFrom(judgeBitmaps({ ...link, path: image, header: undefined }, [CHANGES[0]!])),
    );
    expect(error).toMatchObject({ code: "E_UNSUPPORTED", image });
  });

  test("neither clears an inconsistent bitmap nor minds removing it", async () => {
    const image = await unpack("bitmap-in-use.qcow2");
    expect(await errorFrom(planChange(image, CHANGES[2]!))).toMatchObject({ code: "E_REFUSED", image });
    await change(image, CHANGES[0]!);
    expect(await listBitmaps(image)).toMatchObject([{ name: "nightly", isInUse: true }, { name: "new" }]);
    await change(image, CHANGES[3]!);
    expect(await listBitmaps(image)).toMatchObject([{ name: "new", isAuto: true }]);
    expect(await countFaults(image)).toEqual({ errors: 0, leaks: 0 });
  });
});

describe("stale bitmaps", () => {
  test("are not taken up again, and their clusters are left to a check", async () => {
    const image = await unpack("corrupt/bitmaps-stale.qcow2");
    expect(await countFaults(image)).toEqual({ errors: 0, leaks: 4 });
    expect(await errorFrom(planChange(image, CHANGES[3]!))).toMatchObject({
      code: "E_NOT_FOUND",
      hint: expect.stringContaining("stale") as string,
    });
    await change(image, { kind: "add", name: "nightly" });
    expect(await listBitmaps(image)).toMatchObject([{ name: "nightly", isAuto: true }]);
    expect(await collectDirty(image, "nightly")).toEqual([]);
    expect(await countFaults(image)).toEqual({ errors: 0, leaks: 4 });
  });
});

describe("bitmaps with extra data that nobody knows", () => {
  const extraData = Uint8Array.from({ length: 13 }, (_, index) => index + 1);

  test.each([true, false])("are kept as they are; compatible: %s", async (isExtraDataCompatible) => {
    const image = await unpack("bitmaps.qcow2");
    await setDirectory(image, ([first, ...others]) => [
      { ...first!, extraData, isExtraDataCompatible },
      ...others,
    ]);
    const [kept] = await listBitmaps(image);
    expect(kept).toMatchObject({ name: "nightly", extraData, isExtraDataCompatible });
    await change(image, { kind: "add", name: "new" });
    await change(image, { kind: "remove", name: "weekly" });
    expect((await listBitmaps(image))[0]).toEqual(kept);
    if (isExtraDataCompatible) {
      await change(image, { kind: "clear", name: "nightly" });
      expect((await listBitmaps(image))[0]).toEqual(kept);
      await change(image, { kind: "remove", name: "nightly" });
      return;
    }
    for (const what of [CHANGES[2]!, CHANGES[3]!]) {
      expect(await errorFrom(planChange(image, what))).toMatchObject({ code: "E_UNSUPPORTED", image });
    }
    expect(await collectDirty(image, "nightly")).toBe("extra data");
  });
});

describe("the header's cluster", () => {
  test("takes the bitmaps until it is full, and keeps what else is in it", async () => {
    const outcomes = new Map<number, string>();
    for (let length = 280; length <= 360; length += 1) {
      const folder = makeFolder();
      const image = `${folder}/disk`;
      const name = "n".repeat(length);
      try {
        await makeOverlay(image, name, "raw", { clusterSizeBytes: 512 });
        await change(image, { kind: "add", name: "one" });
        expect(await withLink(image, async ({ header }) => header?.backingFileName)).toBe(name);
        expect(await withLink(image, async ({ header }) => header?.backingFormat)).toBe("raw");
        expect(await countFaults(image)).toEqual({ errors: 0, leaks: 0 });
        outcomes.set(length, "fits");
      } catch (error) {
        if (!(error instanceof ImgtxError)) throw error;
        expect(error.hint).toBeDefined();
        outcomes.set(length, error.code);
      }
    }
    const inOrder = [...outcomes.values()];
    expect(inOrder.indexOf("E_UNSUPPORTED")).toBe(inOrder.lastIndexOf("fits") + 1);
    expect(new Set(inOrder)).toEqual(new Set(["fits", "E_UNSUPPORTED"]));
  });

  test("loses the bits of features that nobody can keep up", async () => {
    for (const what of CHANGES) {
      const image = await unpack("bitmaps.qcow2");
      poke(image, 88, Uint8Array.of(0x80, 0, 0, 0, 0, 0, 0, 1));
      await change(image, what);
      expect(await withLink(image, async ({ header }) => header?.autoclearFeatures)).toEqual([0]);
    }
  });
});

/** What it would hold, or a typed error; in little time, without a change of the file. */
async function planHostile(image: string, what: Change): Promise<Buffer | ImgtxError> {
  const effort = startEffort();
  const before = readFileSync(image);
  try {
    return await planChange(image, what);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    expect(error.code).not.toBe("E_INTERNAL");
    return error;
  } finally {
    expect(effort()).toBeLessThan(2000);
    expect(readFileSync(image).equals(before)).toBe(true);
  }
}

/** A check's findings; undefined where it can't even begin. */
async function countErrors(image: string): Promise<number | undefined> {
  try {
    return (await countFaults(image)).errors;
  } catch {
    return undefined;
  }
}

describe("a hostile image gets an error, or a change that does not make it worse", () => {
  const hostile = FIXTURES.filter(({ name }) => name.startsWith("corrupt/") && name.endsWith(".qcow2"));
  test.each(hostile.map(({ name }) => name))("%s", async (name) => {
    const image = await unpack(name);
    const before = await countErrors(image);
    for (const what of CHANGES) {
      const outcome = await planHostile(image, what);
      if (outcome instanceof ImgtxError) continue;
      const copy = `${image}.copy`;
      writeFileSync(copy, outcome);
      const after = await countErrors(copy);
      if (before !== undefined) expect(after, `${what.kind} ${what.name}`).toBeLessThanOrEqual(before);
    }
  });

  test("with any word of its metadata tampered with", async () => {
    const image = await unpack("bitmaps.qcow2");
    poke(image, statSync(image).size + 511, Uint8Array.of(0));
    const intact = readFileSync(image);
    const link = await withLink(image, async ({ header }) => header!);
    const { bitmapDirectoryOffset } = findExtension(link.extensions, "bitmaps")!;
    const tables = (await listBitmaps(image)).map(({ bitmapTableOffset }) => bitmapTableOffset);
    const block = Number(intact.readBigUInt64BE(link.refcountTableOffset));
    const spans = [
      [0, 560],
      [bitmapDirectoryOffset, 96],
      [bitmapDirectoryOffset, 96],
      ...tables.map((table) => [table, 8]),
      [link.refcountTableOffset, 16],
      [block, 40],
      [link.l1TableOffset, 8],
    ] as const;
    const random = seededRandom(99);
    const codes = new Set<string>();
    for (let round = 0; round < 300; round += 1) {
      const [start, length] = spans[random.below(spans.length)]!;
      const content = Buffer.from(intact);
      const at = start + random.below(length);
      const choices = [random.below(256), 0, 0xff, content[at]! ^ (1 << random.below(8))];
      content[at] = choices[random.below(choices.length)]!;
      if (random.below(3) === 0) content.writeBigUInt64BE(BigInt(random.below(24)) << 15n, at - (at % 8));
      writeFileSync(image, content);
      const outcome = await planHostile(image, CHANGES[round % CHANGES.length]!);
      codes.add(outcome instanceof ImgtxError ? outcome.code : "planned");
    }
    expect(codes).toContain("E_CORRUPT");
    expect(codes).toContain("planned");
  });

  test("whose refcounts leave no room near its end", async () => {
    const image = await unpack("cluster-2m.qcow2");
    const content = readFileSync(image);
    const table = Number(content.readBigUInt64BE(48));
    const block = Number(content.readBigUInt64BE(table));
    poke(image, block, Buffer.alloc(2 ** 21, Uint8Array.of(0, 1)));
    const outcome = await planHostile(image, CHANGES[0]!);
    expect(outcome).toMatchObject({ code: "E_CORRUPT", field: "refcount", image });
  });
});

describe("what a bitmap says of changes is not relied on", () => {
  test.each([
    ["bitmaps.qcow2", "none", "missing"],
    ["v3.qcow2", "nightly", "missing"],
    ["bitmaps.qcow2", "weekly", "disabled"],
    ["bitmap-in-use.qcow2", "nightly", "in use"],
    ["corrupt/bitmaps-stale.qcow2", "nightly", "stale"],
  ])("in %s by %s", async (fixture, name, why) => {
    expect(await collectDirty(await unpack(fixture), name)).toBe(why);
  });

  test.each([
    ["larger", 1],
    ["smaller", -1],
  ])("where it covers a disk that is %s", async (_, clusters) => {
    const image = `${makeFolder()}/disk`;
    await makeOverlay(image, "base", "raw", { clusterSizeBytes: 512 }, 3 * 2 ** 20);
    await change(image, { kind: "add", name: "one", granularityBytes: 512 });
    expect((await listBitmaps(image))[0]!.bitmapTableSize).toBe(2);
    await setDirectory(image, ([one]) => [{ ...one!, bitmapTableSize: 2 + clusters }]);
    expect(await collectDirty(image, "one")).toBe("other size");
    expect(await errorFrom(planChange(image, CHANGES[0]!))).toMatchObject({ code: "E_CORRUPT", image });
  });
});
