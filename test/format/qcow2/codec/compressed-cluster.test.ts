import { deflateRawSync } from "node:zlib";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../../src/errors/index.ts";
import {
  inflateCluster,
  measureZstdFrame,
  unzstdCluster,
} from "../../../../src/format/qcow2/codec/compressed-cluster.ts";
import { errorFrom, errorOf } from "../../../helpers/expect-error.ts";

const CLUSTER = Uint8Array.from({ length: 4096 }, (_, at) => (at * at) >>> 7);

function padded(bytes: Uint8Array, padding: number): Uint8Array {
  return Uint8Array.from([...bytes, ...new Uint8Array(padding).fill(0xa5)]);
}

/** A frame of one block that is stored as it is: magic, descriptor, window, block header, data, checksum. */
function frameOf(descriptor: number, headerBytes: number, checksumBytes: number): number[] {
  const header = [0x28, 0xb5, 0x2f, 0xfd, descriptor, ...Array.from({ length: headerBytes }, () => 0)];
  const block = [(3 << 3) | 1, 0, 0, 0x61, 0x62, 0x63];
  return [...header, ...block, ...Array.from({ length: checksumBytes }, () => 0x77)];
}

describe("a deflated cluster", () => {
  test("comes out whole, whatever follows it in its last sector", async () => {
    for (const windowBits of [12, 15]) {
      const stored = deflateRawSync(CLUSTER, { windowBits });
      for (const padding of [0, 1, 511]) {
        expect(new Uint8Array(await inflateCluster(padded(stored, padding), 4096))).toEqual(CLUSTER);
      }
    }
  });

  test("that gives another size is refused, before memory is taken for it", async () => {
    const bomb = deflateRawSync(new Uint8Array(256 * 1024 * 1024));
    const before = process.memoryUsage().rss;
    for (const stored of [bomb, deflateRawSync(new Uint8Array(4097)), deflateRawSync(new Uint8Array(4095))]) {
      const error = await errorFrom(inflateCluster(stored, 4096));
      expect([error.code, error.field]).toEqual(["E_CORRUPT", "l2_entry"]);
    }
    expect(process.memoryUsage().rss - before).toBeLessThan(64 * 1024 * 1024);
  });

  test("that is cut short or no deflate stream is refused", async () => {
    const stored = deflateRawSync(CLUSTER);
    for (const bytes of [
      stored.subarray(0, stored.length >> 1),
      new Uint8Array(512).fill(0xff),
      new Uint8Array(0),
    ]) {
      expect((await errorFrom(inflateCluster(bytes, 4096))).code).toBe("E_CORRUPT");
    }
  });
});

describe("a zstd frame", () => {
  test.each([
    ["with a window", 0x00, 1, 0],
    ["with a window and a checksum", 0x04, 1, 4],
    ["of a single segment", 0x20, 1, 0],
    ["of a single segment with a long size", 0xe0, 8, 0],
    ["with a size of two bytes", 0x40, 3, 0],
    ["with a dictionary id of four bytes", 0x03, 5, 0],
  ])("%s is measured without what follows it", (_, descriptor, headerBytes, checksumBytes) => {
    const frame = frameOf(descriptor, headerBytes, checksumBytes);
    expect(measureZstdFrame(Uint8Array.from([...frame, 0, 0, 0]))).toBe(frame.length);
  });

  test("of several blocks is measured to the end of its last one; a repeated byte takes one", () => {
    const start = [0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x00];
    const repeated = [(9 << 3) | 2, 0, 0, 0x61];
    const last = [(1 << 3) | 1, 0, 0, 0x62];
    const frame = [...start, ...repeated, ...last];
    expect(measureZstdFrame(Uint8Array.from([...frame, 9, 9]))).toBe(frame.length);
  });

  test.each([
    ["no magic", [1, 2, 3, 4, 5, 6, 7, 8]],
    ["too short for a header", [0x28, 0xb5, 0x2f, 0xfd, 0]],
    ["a block of a reserved type", [0x28, 0xb5, 0x2f, 0xfd, 0, 0, 7, 0, 0]],
    ["a block that does not end", [0x28, 0xb5, 0x2f, 0xfd, 0, 0, 0xf9, 0xff, 0xff, 1]],
    ["no last block", [0x28, 0xb5, 0x2f, 0xfd, 0, 0, 1 << 3, 0, 0, 1]],
    ["a checksum that is cut off", [0x28, 0xb5, 0x2f, 0xfd, 4, 0, (1 << 3) | 1, 0, 0, 1, 9]],
  ])("with %s is refused", (_, bytes) => {
    expect(errorOf(() => measureZstdFrame(Uint8Array.from(bytes))).code).toBe("E_CORRUPT");
  });

  test("is handed to the unpacker by itself, whose other errors pass", async () => {
    const frame = Uint8Array.from(frameOf(0x20, 1, 0));
    const seen: number[] = [];
    const unpacker = {
      decompress: (bytes: Uint8Array) => {
        seen.push(bytes.length);
        return Promise.resolve(CLUSTER);
      },
    };
    expect(await unzstdCluster(padded(frame, 100), 4096, unpacker)).toBe(CLUSTER);
    expect(seen).toEqual([frame.length]);
    const missing = { decompress: () => Promise.reject(new ImgtxError("E_UNSUPPORTED", "no zstd")) };
    expect((await errorFrom(unzstdCluster(frame, 4096, missing))).code).toBe("E_UNSUPPORTED");
    const damaged = { decompress: () => Promise.reject(new Error("bad checksum")) };
    expect((await errorFrom(unzstdCluster(frame, 4096, damaged))).code).toBe("E_CORRUPT");
  });
});
