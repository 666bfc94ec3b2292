import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { afterAll, describe, expect, test } from "vitest";
import { checkQcow2, type CheckResult } from "../../../../src/format/index.ts";
import { makeNodeStorage, type StorageFile } from "../../../../src/storage/index.ts";
import { FIXTURES, unpackFixture } from "../../../helpers/fixtures.ts";
import { oracle } from "../../../helpers/oracles.ts";

const storage = makeNodeStorage();
const folder = mkdtempSync(`${tmpdir()}/imgtx-check-`);
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

async function check(path: string, watch: (file: StorageFile) => StorageFile = (file) => file) {
  const lines: string[] = [];
  const file = await storage.openFile(path, "read");
  try {
    const result = await checkQcow2(watch(file), (line) => lines.push(line));
    return { result, lines };
  } finally {
    await file.close();
  }
}

describe("check of the sound fixtures finds nothing", () => {
  const sound = FIXTURES.filter(
    ({ name, format, refusal }) => format === "qcow2" && refusal === null && !name.startsWith("corrupt/"),
  );
  test.each(sound.map(({ name }) => name))("%s", async (name) => {
    const { result, lines } = await check(await unpackFixture(name));
    expect(lines).toEqual([]);
    expect(result).toMatchObject({ corruptions: 0, leaks: 0, checkErrors: 0 });
  });
});

// As qemu-img 7.2 counts them.
describe("check counts the errors and leaks of a damaged fixture", () => {
  test.each<[string, number, number, number]>([
    ["dirty", 2, 0, 0],
    ["corrupt/l1-truncated", 0, 0, 0],
    ["corrupt/l1-at-header", 3, 6, 0],
    ["corrupt/refcount-table-none", 12, 0, 0],
    ["corrupt/refcount-table-past-end", 13, 0, 0],
    ["corrupt/refcount-table-at-l1", 1, 0, 9],
    ["corrupt/snapshots-past-end", 3, 12, 0],
    ["corrupt/snapshot-l1-huge", 1, 6, 0],
    ["corrupt/snapshot-l1-at-header", 3, 6, 0],
    ["corrupt/bitmaps-stale", 0, 4, 0],
    ["corrupt/l1-entry-at-refcount-table", 4, 5, 0],
    ["corrupt/l1-entry-past-end", 2, 5, 0],
    ["corrupt/l1-entry-reserved", 1, 0, 0],
    ["corrupt/l2-entry-at-header", 0, 1, 0],
    ["corrupt/l2-entry-at-l1", 1, 1, 0],
    ["corrupt/l2-entry-shared", 1, 0, 0],
    ["corrupt/l2-entry-unaligned", 2, 0, 0],
    ["corrupt/l2-entry-past-end", 2, 1, 0],
    ["corrupt/l2-entry-reserved", 1, 0, 0],
    ["corrupt/l2-subclusters-both", 1, 0, 0],
    ["corrupt/refcount-zero", 2, 0, 0],
    ["corrupt/leak", 0, 1, 0],
    ["corrupt/compressed-past-end", 1, 1, 0],
    ["corrupt/compressed-bomb", 1, 0, 0],
  ])("%s: %d errors, %d leaks, %d not judged", async (name, corruptions, leaks, checkErrors) => {
    const { result } = await check(await unpackFixture(`${name}.qcow2`));
    expect(result).toMatchObject({ corruptions, leaks, checkErrors });
  });

  test.each(["corrupt/bitmap-type", "corrupt/bitmap-name-long", "corrupt/snapshot-extra-huge"])(
    "%s can't be checked to the end, and says where it is broken",
    async (name) => {
      const path = await unpackFixture(`${name}.qcow2`);
      await expect(check(path)).rejects.toMatchObject({ code: "E_CORRUPT", image: path });
    },
  );
});

test("a shared cluster, a leak and a wrong flag are told as qemu-img tells them", async () => {
  const { lines } = await check(await unpackFixture("corrupt/l2-entry-past-end.qcow2"));
  expect(lines).toEqual([
    "ERROR: counting reference for region exceeding the end of the file by one cluster or more: " +
      "offset 0x40000000 size 0x10000",
    "Leaked cluster 5 refcount=1 reference=0",
    "ERROR OFLAG_COPIED data cluster: l2_entry=8000000040000000 refcount=0",
  ]);
});

test("a table that is shared is read once, and guest data never", async () => {
  const path = makeImage([at(5)], [1, 1, 1, 1, 2, 2], [at(4), at(4)]);
  const offsets: number[] = [];
  const { result } = await check(path, (file) =>
    watchReads(file, (offset) => {
      offsets.push(offset);
    }),
  );
  expect(result.corruptions).toBe(0);
  expect(offsets.filter((offset) => offset === 4 * CLUSTER)).toHaveLength(1);
  expect(offsets.filter((offset) => offset >= 5 * CLUSTER)).toEqual([]);
});

