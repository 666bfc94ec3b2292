// Many flushes by one call: each is answered for its own file, and what is flushed so outlives a power cut.

import { closeSync, openSync, readFileSync, writeSync } from "node:fs";
import { expect, onTestFinished, test } from "vitest";
import { type Asked, deviceOf, flushGroup, waitingKib } from "../../../src/storage/disk/flush-together.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { loadSystemCalls } from "../../../src/storage/native/system-calls.ts";
import { LoopDisk } from "../../helpers/loop-disk.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell } from "../../helpers/qemu-programs.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const FILES = 12;
const MIB = 2 ** 20;

interface Written {
  readonly descriptor: number;
  readonly path: string;
}

function writeFiles(folder: string): Written[] {
  return Array.from({ length: FILES }, (_, index) => {
    const path = `${folder}/file${index}`;
    const descriptor = openSync(path, "wx+");
    writeSync(descriptor, `content ${index}`);
    return { descriptor, path };
  });
}

function closeAll(files: readonly Written[]): void {
  for (const { descriptor } of files) closeSync(descriptor);
}

/** What each is answered: nothing, or the error. */
async function flushedBy(
  files: readonly Written[],
  calls: Parameters<typeof flushGroup>[1],
): Promise<unknown[]> {
  const asked: Asked[] = [];
  const answers = files.map(
    async ({ descriptor }) =>
      await new Promise<unknown>((resolve) => {
        const done = (): void => {
          resolve(undefined);
        };
        asked.push({ descriptor, done, failed: resolve });
      }),
  );
  await flushGroup(asked, calls);
  return await Promise.all(answers);
}

const NOTHING = (): void => undefined;

test("a file whose own writes failed is told so, and the others are not", async () => {
  const files = writeFiles(makeFolder());
  onTestFinished(() => {
    closeAll(files);
  });
  const failure = new Error("EIO");
  const answers = await flushedBy(files, {
    syncFileSystem: NOTHING,
    awaitWriteback(descriptor) {
      if (descriptor === files[3]?.descriptor) throw failure;
    },
  });
  expect(answers).toEqual(files.map((_, index) => (index === 3 ? failure : undefined)));
});

test("where the call for all fails, all fail, and none is tried again", async () => {
  const files = writeFiles(makeFolder());
  onTestFinished(() => {
    closeAll(files);
  });
  const failure = new Error("EIO");
  const answers = await flushedBy(files, {
    syncFileSystem() {
      throw failure;
    },
    awaitWriteback: () => undefined,
  });
  expect(answers).toEqual(files.map(() => failure));
});

test("where the file system has given up by then, all fail by the flush of one", async () => {
  const files = writeFiles(makeFolder());
  closeSync(files[0]?.descriptor ?? -1);
  onTestFinished(() => {
    closeAll(files.slice(1));
  });
  const answers = await flushedBy(files, { syncFileSystem: NOTHING, awaitWriteback: () => undefined });
  expect(answers).toEqual(files.map(() => expect.objectContaining({ code: "EBADF" })));
});

oracle("loops", "mkfs.ext4").test(
  "what was flushed so is there after a power cut, and what was not is gone",
  async () => {
    const disk = LoopDisk.make(makeFolder(), "disk", "ext4");
    const storage = makeNodeStorage();
    const contents = async (isFlushed: boolean): Promise<string[]> => {
      const files = writeFiles(disk.mountPoint);
      await storage.flushFolder(disk.mountPoint, "names");
      // What ext4 has not given blocks to yet, the flush of the folder leaves out.
      if (isFlushed) expect(await flushedBy(files, loadSystemCalls())).toEqual(files.map(() => undefined));
      disk.shutDown();
      closeAll(files);
      disk.remount();
      return files.map(({ path }) => readFileSync(path, "utf8"));
    };
    expect(await contents(true)).toEqual(Array.from({ length: FILES }, (_, index) => `content ${index}`));
    for (let index = 0; index < FILES; index += 1)
      await storage.removeFile(`${disk.mountPoint}/file${index}`);
    expect(await contents(false)).not.toContain("content 1");
  },
);

oracle("loops", "mkfs.ext4").test(
  "on a disk that loses writes, no file is called durable that is not",
  async () => {
    // Its own disk has no room for it, which nobody knows before it is written out.
    const outside = makeFolder();
    runWell("mount", "-t", "tmpfs", "-o", `size=${8 * MIB}`, "none", outside);
    const disk = LoopDisk.make(outside, "disk", "ext4", 64 * MIB);
    onTestFinished(() => {
      run("umount", "--lazy", outside);
    });
    const files = writeFiles(disk.mountPoint);
    await makeNodeStorage().flushFolder(disk.mountPoint, "names");
    const content = Buffer.alloc(2 * MIB, "x");
    for (const { descriptor } of files) writeSync(descriptor, content, 0, content.length, 0);
    const answers = await flushedBy(files, loadSystemCalls());
    expect(answers.filter((answer) => answer !== undefined).length).toBeGreaterThan(0);
    closeAll(files);
    disk.remount();
    const durable = files.filter((_, index) => answers[index] === undefined);
    for (const { path } of durable) expect(content.equals(readFileSync(path))).toBe(true);
  },
  60_000,
);

test("many flushes that are asked for at once are all answered, by whatever call", async () => {
  const storage = makeNodeStorage();
  const folder = makeFolder();
  const files = await Promise.all(
    Array.from({ length: FILES }, async (_, index) => await storage.createFile(`${folder}/${index}`, 0o600)),
  );
  await Promise.all(files.map(async (file) => await file.flush("test")));
  await Promise.all(files.map(async (file) => await file.close()));
});

test("a node is never taken for a file on the file system that it lies on", () => {
  const [node, file] = [openSync("/dev/null", "r"), openSync(import.meta.filename, "r")];
  onTestFinished(() => {
    closeSync(node);
    closeSync(file);
  });
  expect(deviceOf(node)).toBe(0n);
  expect(deviceOf(file)).not.toBe(0n);
});

test("what waits to be written is read from /proc, and counts as without end where that does not tell", () => {
  expect(waitingKib("MemFree:  9 kB\nDirty:     12 kB\nWriteback:   30 kB\nWritebackTmp: 7 kB\n")).toBe(42);
  expect(waitingKib("Dirty:     12 kB\n")).toBe(Infinity);
  expect(waitingKib("")).toBe(Infinity);
});
