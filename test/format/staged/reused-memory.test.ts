// How much memory a log takes, whatever its length: told by the arrays that reach files.

import { expect, test } from "vitest";
import { applyLog, RedoLog, StagedStorage, surveyImage } from "../../../src/format/staged/index.ts";
import type { Storage } from "../../../src/storage/index.ts";
import { diskWith } from "./disks.ts";

const IMAGE = "/disks/a.img";
const PAGE_BYTES = 4096;
const BATCH_BYTES = 64 * PAGE_BYTES;

/** The storage, which notes the arrays of a page or more that its files read into and write from. */
function noting(storage: Storage): { storage: Storage; arrays: Set<ArrayBufferLike> } {
  const arrays = new Set<ArrayBufferLike>();
  const wrap = (target: object): object =>
    new Proxy(target, {
      get(from, name): unknown {
        const value: unknown = Reflect.get(from, name, from);
        if (typeof value !== "function") return value;
        return (...rest: unknown[]): unknown => {
          const [bytes] = rest;
          const result: unknown = Reflect.apply(value, from, rest);
          const isTransfer = name === "read" || name === "write";
          if (isTransfer && bytes instanceof Uint8Array && bytes.length >= PAGE_BYTES)
            arrays.add(bytes.buffer);
          const opens = name === "openFile" || name === "createFile";
          return opens ? (result as Promise<object>).then(wrap) : result;
        };
      },
    });
  return { storage: wrap(storage) as Storage, arrays };
}

test.each(["fence", "digests"] as const)(
  "a log of many frames under %s is written, judged and applied in the memory of one",
  async (guardedBy) => {
    const batches = 12;
    const disk = diskWith(new Map([[IMAGE, new Uint8Array(batches * BATCH_BYTES).fill(1)]]));
    const { storage, arrays } = noting(disk.storage);
    const staged = new StagedStorage(storage);
    const log = ".imgtx-t1-0.redo";
    const path = await staged.stage(IMAGE, { transaction: "t1", log, guardedBy });
    const file = await staged.openFile(IMAGE, "write");
    const source = new Uint8Array(BATCH_BYTES).fill(2);
    for (let batch = 0; batch < batches; batch += 1) await file.write(source, batch * BATCH_BYTES);
    // What is logged is read before, what it replaces, and put into a frame.
    expect(arrays.size).toBeLessThanOrEqual(3);
    const [sealed] = await staged.seal();
    await staged.close();
    const opened = await RedoLog.open(storage, path, sealed!.end, "read");
    const image = await storage.openFile(IMAGE, "write");
    const guard = guardedBy === "fence" ? { kind: guardedBy, fence: undefined } : { kind: guardedBy };
    arrays.clear();
    expect(await surveyImage(opened, image, guard)).toEqual({ state: "untouched" });
    await applyLog(opened, image, guard);
    expect(disk.require(IMAGE).content.every((byte) => byte === 2)).toBe(true);
    expect(arrays.size).toBeLessThan(batches);
  },
);