function watchReads(file: StorageFile, seen: (offset: number) => void): StorageFile {
  return new Proxy(file, {
    get(target, name) {
      const member: unknown = Reflect.get(target, name);
      if (name === "read") {
        return (buffer: Uint8Array, offset: number) => {
          seen(offset);
          return target.read(buffer, offset);
        };
      }
      return typeof member === "function" ? (member.bind(target) as unknown) : member;
    },
  });
}

const CLUSTER = 512;

/** Version 2, clusters of 512 bytes, one refcount block, one L2 table with these entries. */
function makeImage(
  entries: readonly bigint[],
  counts: readonly number[],
  l1Entries: readonly bigint[],
): string {
  const bytes = Buffer.alloc(16 * CLUSTER);
  bytes.writeUInt32BE(0x514649fb, 0);
  bytes.writeUInt32BE(2, 4);
  bytes.writeUInt32BE(9, 20);
  bytes.writeBigUInt64BE(BigInt(l1Entries.length * 64 * CLUSTER), 24);
  bytes.writeUInt32BE(l1Entries.length, 36);
  bytes.writeBigUInt64BE(BigInt(3 * CLUSTER), 40);
  bytes.writeBigUInt64BE(BigInt(CLUSTER), 48);
  bytes.writeUInt32BE(1, 56);
  bytes.writeBigUInt64BE(BigInt(2 * CLUSTER), CLUSTER);
  counts.forEach((count, cluster) => bytes.writeUInt16BE(count, 2 * CLUSTER + cluster * 2));
  l1Entries.forEach((entry, index) => bytes.writeBigUInt64BE(entry, 3 * CLUSTER + index * 8));
  entries.forEach((entry, index) => bytes.writeBigUInt64BE(entry, 4 * CLUSTER + index * 8));
  const path = `${folder}/${Math.random().toString(36).slice(2)}.qcow2`;
  writeFileSync(path, bytes);
  return path;
}

const COPIED = 1n << 63n;
const at = (cluster: number): bigint => BigInt(cluster * CLUSTER);

describe("references are counted as often as they are made", () => {
  test("by two L1 entries that lead to one table", async () => {
    const path = makeImage([at(5)], [1, 1, 1, 1, 2, 2], [at(4), at(4)]);
    expect((await check(path)).result).toMatchObject({
      corruptions: 0,
      leaks: 0,
      allocatedClusters: 2,
      imageEndOffset: 6 * CLUSTER,
    });
  });

  test("by entries that name a cluster more than 255 times", async () => {
    const l1 = Array.from({ length: 60 }, () => at(4));
    const entries = Array.from({ length: 64 }, () => at(5));
    const path = makeImage(entries, [1, 1, 1, 1, 60, 3840], l1);
    expect((await check(path)).result).toMatchObject({ corruptions: 0, leaks: 0, allocatedClusters: 3840 });
    const short = makeImage(entries, [1, 1, 1, 1, 60, 3839], l1);
    const { result, lines } = await check(short);
    expect(lines).toEqual(["ERROR cluster 5 refcount=3839 reference=3840"]);
    expect(result.corruptions).toBe(1);
  });

  test("and each wrong flag that they lead to", async () => {
    const path = makeImage([at(5) | COPIED], [1, 1, 1, 1, 2, 2], [at(4), at(4)]);
    const { result, lines } = await check(path);
    const line = "ERROR OFLAG_COPIED data cluster: l2_entry=8000000000000a00 refcount=2";
    expect(lines).toEqual([line, line]);
    expect(result.corruptions).toBe(2);
  });

  const qemu = oracle("qemu-img");
  qemu.test("as qemu-img counts them", async () => {
    const { spawnSync } = await import("node:child_process");
    const path = makeImage(
      [
        at(5) | COPIED,
        at(6),
        at(6) | 3n,
        (1n << 62n) | at(7),
        at(40),
        0n,
        at(8) | 1n,
        (1n << 62n) | COPIED | at(9),
      ],
      [1, 1, 1, 1, 2, 2, 9, 0, 2, 1, 1],
      [at(4), at(4) | (1n << 57n), at(14) | COPIED],
    );
    const { stdout } = spawnSync("qemu-img", ["check", "--output=json", path], { encoding: "utf8" });
    const theirs = JSON.parse(stdout) as Record<string, number>;
    const { result } = await check(path);
    const expected: Partial<CheckResult> = {
      corruptions: theirs["corruptions"] ?? 0,
      leaks: theirs["leaks"] ?? 0,
      allocatedClusters: theirs["allocated-clusters"] ?? 0,
      fragmentedClusters: theirs["fragmented-clusters"] ?? 0,
      compressedClusters: theirs["compressed-clusters"] ?? 0,
      imageEndOffset: theirs["image-end-offset"] ?? 0,
    };
    expect(result).toMatchObject(expected);
    expect(expected.corruptions).toBeGreaterThan(5);
  });
});
