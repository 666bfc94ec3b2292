// What was read of a block device, told from what it is later.

import { expect, test } from "vitest";
import { isAsRead, RecordedReads } from "../../src/format/index.ts";
import type { FileStat, StorageFile } from "../../src/storage/index.ts";

const PIECE = 65_536;

/** A device over these bytes, of which it has no other calls. */
function deviceOf(bytes: Uint8Array, kind: "device" | "file" = "device"): StorageFile {
  const file = {
    path: "/dev/vg/disk",
    stat: async () =>
      await Promise.resolve({ kind, sizeBytes: bytes.length, fileSystem: "0", inode: "7" } as FileStat),
    async read(target: Uint8Array, offset: number) {
      const found = bytes.subarray(offset, offset + target.length);
      target.set(found);
      return await Promise.resolve(found.length);
    },
  };
  return file as unknown as StorageFile;
}

test("a write to what was read of a device shows, and one beside it does not", async () => {
  const bytes = new Uint8Array(5 * PIECE + 512).fill(3);
  const reads = new RecordedReads();
  const file = await reads.observe(deviceOf(bytes));
  const small = new Uint8Array(8);
  expect(await file.read(small, PIECE + 100)).toBe(8);
  expect(await file.read(new Uint8Array(2 * PIECE), 3 * PIECE)).toBe(2 * PIECE);
  // Past the end of the device there is less.
  expect(await file.read(new Uint8Array(1000), 5 * PIECE)).toBe(512);
  const [stored, ...others] = reads.stored();
  expect([stored?.image, stored?.runs, others]).toEqual(["/dev/vg/disk", [1, 1, 3, 3], []]);
  if (!stored) throw new Error("reads of a device were recorded");
  expect(small).toEqual(new Uint8Array(8).fill(3));
  bytes[2 * PIECE] = 4;
  expect(await isAsRead(deviceOf(bytes), stored)).toBe(true);
  for (const at of [PIECE, 2 * PIECE - 1, 3 * PIECE, 5 * PIECE + 511]) {
    const written = Uint8Array.from(bytes);
    written[at] = 4;
    expect(await isAsRead(deviceOf(written), stored)).toBe(false);
  }
  // A device that was made larger; one that was made smaller, and numbers that nobody wrote.
  expect(await isAsRead(deviceOf(Buffer.concat([bytes, new Uint8Array(PIECE)])), stored)).toBe(true);
  expect(await isAsRead(deviceOf(bytes.subarray(0, 5 * PIECE)), stored)).toBe(false);
  expect(await isAsRead(deviceOf(bytes), { ...stored, runs: [1, Number.MAX_SAFE_INTEGER] })).toBe(false);
});

test("what reads otherwise a second time is no ground for a plan", async () => {
  const bytes = new Uint8Array(PIECE);
  const reads = new RecordedReads();
  const file = await reads.observe(deviceOf(bytes));
  await file.read(new Uint8Array(8), 0);
  bytes[PIECE - 1] = 1;
  await expect(file.read(new Uint8Array(8), 64)).rejects.toMatchObject({ code: "E_CHANGED" });
  reads.forget();
  await file.read(new Uint8Array(8), 64);
  await reads.withoutThoseOf(async () => {
    bytes[0] = 1;
    await file.read(new Uint8Array(8), 64);
  });
  reads.keepOnly([]);
  expect(reads.stored()).toEqual([]);
});

test("a file has its times, and is not read more than it is asked for", async () => {
  const file = deviceOf(new Uint8Array(PIECE), "file");
  expect(await new RecordedReads().observe(file)).toBe(file);
});
