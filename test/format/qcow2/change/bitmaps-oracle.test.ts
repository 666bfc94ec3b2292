// QEMU judges what the plans for bitmaps leave: the same bitmaps as qemu-img makes, `qemu-img check` clean, the
// guest's data untouched, and marks where it writes afterwards.

import { createHash } from "node:crypto";
import { copyFileSync, readFileSync } from "node:fs";
import { describe, expect } from "vitest";
import type { ByteRange } from "../../../../src/storage/index.ts";
import { FIXTURES, unpackFixture } from "../../../helpers/fixtures.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { seededRandom } from "../../../helpers/random.ts";
import {
  type Change,
  change,
  changeByQemu,
  collectDirty,
  countFaults,
  judge,
  listByQemu,
  listOwn,
  makeWitnessed,
  marksOf,
  readWitnessed,
  roundOut,
  run,
  withLink,
} from "../../../helpers/format/bitmap-oracle.ts";
import { errorFrom } from "../../../helpers/expect-error.ts";
import { makeFolder } from "../../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");
const SOUND = { errors: 0, leaks: 0 };

/** The change by imgtx on one copy and by qemu-img on the other. What QEMU lists of both is compared at a test's end. */
async function changeBoth(image: string, twin: string, what: Change): Promise<void> {
  await change(image, what);
  changeByQemu(twin, what);
  expect(await judge(image), `${what.kind} ${what.name}`).toEqual(SOUND);
  expect(await listOwn(image), `${what.kind} ${what.name}`).toEqual(await listOwn(twin));
}

/** The same into each of the images, which are in one folder. */
function write(ranges: readonly ByteRange[], ...images: readonly [string, ...string[]]): void {
  const commands = images.flatMap((image) => [
    `open -o driver=qcow2 ${image}`,
    ...ranges.map(({ start, lengthBytes }) => `write -P 7 ${start} ${lengthBytes}`),
    "close",
  ]);
  const said = run(images[0], "qemu-io", ...commands.flatMap((command) => ["-c", command]));
  if (/failed/.test(said)) throw new Error(said);
}

