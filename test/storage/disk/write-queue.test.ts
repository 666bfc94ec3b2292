// Large writes to one file: what is called meanwhile goes out together, and each has an end of its own.

import { randomBytes } from "node:crypto";
import { closeSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { expect, onTestFinished, test } from "vitest";
import { WriteQueue } from "../../../src/storage/disk/write-queue.ts";
import type { ByteRange } from "../../../src/storage/storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const PIECE = 1024 * 1024;

interface Subject {
  readonly path: string;
  readonly descriptor: number;
  readonly queue: WriteQueue;
  /** The range of each call, as blocks are reserved for it. */
  readonly calls: ByteRange[];
}

function makeSubject(flags = "w+"): Subject {
  const path = `${makeFolder()}/file`;
  if (flags === "r") writeFileSync(path, "");
  const descriptor = openSync(path, flags);
  onTestFinished(() => {
    closeSync(descriptor);
  });
  const calls: ByteRange[] = [];
  const queue = new WriteQueue(path, (_, range) => calls.push(range));
  return { path, descriptor, queue, calls };
}

test("what follows in the file while one is written goes out in one call, up to a bound", async () => {
  const { path, descriptor, queue, calls } = makeSubject();
  const data = randomBytes(6 * PIECE);
  const pieceAt = (index: number) => data.subarray(index * PIECE, (index + 1) * PIECE);
  await Promise.all(
    [0, 1, 2, 3, 4, 5].map((index) => queue.write(descriptor, pieceAt(index), index * PIECE)),
  );
  expect(readFileSync(path).equals(data)).toBe(true);
  expect(calls.map(({ start, lengthBytes }) => [start / PIECE, lengthBytes / PIECE])).toEqual([
    [0, 1],
    [1, 4],
    [5, 1],
  ]);
});

test("what lies elsewhere goes out by itself, in the order of calling", async () => {
  const { path, descriptor, queue, calls } = makeSubject();
  const [one, two, three] = [randomBytes(PIECE), randomBytes(PIECE), randomBytes(PIECE)];
  await Promise.all([
    queue.write(descriptor, one, 0),
    queue.write(descriptor, two, 2 * PIECE),
    queue.write(descriptor, three, 2 * PIECE),
  ]);
  expect(readFileSync(path).equals(Buffer.concat([one, Buffer.alloc(PIECE), three]))).toBe(true);
  expect(calls.map(({ start }) => start / PIECE)).toEqual([0, 2, 2]);
});

test("a failure is that of each write that fails, with its place", async () => {
  const { path, descriptor, queue, calls } = makeSubject("r");
  const results = await Promise.allSettled(
    [0, 1, 2].map((index) => queue.write(descriptor, Buffer.alloc(PIECE), index * PIECE)),
  );
  expect(results).toMatchObject(
    [0, 1, 2].map((index) => ({ status: "rejected", reason: { image: path, offset: index * PIECE } })),
  );
  // The second call holds two, of which the first has failed with it: the other is tried again.
  expect(calls.map(({ start, lengthBytes }) => [start / PIECE, lengthBytes / PIECE])).toEqual([
    [0, 1],
    [1, 2],
    [2, 1],
  ]);
});
