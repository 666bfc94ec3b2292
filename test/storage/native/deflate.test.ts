import { deflateRawSync } from "node:zlib";
import { expect, test } from "vitest";
import { loadDeflateUnpacker, loadLibdeflate } from "../../../src/storage/native/deflate.ts";
import { oracle } from "../../helpers/oracles.ts";

const unpacker = loadLibdeflate();
const libdeflate = oracle(...(unpacker === undefined ? ["libdeflate.so.0"] : []));
const SOURCE = Uint8Array.from({ length: 65_536 }, (_, at) => (at * at) >>> 9);
const STORED = Buffer.concat([deflateRawSync(SOURCE, { windowBits: 12 }), Buffer.alloc(300, 0xa5)]);

async function unpackTo(sizeBytes: number, stored: Uint8Array): Promise<Uint8Array | undefined> {
  const memory = new Uint8Array(sizeBytes + 200).fill(0xee);
  const target = memory.subarray(100, 100 + sizeBytes);
  const isWhole = await unpacker?.unpackInto(target, stored);
  expect(memory.subarray(0, 100).every((byte) => byte === 0xee)).toBe(true);
  expect(memory.subarray(100 + sizeBytes).every((byte) => byte === 0xee)).toBe(true);
  return isWhole === true ? target : undefined;
}

libdeflate.test("a stream fills the memory that it was given, whatever follows the stream", async () => {
  const target = await unpackTo(SOURCE.length, STORED);
  expect(Buffer.compare(target ?? new Uint8Array(0), SOURCE)).toBe(0);
});

libdeflate.test(
  "a stream that is damaged or of another size is no success, and writes nowhere else",
  async () => {
    for (const sizeBytes of [SOURCE.length - 1, SOURCE.length + 1, 0]) {
      expect(await unpackTo(sizeBytes, STORED)).toBeUndefined();
    }
    for (const stored of [STORED.subarray(0, 100), new Uint8Array(512).fill(0xff), new Uint8Array(0)]) {
      expect(await unpackTo(SOURCE.length, stored)).toBeUndefined();
    }
  },
);

libdeflate.test("many streams at once each fill their own memory", async () => {
  const sources = Array.from({ length: 30 }, (_, index) => SOURCE.map((byte) => byte ^ index));
  const targets = await Promise.all(sources.map((source) => unpackTo(SOURCE.length, deflateRawSync(source))));
  for (const [index, source] of sources.entries()) expect(Buffer.compare(targets[index]!, source)).toBe(0);
});

test("a library that is not there is no error: zlib does the work", () => {
  expect(loadLibdeflate("libdeflate-that-is-not-there.so")).toBeUndefined();
  expect(loadDeflateUnpacker()).toBe(loadDeflateUnpacker());
});
