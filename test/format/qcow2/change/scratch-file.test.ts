// A file with its changes in memory.

import { describe, expect, test } from "vitest";
import { ScratchFile } from "../../../../src/format/index.ts";
import type { FileStat } from "../../../../src/storage/index.ts";

const textOf = (bytes: Uint8Array) => Buffer.from(bytes).toString();

describe("a scratch file", () => {
  const bytes = Buffer.from("0123456789".repeat(1000));
  const file = {
    async read(target: Uint8Array, offset: number): Promise<number> {
      const part = bytes.subarray(offset, offset + target.length);
      target.set(part);
      return part.length;
    },
  };

  test("reads what was written to it, over page borders and behind the end", async () => {
    const scratch = new ScratchFile(file, { sizeBytes: bytes.length } as FileStat);
    await scratch.write(Buffer.from("xyz"), 4094);
    await scratch.write(Buffer.from("w"), 10_010);
    const target = new Uint8Array(6).fill(9);
    expect(await scratch.read(target, 4093)).toBe(6);
    expect(textOf(target)).toBe("3xyz78");
    expect(await scratch.read(target, 10_006)).toBe(5);
    expect([...target]).toEqual([0, 0, 0, 0, 119, 56]);
    expect(await scratch.read(target, 30_000)).toBe(0);
    expect((await scratch.stat()).sizeBytes).toBe(10_011);
    await scratch.truncate(10_240);
    expect((await scratch.stat()).sizeBytes).toBe(10_240);
  });
});
