// A file with its changes in memory, and the patch that they make.

import { describe, expect, test } from "vitest";
import { PatchedFile } from "../../../../src/format/qcow2/change/image-patch.ts";

const textOf = (bytes: Uint8Array) => Buffer.from(bytes).toString();

describe("a patched file", () => {
  const bytes = Buffer.from("0123456789".repeat(1000));
  const file = {
    async read(target: Uint8Array, offset: number): Promise<number> {
      const part = bytes.subarray(offset, offset + target.length);
      target.set(part);
      return part.length;
    },
  };

  test("says what stands there, shorter at the end of the file, and leaves zeros behind it out", async () => {
    const patched = new PatchedFile(file, bytes.length);
    await patched.write(Buffer.from("ab"), 9999);
    await patched.write(new Uint8Array(5000), 10_001);
    await patched.write(Buffer.from("z"), 20_000);
    await patched.write(Buffer.from("012"), 10);
    expect(patched.endBytes).toBe(20_001);
    const { writes, sizeBytes } = await patched.makePatch(20_480);
    expect(sizeBytes).toBe(20_480);
    expect(writes.map((write) => [write.offset, textOf(write.before), textOf(write.after)])).toEqual([
      [9999, "9", "ab"],
      [20_000, "", "z"],
    ]);
  });

  test("reads what was written to it, over page borders and behind the end", async () => {
    const patched = new PatchedFile(file, bytes.length);
    await patched.write(Buffer.from("xyz"), 4094);
    await patched.write(Buffer.from("w"), 10_010);
    const target = new Uint8Array(6).fill(9);
    expect(await patched.read(target, 4093)).toBe(6);
    expect(textOf(target)).toBe("3xyz78");
    expect(await patched.read(target, 10_006)).toBe(5);
    expect([...target]).toEqual([0, 0, 0, 0, 119, 56]);
    expect(await patched.read(target, 30_000)).toBe(0);
  });
});
