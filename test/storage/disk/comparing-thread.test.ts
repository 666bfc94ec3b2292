// The thread that compares: what it answers, and what becomes of a question where it can't be started or has ended.

import { EventEmitter } from "node:events";
import { writeFileSync } from "node:fs";
import { Worker } from "node:worker_threads";
import { expect, test } from "vitest";
import { makeNodeStorage, type StorageFile } from "../../../src/storage/index.ts";
import { ComparingThread } from "../../../src/storage/disk/comparing-thread.ts";
import type { RangePair } from "../../../src/storage/comparable-file.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const SIZE_BYTES = 600_000;

function rangesOf(
  files: readonly [StorageFile, StorageFile],
  one: number,
  other: number,
  lengthBytes: number,
): RangePair {
  return { files, offsets: [one, other], lengthBytes };
}

/** Waits until it is there: it has no room before. */
async function ask(thread: ComparingThread, ranges: readonly RangePair[]): Promise<boolean> {
  for (;;) {
    const answer = thread.areEqual(ranges);
    if (answer) return await answer;
    await new Promise((resume) => setTimeout(resume, 1));
  }
}

test("says yes to equal bytes alone, whatever else there is", async () => {
  const folder = makeFolder();
  const content = Buffer.alloc(SIZE_BYTES, "some bytes, 7 at a time");
  writeFileSync(`${folder}/one`, content);
  // The same, 1,000 bytes later, but for its last byte.
  content[SIZE_BYTES - 1] = 0;
  writeFileSync(`${folder}/other`, Buffer.concat([Buffer.alloc(1000), content]));
  const storage = makeNodeStorage();
  const [one, other] = [
    await storage.openFile(`${folder}/one`, "read"),
    await storage.openFile(`${folder}/other`, "read"),
  ];
  let worker: Worker | undefined;
  const thread = new ComparingThread(async (program) => {
    worker = new Worker(program, { eval: true, execArgv: [] });
    return worker;
  });
  const equal = rangesOf([one, other], 0, 1000, SIZE_BYTES - 1);
  const unknown = Object.create(one, { open: { value: undefined } }) as StorageFile;
  const cases: readonly (readonly [boolean, ...RangePair[]])[] = [
    [true, equal],
    [true, rangesOf([other, one], 300_000, 299_000, 100), equal],
    [false, rangesOf([one, other], 0, 1000, SIZE_BYTES)],
    [false, equal, rangesOf([one, other], 300_000, 300_000, 100)],
    [false, rangesOf([one, one], 0, 0, SIZE_BYTES + 1)],
    [false, rangesOf([one, one], SIZE_BYTES, SIZE_BYTES, 1)],
    [false, rangesOf([one, unknown], 0, 0, 10)],
    [true, rangesOf([one, one], 0, 0, SIZE_BYTES)],
  ];
  expect(await ask(thread, [equal])).toBe(true);
  for (const [answer, ...ranges] of cases) expect(await thread.areEqual(ranges)).toBe(answer);
  // As many at once as it has room for, each with its own answer; more than that are asked for in vain.
  const three = [0, 1, 0].map((off) => thread.areEqual([rangesOf([one, other], off, 1000, 100)]));
  expect(thread.areEqual([equal])).toBeUndefined();
  expect(await Promise.all(three.map(async (answer) => await answer))).toEqual([true, false, true]);
  await worker?.terminate();
  expect(thread.areEqual([equal])).toBeUndefined();
  await one.close();
  await other.close();
});

/** A worker that is there, and answers nothing. */
class Silent extends EventEmitter {
  ref(): void {}
  unref(): void {}
  postMessage(): void {}
}

test.each(["error", "exit"])(
  "says no to what it was asked before its %s, and nothing afterwards",
  async (end) => {
    const silent = new Silent();
    const thread = new ComparingThread(async () => silent as unknown as Worker);
    expect(thread.areEqual([])).toBeUndefined();
    await new Promise((resume) => setImmediate(resume));
    silent.emit("message", "ready");
    const answers = [thread.areEqual([]), thread.areEqual([])];
    silent.emit(end, new Error("it has ended"));
    expect(await Promise.all(answers.map(async (answer) => await answer))).toEqual([false, false]);
    expect(thread.areEqual([])).toBeUndefined();
  },
);

test.each([
  ["can't be started", async () => Promise.reject(new Error("no more threads"))],
  ["is not wanted", async () => Promise.resolve(undefined)],
])("has no room where it %s", async (_, start) => {
  const thread = new ComparingThread(start);
  for (let turn = 0; turn < 3; turn += 1) {
    expect(thread.areEqual([])).toBeUndefined();
    await new Promise((resume) => setImmediate(resume));
  }
});

test("is asked for files of the real disk alone", async () => {
  const folder = makeFolder();
  writeFileSync(`${folder}/file`, "some bytes");
  const file = await makeNodeStorage().openFile(`${folder}/file`, "read");
  const foreign = Object.create(file) as StorageFile;
  for (const files of [
    [file, foreign],
    [foreign, file],
  ] as const) {
    expect(file.areEqualElsewhere?.([rangesOf(files, 0, 0, 10)])).toBeUndefined();
  }
  await file.close();
});
