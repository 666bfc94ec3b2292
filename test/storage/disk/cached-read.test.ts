// Large reads give the same bytes, whichever thread makes them.

import { randomBytes } from "node:crypto";
import { writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { loadSystemCalls, type SystemCalls } from "../../../src/storage/native/system-calls.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const MIB = 1024 * 1024;
const PIECES = 6;

/** Reads a file of six pieces and a rest, all at once, into one buffer with a margin around each piece. */
async function readAllAtOnce(readCached: SystemCalls["readCached"]): Promise<void> {
  // A file system in memory has no reads that do not wait.
  const path = `${makeFolder("on a disk")}/file`;
  const data = randomBytes(PIECES * MIB + 12_345);
  writeFileSync(path, data);
  const storage = makeNodeStorage({ loadSystemCalls: () => ({ ...loadSystemCalls(), readCached }) });
  const file = await storage.openFile(path, "read");
  const space = Buffer.alloc((PIECES + 1) * (MIB + 100));
  const pieceAt = (index: number): Buffer => {
    const start = index * (MIB + 100) + 50;
    return space.subarray(start, start + MIB);
  };
  const counts = await Promise.all(
    Array.from({ length: PIECES + 1 }, (_, index) => file.read(pieceAt(index), index * MIB)),
  );
  await file.close();
  expect(counts).toEqual([...Array.from({ length: PIECES }, () => MIB), 12_345]);
  for (let index = 0; index < PIECES; index += 1) {
    expect(pieceAt(index).equals(data.subarray(index * MIB, (index + 1) * MIB))).toBe(true);
  }
  expect(
    pieceAt(PIECES)
      .subarray(0, 12_345)
      .equals(data.subarray(PIECES * MIB)),
  ).toBe(true);
  for (let at = MIB + 50; at < MIB + 150; at += 1) expect(space[at]).toBe(0);
}

test("while the pool is busy, what is in memory is read without it", async () => {
  const calls = loadSystemCalls();
  const counts: number[] = [];
  await readAllAtOnce((descriptor, target, offset) => {
    const count = calls.readCached(descriptor, target, offset);
    counts.push(count);
    return count;
  });
  expect(counts).toContain(MIB);
});

test("what is not in memory, or only in part, is read by the pool", async () => {
  const real = loadSystemCalls();
  let calls = 0;
  await readAllAtOnce((descriptor, target, offset) => {
    calls += 1;
    return calls % 2 === 0 ? 0 : real.readCached(descriptor, target.subarray(0, 100_000), offset);
  });
  expect(calls).toBeGreaterThan(2);
});
