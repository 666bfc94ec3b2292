import * as zlib from "node:zlib";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { fromNode, loadLibzstd, loadZstd, type ZstdCodec } from "../../../src/storage/native/zstd.ts";
import { oracle } from "../../helpers/oracles.ts";
import { seededRandom } from "../../helpers/random.ts";
import { failureOf } from "../../helpers/expect-error.ts";

const random = seededRandom(7);
const SOURCE = Uint8Array.from({ length: 65_536 }, (_, at) => (at % 8 === 0 ? random.below(256) : at >>> 8));

/** A stand-in for the zstd of Node 22.15 and newer: the calls as they are there, over deflate. */
const LIKE_NODE = {
  zstdDecompress(
    source: Uint8Array,
    options: { maxOutputLength: number },
    done: (error: Error | null, result: Uint8Array) => void,
  ) {
    zlib.inflateRaw(source, options, done);
  },
  zstdCompress(source: Uint8Array, done: (error: Error | null, result: Uint8Array) => void) {
    zlib.deflateRaw(source, done);
  },
};

const libzstd = oracle(...(hasLibzstd() ? [] : ["libzstd.so.1"]));

function hasLibzstd(): boolean {
  try {
    loadLibzstd();
    return true;
  } catch (error) {
    if (error instanceof ImgtxError) return false;
    throw error;
  }
}

async function expectToHold(codec: ZstdCodec): Promise<void> {
  const frame = await codec.compress(SOURCE);
  expect(frame.length).toBeLessThan(SOURCE.length);
  expect(Buffer.compare(await codec.decompress(frame, SOURCE.length), SOURCE)).toBe(0);
  for (const sizeBytes of [SOURCE.length - 1, SOURCE.length + 1, 0]) {
    expect((await failureOf(() => codec.decompress(frame, sizeBytes))).code).toBe("E_CORRUPT");
  }
  const damaged = frame.slice(0, frame.length - 9);
  expect((await failureOf(() => codec.decompress(damaged, SOURCE.length))).code).toBe("E_CORRUPT");
  expect((await failureOf(() => codec.decompress(SOURCE, SOURCE.length))).code).toBe("E_CORRUPT");
}

describe("the system's libzstd", () => {
  libzstd.test("gives back what it packed, and refuses what is damaged or of another size", async () => {
    await expectToHold(loadLibzstd());
  });

  libzstd.test("works on many frames at once, each with its own result", async () => {
    const codec = loadLibzstd();
    const sources = Array.from({ length: 40 }, (_, index) => SOURCE.map((byte) => byte ^ index));
    const frames = await Promise.all(sources.map((source) => codec.compress(source)));
    const results = await Promise.all(frames.map((frame) => codec.decompress(frame, SOURCE.length)));
    for (const [index, source] of sources.entries()) expect(Buffer.compare(source, results[index]!)).toBe(0);
  });

  test("that is not there is named in the error, with what to install", async () => {
    const failure = await failureOf(() => loadLibzstd("libzstd-that-is-not-there.so.1"));
    expect(failure).toMatchObject({ code: "E_UNSUPPORTED", exitCode: 12 });
    expect(failure.hint).toContain("libzstd1");
    expect(failure.hint).toContain("Node 22.15");
  });
});

describe("Node's zstd", () => {
  test("is taken where Node has it, with the same promises", async () => {
    const codec = fromNode(LIKE_NODE);
    if (codec === undefined) throw new Error("not recognised");
    await expectToHold(codec);
  });

  test("is not missed where Node has none", () => {
    expect(fromNode({ inflateRaw: zlib.inflateRaw })).toBeUndefined();
  });

  libzstd.test("or else the system's is loaded, once", async () => {
    expect(loadZstd()).toBe(loadZstd());
    await expectToHold(loadZstd());
  });
});
