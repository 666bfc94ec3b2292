// Tables that were tampered with: whatever an L1 or L2 entry says, reading gives bytes or a typed error, soon,
// and changes nothing.

import { guestOffset, guestRange } from "../../../src/units/index.ts";
import { closeSync, openSync, readFileSync, readSync, writeSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { type OpenedImage, openImage } from "../../../src/format/index.ts";
import { startEffort } from "../../helpers/effort.ts";
import { unpackFixture } from "../../helpers/fixtures.ts";
import { seededRandom } from "../../helpers/random.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { makeFolder, watchStorage } from "../../helpers/temporary-folder.ts";

const SUBJECTS = [
  "v2.qcow2",
  "v3.qcow2",
  "cluster-512.qcow2",
  "extended-l2.qcow2",
  "compressed-zlib.qcow2",
  "compressed-zlib-2m.qcow2",
  "compressed-zstd.qcow2",
  "over-over.qcow2",
  "data-file.qcow2",
];
const CASES_EACH = 60;

async function openSubject(path: string): Promise<OpenedImage> {
  const gate = { workspaceRoot: path.slice(0, path.lastIndexOf("/")), allowPaths: [] };
  const currentFolder = gate.workspaceRoot;
  return openImage(watchStorage().storage, path, { format: "qcow2", gate: { ...gate, currentFolder } });
}

/** All that a reader does. */
async function readAll(image: OpenedImage): Promise<void> {
  const buffer = new Uint8Array(512 * 1024);
  for (let at = 0; at < image.virtualSizeBytes; at += buffer.length) {
    await image.read(
      buffer.subarray(0, Math.min(buffer.length, image.virtualSizeBytes - at)),
      guestOffset(at),
    );
  }
}

async function findAll(image: OpenedImage): Promise<void> {
  for (let at = 0; at < image.virtualSizeBytes; ) {
    const extents = await image.findExtents(guestRange(at, image.virtualSizeBytes - at));
    for (const extent of extents) at += extent.lengthBytes;
  }
}

/** undefined for success; anything but an ImgtxError is a bug and fails the test. */
async function outcomeOf(work: Promise<void>): Promise<ImgtxError | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    if (error instanceof ImgtxError) return error;
    throw error;
  }
}

/** File offsets of the words of the L1 table, and of all L2 tables. */
function findWords(image: OpenedImage, file: Buffer): number[] {
  const header = image.chain.links[0]?.header;
  if (header === undefined) throw new Error("no qcow2");
  const l1 = Array.from({ length: header.l1Size }, (_, index) => header.l1TableOffset + 8 * index);
  const tables = l1
    .map((at) => Number(file.readBigUInt64BE(at) & 0x00ff_ffff_ffff_fe00n))
    .filter((at) => at > 0);
  const used = Math.min(header.clusterSizeBytes / 8, Math.ceil(header.size / header.clusterSizeBytes), 1024);
  return [...l1, ...tables.flatMap((table) => Array.from({ length: used }, (_, index) => table + 8 * index))];
}

const FLAGS = [
  0n,
  1n,
  1n << 63n,
  1n << 62n,
  3n << 62n,
  (1n << 63n) | 1n,
  2n,
  1n << 57n,
  0xffff_ffff_ffff_ffffn,
];

describe("tampered tables", () => {
  test.each(SUBJECTS)("of %s give bytes or a typed error, soon", async (name) => {
    const path = await unpackFixture(name, makeFolder());
    const before = readFileSync(path);
    const image = await openSubject(path);
    const words = findWords(image, before);
    await image.close();
    const random = seededRandom(name.length);
    const descriptor = openSync(path, "r+");
    const codes = new Set<string>();
    for (let round = 0; round < CASES_EACH; round += 1) {
      const at = words[random.below(Math.min(words.length, 200))]!;
      const place = BigInt(random.below(2 * before.length)) & ~511n;
      const flags = FLAGS[random.below(FLAGS.length)]!;
      const original = Buffer.alloc(8);
      readSync(descriptor, original, 0, 8, at);
      const word = Buffer.alloc(8);
      word.writeBigUInt64BE(
        random.below(4) === 0 ? original.readBigUInt64BE() ^ flags : (place | flags) & (2n ** 64n - 1n),
      );
      writeSync(descriptor, word, 0, 8, at);
      const subject = await openSubject(path);
      const effort = startEffort();
      for (const work of [readAll, findAll]) {
        const error = await outcomeOf(work(subject));
        codes.add(error?.code ?? "read");
        if (error === undefined) continue;
        expect([error.code, error.field, error.image]).toEqual([
          "E_CORRUPT",
          expect.stringMatching(/^l[12]_entry$/),
          expect.stringContaining(".qcow2"),
        ]);
        expect(error.offset).toBeTypeOf("number");
      }
      expect(effort()).toBeLessThan(2000);
      await subject.close();
      writeSync(descriptor, original, 0, 8, at);
    }
    closeSync(descriptor);
    expect(readFileSync(path).equals(before)).toBe(true);
    expect(codes).toContain("E_CORRUPT");
    expect(codes.size).toBeLessThanOrEqual(2);
  });
});

describe("an image that claims much", () => {
  test.each(["large-guest.qcow2", "corrupt/petabyte.qcow2"])("costs little: %s", async (name) => {
    const path = await unpackFixture(name, makeFolder());
    const before = process.memoryUsage().rss;
    const effort = startEffort();
    const image = await openSubject(path);
    const extents = await image.findExtents(guestRange(0, image.virtualSizeBytes));
    expect(extents.length).toBeLessThan(100);
    await image.read(new Uint8Array(4096), guestOffset(image.virtualSizeBytes - 4096));
    await image.close();
    expect(effort()).toBeLessThan(2000);
    expect(process.memoryUsage().rss - before).toBeLessThan(128 * 1024 * 1024);
  });

  test("by a decompression bomb is refused with its place", async () => {
    const path = await unpackFixture("corrupt/compressed-bomb.qcow2", makeFolder());
    const image = await openSubject(path);
    const error = await errorFrom(readAll(image));
    expect(error).toMatchObject({ code: "E_CORRUPT", image: path, field: "l2_entry" });
    await image.close();
  });
});
