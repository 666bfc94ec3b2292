// The fence as bytes: where it goes in each kind of header, and that lifting it restores every byte.

import { readFile } from "node:fs/promises";
import { describe, expect, test } from "vitest";
import { decodeHeaderCluster, type Qcow2Header } from "../../../../src/format/qcow2/codec/header-cluster.ts";
import {
  type BytePatch,
  FENCE_ROOM_BYTES,
  isFencedHead,
  isFencePatch,
  planFence,
  planLift,
} from "../../../../src/format/qcow2/codec/fence.ts";
import { FIXTURES, unpackFixture } from "../../../helpers/fixtures.ts";
import { sampleQcow2 } from "../../../helpers/sample-image.ts";

const FILE_BYTES = 2 ** 40;
const OWNER = "7f3k2m9qa1";
const TEXT = `frozen by imgtx ${OWNER}`;

function applied(cluster: Uint8Array, { offset, before, after }: BytePatch): Uint8Array {
  expect(before.length).toBe(after.length);
  const patched = cluster.slice();
  expect([...patched.subarray(offset, offset + before.length)]).toEqual([...before]);
  patched.set(after, offset);
  return patched;
}

/** What the two headers say, but for the fence. */
function withoutFence(header: Qcow2Header): object {
  return {
    ...header,
    extensions: header.extensions.filter(({ kind }) => kind !== "featureNames"),
    incompatibleFeatures: header.incompatibleFeatures.filter((bit) => bit !== 62),
    featureNames: [],
    backingFileOffset: 0,
    isFenced: false,
  };
}

function checkRoundTrip(cluster: Uint8Array) {
  const fence = planFence(cluster, OWNER);
  const fenced = applied(cluster, fence);
  expect(isFencedHead(cluster)).toBe(false);
  expect(isFencedHead(fenced)).toBe(true);
  const before = decodeHeaderCluster(cluster, FILE_BYTES);
  const now = decodeHeaderCluster(fenced, FILE_BYTES);
  expect(now).toMatchObject({ isFenced: true });
  expect(withoutFence(now)).toEqual(withoutFence(before));
  const name = now.featureNames.find(({ type, bit }) => type === "incompatible" && bit === 62);
  expect(name?.name.split("\0")[0]).toBe(fence.isNamed ? TEXT : undefined);
  // The record of the fence and what it says of itself lead back to the same bytes.
  const lift = planLift(fenced);
  expect(Buffer.from(applied(fenced, lift)).equals(cluster)).toBe(true);
  const record = { ...fence, before: fence.after, after: fence.before };
  expect(Buffer.from(applied(fenced, record)).equals(cluster)).toBe(true);
  expect(isFencePatch(fence)).toBe(true);
  for (const odd of oddPatches(fence)) expect(isFencePatch(odd)).toBe(false);
  return { fence, fenced, header: now };
}

/** Stored patches that imgtx does not write: each byte of either side another one, cut, moved, turned around. */
function* oddPatches(fence: BytePatch): Generator<BytePatch> {
  const { offset, before, after } = fence;
  yield { offset, before: after, after: before };
  yield { offset, before, after: before };
  yield { offset: offset + 1, before, after };
  yield { offset, before: before.subarray(1), after };
  for (let at = 0; at < before.length; at += 1) {
    yield { offset, before: before.with(at, before[at]! ^ 1), after };
  }
}

const images = FIXTURES.filter(({ format, refusal }) => format === "qcow2" && refusal?.when !== "open").map(
  ({ name }) => [name] as const,
);

describe("every image of the fixtures is fenced, and lifted byte by byte", () => {
  test.each(images)("%s", async (name) => {
    const bytes = await readFile(await unpackFixture(name));
    if (bytes.readUInt32BE(4) === 2) return;
    const cluster = new Uint8Array(bytes.subarray(0, 2 ** bytes.readUInt32BE(20)));
    const before = decodeHeaderCluster(cluster, FILE_BYTES);
    const { fence, header } = checkRoundTrip(cluster);
    expect(fence.isNamed).toBe(true);
    if (before.featureNames.length === 0) return;
    // As QEMU writes headers, nothing moves, and one sector has it all.
    expect(fence.offset).toBe(72);
    expect(fence.offset + fence.after.length).toBeLessThanOrEqual(512);
    expect(header.backingFileOffset).toBe(before.backingFileOffset);
  });
});

function sample(parts: Partial<Parameters<typeof sampleQcow2>[0]>): Uint8Array {
  const image = { virtualSizeBytes: 65_536, dataClusters: [0], seed: 1, clusterBits: 9, ...parts };
  return sampleQcow2(image).slice(0, 2 ** image.clusterBits);
}

/** Puts a feature name table in front of the end mark of a sample, which has none. */
function withTable(entries: readonly (readonly [type: number, bit: number, name: string])[]): Uint8Array {
  const cluster = sample({ clusterBits: 12 });
  const view = new DataView(cluster.buffer);
  view.setUint32(104, 0x6803f857);
  view.setUint32(108, entries.length * 48);
  for (const [index, [type, bit, name]] of entries.entries()) {
    cluster.set([type, bit, ...Buffer.from(name)], 112 + 48 * index);
  }
  return cluster;
}

describe("a fence of an earlier version, which has no owner in its name", () => {
  test.each([
    [
      "that added a table",
      sample({}),
      104,
      (name: string) => `6803f85700000030003e${name}0002${"00".repeat(29)}`,
    ],
    [
      "that took the place of another feature's name",
      withTable([[0, 1, "corrupt bit"]]),
      112,
      (name: string) => `003e${name}00010001${Buffer.from("corrupt bit").toString("hex")}${"00".repeat(16)}`,
    ],
  ])("is lifted byte by byte: one %s", (_, cluster, at, entryOf) => {
    const fenced = cluster.slice();
    fenced[72] = 0x40;
    fenced.set(Buffer.from(entryOf(Buffer.from("frozen by imgtx").toString("hex")), "hex"), at);
    expect(isFencedHead(fenced)).toBe(true);
    expect(Buffer.from(applied(fenced, planLift(fenced))).equals(cluster)).toBe(true);
  });
});