function hashGuest(image: string): string {
  run(image, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", image, `${image}.guest`);
  return createHash("sha256")
    .update(readFileSync(`${image}.guest`))
    .digest("hex");
}

/** Like another one in all that a bitmap meets: its refcounts are among the layouts below, or it has another name alone. */
const ALIKE =
  /^(refcount-(2|4|8|32|64)|compressed-(zlib-512|zlib-2m|zstd)|base|over-(raw|over|no-format|colon|zeros|qcow2-inside)|nested\/up)\.qcow2$/;

describe("a bitmap that is added, cleared and removed leaves what qemu-img leaves", () => {
  const suitable = FIXTURES.filter(
    ({ name, format, refusal, guest }) =>
      format === "qcow2" &&
      refusal === null &&
      !name.startsWith("corrupt/") &&
      !/v2|over-mixed|over-missing|over-absolute/.test(name) &&
      !ALIKE.test(name) &&
      guest?.sizeBytes !== 0,
  );
  qemu.test.each(suitable.map((fixture) => [fixture.name, fixture] as const))("%s", async (name, fixture) => {
    const image = await unpackFixture(name, makeFolder());
    const twin = `${image}.twin`;
    copyFileSync(image, twin);
    const first: Change = { kind: "add", name: "one" };
    await change(image, first);
    changeByQemu(twin, first);
    await changeBoth(image, twin, { kind: "add", name: "zwei ä", granularityBytes: 2 ** 20 });
    expect(await collectDirty(image, "one")).toEqual([]);
    if (fixture.guest !== null) expect(hashGuest(image)).toBe(fixture.guest.sha256);
    const written = [{ start: 512, lengthBytes: 512 }];
    write(written, image, twin);
    expect(await collectDirty(image, "one")).toEqual(await collectDirty(twin, "one"));
    expect(await collectDirty(image, "one")).toHaveLength(1);
    await changeBoth(image, twin, { kind: "clear", name: "one" });
    expect(await collectDirty(image, "one")).toEqual([]);
    expect(await collectDirty(image, "zwei ä")).toHaveLength(1);
    expect(listByQemu(image)).toEqual(listByQemu(twin));
    await changeBoth(image, twin, { kind: "remove", name: "one" });
    await changeBoth(image, twin, { kind: "remove", name: "zwei ä" });
    if (fixture.guest !== null) expect(hashGuest(image)).toBe(hashGuest(twin));
  });
});

interface Layout {
  readonly cluster: number;
  readonly refcountBits: number;
  readonly options?: string;
  readonly hasBacking?: boolean;
  readonly sizeBytes: number;
}

const MIB = 2 ** 20;
const LAYOUTS: Layout[] = [
  ...[1, 2, 4, 8, 16, 32, 64].map((refcountBits) => ({
    cluster: 512,
    refcountBits,
    sizeBytes: 3 * MIB + 512,
  })),
  ...[4096, 65_536, 2 * MIB].map((cluster) => ({ cluster, refcountBits: 16, sizeBytes: 17 * MIB + 1024 })),
  { cluster: 512, refcountBits: 16, hasBacking: true, sizeBytes: 2 * MIB },
  { cluster: 65_536, refcountBits: 16, hasBacking: true, sizeBytes: 9 * MIB },
  { cluster: 16_384, refcountBits: 16, options: "extended_l2=on", hasBacking: true, sizeBytes: 9 * MIB },
  { cluster: 4096, refcountBits: 1, options: "data_file=data", sizeBytes: 9 * MIB },
  { cluster: 65_536, refcountBits: 16, options: "data_file=data,data_file_raw=on", sizeBytes: 9 * MIB },
  { cluster: 65_536, refcountBits: 16, options: "lazy_refcounts=on", sizeBytes: 9 * MIB },
  { cluster: 4096, refcountBits: 16, options: "compression_type=zstd", hasBacking: true, sizeBytes: 9 * MIB },
];

function makeImage(layout: Layout): string {
  const image = `${makeFolder()}/disk`;
  const { cluster, refcountBits, options, hasBacking, sizeBytes } = layout;
  const backing = hasBacking === true ? ["-b", "base", "-F", "raw"] : [];
  if (hasBacking === true) run(image, "truncate", "-s", `${sizeBytes - 4096}`, "base");
  const all = [`cluster_size=${cluster}`, `refcount_bits=${refcountBits}`, ...(options ? [options] : [])];
  run(image, "qemu-img", "create", "-q", "-f", "qcow2", "-o", all.join(), ...backing, image, `${sizeBytes}`);
  return image;
}

function pickRanges(random: ReturnType<typeof seededRandom>, sizeBytes: number): ByteRange[] {
  return Array.from({ length: 1 + random.below(12) }, () => {
    const start = random.below(sizeBytes / 512) * 512;
    return { start, lengthBytes: Math.min(512 * (1 + random.below(400)), sizeBytes - start) };
  });
}

const GRANULARITIES = [undefined, 512, 4096, 65_536, MIB];

/** Adds, clears, removes and writes; QEMU does the same to a twin, and the marks are held to a model. */
async function changeRandomly(layout: Layout, seed: number, steps: number): Promise<void> {
  const image = makeImage(layout);
  const twin = `${image}.twin`;
  const random = seededRandom(seed);
  write(pickRanges(random, layout.sizeBytes), image);
  copyFileSync(image, twin);
  const model = new Map<string, { granularityBytes: number; written: ByteRange[] }>();
  for (let step = 0; step < steps; step += 1) {
    const names = [...model.keys()];
    const name = names[random.below(names.length)];
    const kind = random.below(4);
    if (kind === 0 || name === undefined) {
      const added = `b${step}`.padEnd(1 + random.below(200), "-");
      const chosen = GRANULARITIES[random.below(GRANULARITIES.length)];
      const granularityBytes = chosen ?? Math.min(Math.max(layout.cluster, 4096), 65_536);
      await changeBoth(image, twin, {
        kind: "add",
        name: added,
        ...(chosen === undefined ? {} : { granularityBytes }),
      });
      model.set(added, { granularityBytes, written: [] });
    } else if (kind === 1) {
      await changeBoth(image, twin, { kind: "clear", name });
      model.get(name)!.written = [];
    } else if (kind === 2) {
      await changeBoth(image, twin, { kind: "remove", name });
      model.delete(name);
    } else {
      const ranges = pickRanges(random, layout.sizeBytes);
      write(ranges, image, twin);
      for (const bitmap of model.values()) bitmap.written.push(...ranges);
    }
    for (const [each, { granularityBytes, written }] of model) {
      const expected = roundOut(written, granularityBytes, layout.sizeBytes);
      expect(await collectDirty(image, each), `step ${step}, ${each}`).toEqual(expected);
    }
  }
  expect(listByQemu(image)).toEqual(listByQemu(twin));
  run(image, "qemu-img", "compare", "-q", "-f", "qcow2", "-F", "qcow2", image, twin);
}

describe("changes in a random order, with writes by QEMU between them, mark what was written", () => {
  qemu.test.each(LAYOUTS.map((layout, seed) => [JSON.stringify(layout), layout, seed] as const))(
    "%s",
    async (_, layout, seed) => changeRandomly(layout, seed, 7),
  );
  qemu.test("over many steps", async () => {
    await changeRandomly({ cluster: 512, refcountBits: 64, sizeBytes: 3 * MIB }, 4711, 25);
  });
});

describe("bitmaps that are merged", () => {
  const GRANULARITIES_MERGED = [512, 4096, 65_536, MIB];

  /** Disabled, so that what is written later does not change what it marks. */
  async function addWritten(image: string, twin: string, granularityBytes: number, ranges: ByteRange[]) {
    const name = `g${granularityBytes}`;
    await changeBoth(image, twin, { kind: "add", name, granularityBytes });
    write(ranges, image, twin);
    await changeBoth(image, twin, { kind: "disable", name });
    return name;
  }

  qemu.test.each([LAYOUTS[4]!, LAYOUTS[8]!])(
    "mark what qemu-img has them mark, from any granularity into any, and from another file: $cluster",
    async (layout) => {
      const [image, other] = [makeImage(layout), makeImage({ ...layout, cluster: 65_536, options: "" })];
      const twin = `${image}.twin`;
      copyFileSync(image, twin);
      const random = seededRandom(layout.cluster);
      const names: string[] = [];
      for (const granularity of GRANULARITIES_MERGED) {
        names.push(await addWritten(image, twin, granularity, pickRanges(random, layout.sizeBytes)));
      }
      await change(other, { kind: "add", name: "theirs" });
      write(pickRanges(random, layout.sizeBytes), other);
      for (const target of GRANULARITIES_MERGED.map((bytes) => `g${bytes}`)) {
        const all = [...names, "theirs"];
        for (const from of [all[random.below(4)]!, all[random.below(4)]!, all[4]!]) {
          const source = from === "theirs" ? { image: other } : {};
          await changeBoth(image, twin, { kind: "merge", name: target, from, ...source });
          expect(await marksOf(image, target), `${from} into ${target}`).toEqual(await marksOf(twin, target));
        }
      }
      expect(listByQemu(image)).toEqual(listByQemu(twin));
      await changeBoth(image, twin, { kind: "enable", name: "g512" });
      write([{ start: 512, lengthBytes: 512 }], image, twin);
      expect(await marksOf(image, "g512")).toEqual(await marksOf(twin, "g512"));
    },
  );

  qemu.test("mark all of a disk in few bytes, and lose marks by clusters when they are cleared", async () => {
    const layout = { cluster: 512, refcountBits: 16, sizeBytes: 8 * MIB + 512 };
    const image = makeImage(layout);
    await change(image, { kind: "add", name: "all", granularityBytes: 512 });
    await change(image, { kind: "add", name: "few", granularityBytes: 512 });
    write([{ start: 0, lengthBytes: layout.sizeBytes }], image);
    await change(image, { kind: "clear", name: "few" }, { kind: "merge", name: "few", from: "all" });
    expect(await marksOf(image, "few")).toEqual([{ start: 0, lengthBytes: layout.sizeBytes }]);
    expect(await judge(image)).toEqual(SOUND);
    write([{ start: 512, lengthBytes: 512 }], image);
    expect(await marksOf(image, "few")).toEqual([{ start: 0, lengthBytes: layout.sizeBytes }]);
    await change(image, { kind: "clear", name: "few" }, { kind: "disable", name: "few" });
    expect(await judge(image)).toEqual(SOUND);
    expect(await marksOf(image, "few")).toEqual([]);
  });

  qemu.test("are refused where the disks differ, or one is inconsistent", async () => {
    const image = await unpackFixture("bitmaps.qcow2", makeFolder());
    const other = await unpackFixture("bitmap-in-use.qcow2", makeFolder());
    const merge = { kind: "merge", name: "nightly", from: "nightly", image: other } as const;
    expect(await errorFrom(change(image, merge))).toMatchObject({
      code: "E_REFUSED",
      image: other,
      message: "Bitmap 'nightly' is inconsistent and cannot be used",
    });
    expect(() => changeByQemu(image, merge)).toThrow(/is inconsistent and cannot be used/);
    const small = makeImage({ cluster: 65_536, refcountBits: 16, sizeBytes: 9 * MIB });
    await change(small, { kind: "add", name: "nightly" });
    const wrong = { ...merge, image: small };
    expect(await errorFrom(change(image, wrong))).toMatchObject({
      code: "E_USAGE",
      message: expect.stringMatching(/different sizes .* can't be merged/) as string,
    });
    expect(() => changeByQemu(image, wrong)).toThrow(/different sizes .* can't be merged/);
  });
});

describe("bitmaps that count for nothing", () => {
  qemu.test("are dropped where they are stale, as qemu-img drops them", async () => {
    const image = await unpackFixture("corrupt/bitmaps-stale.qcow2", makeFolder());
    const twin = `${image}.twin`;
    copyFileSync(image, twin);
    for (const what of [
      { kind: "add", name: "nightly" },
      { kind: "add", name: "new" },
      { kind: "remove", name: "nightly" },
    ] as const) {
      await change(image, what);
      changeByQemu(twin, what);
      expect(listByQemu(image)).toEqual(listByQemu(twin));
      expect(await countFaults(image)).toEqual(await countFaults(twin));
    }
  });

  qemu.test("are removed where they are inconsistent, and QEMU keeps up a new one beside them", async () => {
    const image = await unpackFixture("bitmap-in-use.qcow2", makeFolder());
    const twin = `${image}.twin`;
    copyFileSync(image, twin);
    await changeBoth(image, twin, { kind: "add", name: "new" });
    write([{ start: 0, lengthBytes: 512 }], image);
    expect(await collectDirty(image, "new")).toEqual([{ start: 0, lengthBytes: 65_536 }]);
    expect(await collectDirty(image, "nightly")).toBe("in use");
    expect(listByQemu(image)).toEqual(listByQemu(twin));
    await changeBoth(image, twin, { kind: "remove", name: "nightly" });
    expect(listByQemu(image)).toEqual(listByQemu(twin));
  });
});

describe("refcount structures grow with the bitmaps", () => {
  const layout = { cluster: 512, refcountBits: 64, sizeBytes: 4 * 1024 * MIB };

  qemu.test("by new blocks, and by a new table once the old one is full", async () => {
    const image = makeImage(layout);
    write([{ start: 0, lengthBytes: MIB / 2 }], image);
    const twin = `${image}.twin`;
    copyFileSync(image, twin);
    const guest = [`read -P 7 0 ${MIB / 2}`, `read -P 0 ${MIB / 2} ${MIB}`].flatMap((each) => ["-c", each]);
    const before = await readTablePlace(image);
    const names: string[] = [];
    // The table of each bitmap takes 32 clusters, half of what a block counts.
    while ((await readTablePlace(image)).clusters === before.clusters) {
      names.push(`b${names.length}`);
      await changeBoth(image, twin, { kind: "add", name: names.at(-1)!, granularityBytes: 512 });
      expect(names.length).toBeLessThan(60);
    }
    expect(names.length).toBeGreaterThan(3);
    expect(listByQemu(image)).toEqual(listByQemu(twin));
    const after = await readTablePlace(image);
    expect(after.clusters).toBeGreaterThan(before.clusters);
    expect(after.offset).not.toBe(before.offset);
    expect(run(image, "qemu-io", "-f", "qcow2", ...guest, image)).not.toMatch(/failed/);
    write([{ start: MIB, lengthBytes: MIB }], image);
    expect(await collectDirty(image, names[1]!)).toEqual([{ start: MIB, lengthBytes: MIB }]);
    for (const name of names) await change(image, { kind: "remove", name });
    expect(await judge(image)).toEqual(SOUND);
    expect(listByQemu(image)).toEqual([]);
  });
});

async function readTablePlace(image: string): Promise<{ offset: number; clusters: number }> {
  return withLink(image, async ({ header }) => ({
    offset: header!.refcountTableOffset,
    clusters: header!.refcountTableClusters,
  }));
}

describe("a bitmap and its witness", () => {
  const CHUNK = 64 * 1024;
  // The last granule is a part of one; and the only one of a small disk.
  const disks = [
    [20 * CHUNK + 512, "64k", CHUNK],
    [4096, "64k", CHUNK],
    [700 * 4096, "4k", 4096],
    [9 * 2 ** 20, "2M", CHUNK],
  ] as const;

  qemu.test.each(disks)(
    "agree on what a guest writes to %i bytes in clusters of %s, and on the end",
    async (sizeBytes, clusters, unit) => {
      const image = `${makeFolder()}/a.qcow2`;
      const options = ["-o", `cluster_size=${clusters}`];
      run(image, "qemu-img", "create", "-q", "-f", "qcow2", ...options, image, `${sizeBytes}`);
      for (const round of [1, 2, 3]) {
        await makeWitnessed(image, "one", `two:${round}`);
        expect(await judge(image)).toEqual(SOUND);
        const end = { start: sizeBytes - 1, lengthBytes: 1 };
        expect(await readWitnessed(image, "one", `two:${round}`)).toEqual(roundOut([end], unit, sizeBytes));
        const ranges = [0, Math.floor(sizeBytes / 3)].map((start) => ({ start, lengthBytes: 512 }));
        write(ranges, image);
        expect(await readWitnessed(image, "one", `two:${round}`)).toEqual(
          roundOut([...ranges, end], unit, sizeBytes),
        );
        expect(await readWitnessed(image, "one", `two:${round - 1}`)).toMatchObject({
          witness: `two:${round - 1}`,
          fault: "missing",
        });
      }
    },
  );

  qemu.test("leave nothing of their names in the file when both have gone", async () => {
    const image = `${makeFolder()}/a.qcow2`;
    run(image, "qemu-img", "create", "-q", "-f", "qcow2", image, "1M");
    await makeWitnessed(image, "one", "a name that nobody had");
    await change(image, { kind: "remove", name: "one" });
    await change(image, { kind: "remove", name: "a name that nobody had" });
    expect(readFileSync(image).includes("nobody had")).toBe(false);
  });
});
