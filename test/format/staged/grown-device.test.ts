// A block device that is made larger while its redo log gets longer: what it has there counts, whatever that is.

import { expect, test } from "vitest";
import { applyLog, RedoLog, StagedStorage, surveyImage } from "../../../src/format/staged/index.ts";
import type { FileStat, Storage, StorageFile } from "../../../src/storage/index.ts";
import { MemoryDisk } from "../../fuzz/memory-storage.ts";

const PATH = "/dev/vg/disk";
const PAGE = 4096;
const LOG = { transaction: "aaaaaaaaaa", log: ".imgtx-aaaaaaaaaa-0.redo", folder: "/journal" };

interface Volume {
  readonly storage: Storage;
  readonly bytes: () => Buffer;
  /** With what its last user left. */
  readonly grow: (sizeBytes: number) => void;
  readonly shrink: (sizeBytes: number) => void;
}

/** A file in memory that says it is a device. */
function volumeOf(sizeBytes: number): Volume {
  const disk = new MemoryDisk();
  disk.put(PATH, Buffer.alloc(sizeBytes, 5));
  disk.put("/journal/x", Buffer.alloc(0));
  const node = disk.require(PATH);
  const asDevice = (stat: FileStat): FileStat => ({
    ...stat,
    kind: "device",
    fileSystemId: "device:vg-disk",
  });
  const withStat = (file: StorageFile): StorageFile =>
    new Proxy(file, {
      get(target, name): unknown {
        if (name === "stat") return async () => asDevice(await target.stat());
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? (value.bind(target) as unknown) : value;
      },
    });
  const storage = new Proxy(disk.storage, {
    get(target, name): unknown {
      if (name === "stat")
        return async (path: string) => {
          const stat = await target.stat(path);
          return stat && path === PATH ? asDevice(stat) : stat;
        };
      if (name === "openFile")
        return async (...request: Parameters<Storage["openFile"]>) => {
          const file = await target.openFile(...request);
          return request[0] === PATH ? withStat(file) : file;
        };
      const value: unknown = Reflect.get(target, name, target);
      return typeof value === "function" ? (value.bind(target) as unknown) : value;
    },
  });
  return {
    storage,
    bytes: () => node.content,
    grow: (to) => {
      node.content = Buffer.concat([node.content, Buffer.alloc(to - node.content.length, 0xa5)]);
    },
    shrink: (to) => {
      node.content = node.content.subarray(0, to);
    },
  };
}

/** One statement, in a process of its own. */
async function change(
  { storage }: Volume,
  before: Awaited<ReturnType<StagedStorage["seal"]>>[number] | undefined,
  work: (file: StorageFile) => Promise<void>,
): Promise<Awaited<ReturnType<StagedStorage["seal"]>>[number]> {
  const staged = new StagedStorage(storage);
  if (before) await staged.resume(PATH, { ...LOG, end: before.end }, "write");
  else await staged.stage(PATH, { ...LOG, guardedBy: "digests" });
  const file = await staged.openFile(PATH, "write");
  await work(file);
  const [sealed] = await staged.seal();
  await file.close();
  await staged.close();
  if (!sealed) throw new Error("a log was sealed");
  return sealed;
}

test("a later change goes into what the device got, over whatever is there, and is refused where that has gone", async () => {
  const volume = volumeOf(2 * PAGE);
  const first = await change(volume, undefined, async (file) => {
    await file.write(new Uint8Array(16).fill(1), 0);
    await expect(file.write(new Uint8Array(1), 2 * PAGE)).rejects.toMatchObject({ code: "E_NO_SPACE" });
  });
  volume.grow(4 * PAGE);
  const log = await change(volume, first, async (file) => {
    expect((await file.stat()).sizeBytes).toBe(4 * PAGE);
    const found = new Uint8Array(PAGE);
    await file.read(found, 2 * PAGE);
    expect(found).toEqual(new Uint8Array(PAGE).fill(0xa5));
    // As a table of zeros: what was left there must not pass for it.
    await file.write(new Uint8Array(PAGE), 2 * PAGE);
    await file.punchHole({ start: 3 * PAGE, lengthBytes: PAGE });
    await expect(file.write(new Uint8Array(1), 4 * PAGE)).rejects.toMatchObject({ wantsBytes: 4 * PAGE + 1 });
  });
  expect([log.sizeBefore, log.sizeAfter]).toEqual([2 * PAGE, 4 * PAGE]);
  const opened = await RedoLog.open(volume.storage, `${LOG.folder}/${LOG.log}`, log.end, "read");
  const file = await volume.storage.openFile(PATH, "write");
  const guard = { kind: "digests" } as const;
  expect(await surveyImage(opened, file, guard)).toEqual({ state: "untouched" });
  volume.shrink(2 * PAGE);
  expect(await surveyImage(opened, file, guard)).toMatchObject({ state: "foreign" });
  await expect(applyLog(opened, file, guard)).rejects.toMatchObject({ code: "E_CHANGED" });
  // Larger still: nothing of that is the log's.
  volume.grow(5 * PAGE);
  await applyLog(opened, file, guard);
  expect(await surveyImage(opened, file, guard)).toEqual({ state: "applied" });
  const expected = Buffer.concat([
    Buffer.alloc(16, 1),
    Buffer.alloc(2 * PAGE - 16, 5),
    Buffer.alloc(2 * PAGE),
    Buffer.alloc(PAGE, 0xa5),
  ]);
  expect(Buffer.compare(volume.bytes(), expected)).toBe(0);
  await opened.close();
});

test("a device that ended amid a page which the log has counts as no larger", async () => {
  const volume = volumeOf(PAGE + 512);
  const first = await change(volume, undefined, async (file) => {
    await file.write(new Uint8Array(512), PAGE);
  });
  volume.grow(4 * PAGE);
  await change(volume, first, async (file) => {
    expect((await file.stat()).sizeBytes).toBe(PAGE + 512);
    await expect(file.write(new Uint8Array(1), PAGE + 512)).rejects.toMatchObject({ code: "E_NO_SPACE" });
  });
  // Where the log has another page alone, it is.
  const other = volumeOf(PAGE + 512);
  const begun = await change(other, undefined, async (file) => {
    await file.write(new Uint8Array(512), 0);
  });
  other.grow(4 * PAGE);
  await change(other, begun, async (file) => {
    await file.write(new Uint8Array(512), 3 * PAGE);
  });
});