test.each([1, 2, 200])("one of a merge of %d layers says so, and is lifted byte by byte", (layers) => {
  const cluster = sample({});
  const fenced = applied(cluster, planFence(cluster, OWNER, "merging", layers));
  expect(decodeHeaderCluster(fenced, FILE_BYTES).merger).toMatchObject({ id: OWNER, layers });
  expect(Buffer.from(applied(fenced, planLift(fenced))).equals(cluster)).toBe(true);
});

test("in a table that goes on in the next sector its name stays in the first one, and much of the table lies after it", () => {
  const names = Array.from({ length: 12 }, (_, bit) => [2, bit, `autoclear ${bit}`] as const);
  const { fence } = checkRoundTrip(withTable(names));
  expect(fence.offset + fence.after.length).toBeLessThanOrEqual(512);
});

describe("a header without a feature name table", () => {
  test("gets one in front of its end mark, and nothing moves", () => {
    const { fence, fenced } = checkRoundTrip(sample({}));
    expect([fence.offset, fence.after.length]).toEqual([72, 104 + FENCE_ROOM_BYTES - 72]);
    const golden = `6803f85700000030003e${Buffer.from(TEXT).toString("hex")}0002${"00".repeat(18 + 8)}`;
    expect(Buffer.from(fenced.subarray(104, 168)).toString("hex")).toBe(golden);
    expect(Buffer.from(fenced.subarray(72, 80)).toString("hex")).toBe("4000000000000000");
  });

  test("has its backing file name moved after it where that stands in the way", () => {
    const backing = { name: "base.qcow2", format: "qcow2" };
    const before = decodeHeaderCluster(sample({ backing }), FILE_BYTES);
    const { fence, header } = checkRoundTrip(sample({ backing }));
    expect(fence.offset).toBe(8);
    expect(header).toMatchObject({ backingFileName: "base.qcow2", backingFormat: "qcow2" });
    expect(header.backingFileOffset).toBe(before.backingFileOffset + 56);
  });

  test("keeps a backing file name where it is that leaves room in front of it", () => {
    const cluster = sample({ backing: { name: "base", format: "raw" }, clusterBits: 12 });
    const view = new DataView(cluster.buffer);
    cluster.copyWithin(1000, Number(view.getBigUint64(8)), Number(view.getBigUint64(8)) + 4);
    cluster.fill(0, Number(view.getBigUint64(8)), Number(view.getBigUint64(8)) + 4);
    view.setBigUint64(8, 1000n);
    const { fence, header } = checkRoundTrip(cluster);
    expect([fence.offset, header.backingFileOffset]).toEqual([72, 1000]);
  });

  test.each([
    ["the backing file name leaves no room", sample({ backing: { name: "b".repeat(370), format: "raw" } })],
    ["somebody keeps data past the extensions", sample({}).fill(1, 150, 151)],
  ])("is fenced without a name where %s", (_, cluster) => {
    const { fence } = checkRoundTrip(cluster);
    expect(fence).toMatchObject({ isNamed: false, offset: 72 });
    expect(Buffer.from(fence.after).toString("hex")).toBe("4000000000000000");
  });
});

describe("a header with a feature name table", () => {
  test("lends the entry that no refusal prints, the last in the first sector", () => {
    const names = ["dirty bit", "corrupt bit", "lazy refcounts", "bitmaps"];
    const { header } = checkRoundTrip(
      withTable(names.map((name, index) => [index < 2 ? 0 : index - 1, index % 2, name])),
    );
    expect(header.featureNames.map(({ name }) => name.split("\0")[0])).toEqual([
      "dirty bit",
      "corrupt bit",
      "lazy refcounts",
      TEXT,
    ]);
  });

  test("keeps the name of an incompatible feature that the image has", () => {
    const cluster = withTable([
      [0, 0, "dirty bit"],
      [0, 1, "corrupt bit"],
    ]);
    new DataView(cluster.buffer).setBigUint64(72, 2n);
    const { header } = checkRoundTrip(cluster);
    expect(header.featureNames.map(({ name }) => name.split("\0")[0])).toEqual([TEXT, "corrupt bit"]);
  });

  test("lends none after an entry without a text, where QEMU stops reading", () => {
    const { header } = checkRoundTrip(
      withTable([
        [0, 1, "corrupt bit"],
        [1, 0, ""],
        [2, 0, "bitmaps"],
      ]),
    );
    expect(header.featureNames.map(({ bit }) => bit)).toEqual([1, 62, 0]);
  });

  test("has no place for the name where no entry could be told from the note", () => {
    const { fence } = checkRoundTrip(withTable([[1, 0, "n".repeat(17)]]));
    expect(fence.isNamed).toBe(false);
    expect(checkRoundTrip(withTable([[1, 0, "n".repeat(16)]])).fence.isNamed).toBe(true);
  });

  test("is lifted without its name where somebody wrote the table anew", () => {
    const cluster = withTable([[1, 0, "lazy refcounts"]]);
    const fenced = applied(cluster, planFence(cluster, OWNER));
    fenced.fill(0xee, 112 + 18, 112 + 48);
    const lifted = decodeHeaderCluster(applied(fenced, planLift(fenced)), FILE_BYTES);
    expect(lifted.isFenced).toBe(false);
    expect(lifted.featureNames).toEqual([{ type: "incompatible", bit: 62, name: "" }]);
  });
});
