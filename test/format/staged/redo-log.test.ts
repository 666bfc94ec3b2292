// The file of a redo log: what is taken from it after a crash, and what is not.

import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import {
  findRedoLogsOn,
  RedoLog,
  redoLogName,
  removeRedoLog,
  type SealedLog,
  StagedStorage,
} from "../../../src/format/staged/index.ts";
import type { PageRecord } from "../../../src/format/staged/frames.ts";
import { PAGE_DIGEST_BYTES, pageOf } from "../../../src/format/staged/sectors.ts";
import type { StorageFile } from "../../../src/storage/index.ts";
import type { MemoryDisk } from "../../fuzz/memory-storage.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { applySealed, diskWith, resumeAt } from "./disks.ts";

const IMAGE = "/disks/a.img";
const LOG = "/disks/.imgtx-t1-0.redo";
const PAGE_BYTES = 4096;
const MIB = 1024 ** 2;

interface Staged {
  readonly disk: MemoryDisk;
  readonly storage: StagedStorage;
  readonly file: StorageFile;
}

async function stageImage(guardedBy: "fence" | "digests" = "digests"): Promise<Staged> {
  const disk = diskWith(new Map([[IMAGE, new Uint8Array(8 * PAGE_BYTES).fill(1)]]));
  const storage = new StagedStorage(disk.storage);
  expect(await storage.stage(IMAGE, { transaction: "t1", log: ".imgtx-t1-0.redo", guardedBy })).toBe(LOG);
  return { disk, storage, file: await storage.openFile(IMAGE, "write") };
}

async function sealOne(storage: StagedStorage): Promise<SealedLog> {
  const [sealed] = await storage.seal();
  return sealed!;
}

async function contentOf(file: StorageFile): Promise<Buffer> {
  const content = Buffer.alloc((await file.stat()).sizeBytes);
  await file.read(content, 0);
  return content;
}

/** The log of this disk with changed bytes, opened anew. */
async function openChanged(
  bytes: Uint8Array,
  { end }: SealedLog,
  access: "read" | "write" = "read",
): Promise<{ disk: MemoryDisk; log: RedoLog }> {
  const disk = diskWith(new Map([[LOG, bytes]]));
  return { disk, log: await RedoLog.open(disk.storage, LOG, end, access) };
}

async function makeSmallLog(): Promise<{ bytes: Buffer; sealed: SealedLog }> {
  const { disk, storage, file } = await stageImage();
  await file.write(new Uint8Array(700).fill(2), 5000);
  await file.truncate(9 * PAGE_BYTES);
  await file.punchHole({ start: 4 * PAGE_BYTES, lengthBytes: PAGE_BYTES });
  return { sealed: await sealOne(storage), bytes: Buffer.from(disk.require(LOG).content) };
}

describe("a sealed log", () => {
  test("is told in a few hundred bytes, whatever it holds", async () => {
    const { storage, file } = await stageImage();
    await file.write(new Uint8Array(300 * PAGE_BYTES).fill(7), 0);
    const sealed = await sealOne(storage);
    expect(sealed).toMatchObject({
      image: IMAGE,
      log: ".imgtx-t1-0.redo",
      pages: 300,
      changedSectors: 2400,
      freedPages: 0,
      sizeBefore: 8 * PAGE_BYTES,
      sizeAfter: 300 * PAGE_BYTES,
    });
    expect(JSON.stringify(sealed).length).toBeLessThan(400);
    expect(JSON.parse(JSON.stringify(sealed))).toEqual(sealed);
  });

  test("says whose it is, and for which file", async () => {
    const { bytes, sealed } = await makeSmallLog();
    const { log } = await openChanged(bytes, sealed);
    expect(log.identity).toMatchObject({ transaction: "t1", image: IMAGE, inode: expect.any(String) });
    expect(redoLogName("t1", 0)).toBe(".imgtx-t1-0.redo");
  });

  test("is taken up again, and goes on from its end", async () => {
    const { disk, storage, file } = await stageImage();
    await file.write(Buffer.from("first"), 100);
    const sealed = await sealOne(storage);
    const content = await contentOf(file);
    await storage.close();
    const again = new StagedStorage(disk.storage);
    await again.resume(IMAGE, sealed, "write");
    const reopened = await again.openFile(IMAGE, "write");
    expect((await contentOf(reopened)).equals(content)).toBe(true);
    await reopened.write(Buffer.from("second"), 40_000);
    const later = await sealOne(again);
    expect(later.end.position).toBeGreaterThan(sealed.end.position);
    expect((await contentOf(reopened)).subarray(40_000).toString()).toBe("second");
  });

  test("that somebody damages in any byte is refused with the place, and without its image being touched", async () => {
    const { bytes, sealed } = await makeSmallLog();
    const frames = await frameStarts(bytes, sealed);
    expect(sealed.end.position).toBe(bytes.length);
    for (let at = 0; at < bytes.length; at += 1) {
      const changed = Buffer.from(bytes);
      changed[at] = (changed[at] ?? 0) ^ 0x21;
      const error = await errorFrom(openChanged(changed, sealed));
      const isVersion = at >= 8 && at < 12;
      expect(error.code, `byte ${at}`).toBe(isVersion ? "E_UNSUPPORTED" : "E_CORRUPT");
      expect(error.image).toBe(LOG);
      const frameAt = frames.filter((start) => start <= at).at(-1) ?? 0;
      if (frameAt > 0) expect(error.offset, `byte ${at}`).toBe(frameAt);
      else expect(error.offset).toBeLessThan(64);
    }
  });

  test("that is cut off anywhere is refused with the place", async () => {
    const { bytes, sealed } = await makeSmallLog();
    const frames = await frameStarts(bytes, sealed);
    for (let length = 0; length < bytes.length; length += 1) {
      const error = await errorFrom(openChanged(bytes.subarray(0, length), sealed));
      expect(error.code).toBe("E_CORRUPT");
      expect(error.offset).toBe(frames.filter((start) => start <= length).at(-1) ?? 0);
    }
  });

  test("whose frames stand in another order is refused", async () => {
    const { disk, storage, file } = await stageImage();
    for (const page of [1, 2, 3]) await file.write(Uint8Array.of(page + 10), page * PAGE_BYTES);
    const sealed = await sealOne(storage);
    const { content } = disk.require(LOG);
    const [first, second, third] = await frameStarts(content, sealed);
    const swapped = Buffer.concat([
      content.subarray(0, first),
      content.subarray(second, third),
      content.subarray(first, second),
      content.subarray(third),
    ]);
    const error = await errorFrom(openChanged(swapped, sealed));
    expect(error).toMatchObject({ code: "E_CORRUPT", offset: first });
  });

  test("is not believed for another end than the one that was kept", async () => {
    const { bytes, sealed } = await makeSmallLog();
    const { position, digest } = sealed.end;
    for (const end of [
      { position, digest: digest.replace(/^./, (digit) => (digit === "0" ? "1" : "0")) },
      { position: position - 1, digest },
      { position: 64, digest },
      { position: 0, digest },
    ]) {
      expect((await errorFrom(openChanged(bytes, { ...sealed, end }))).code).toBe("E_CORRUPT");
    }
  });

  test("is cut to the end that was kept when it is opened to be written, and read no further", async () => {
    const { bytes, sealed } = await makeSmallLog();
    const longer = Buffer.concat([bytes, bytes.subarray(bytes.length - 4300), Buffer.from("torn")]);
    const { disk, log } = await openChanged(longer, sealed);
    expect(log.end).toEqual(sealed.end);
    expect(disk.require(LOG).content).toHaveLength(longer.length);
    const written = await openChanged(longer, sealed, "write");
    expect(written.log.end).toEqual(sealed.end);
    expect(written.disk.require(LOG).content.equals(bytes)).toBe(true);
  });

  test("of version 1 is read, and gets nothing that it has no frames for", async () => {
    const { bytes, sealed } = await makeSmallLog();
    const { disk, log } = await openChanged(bytes, sealed);
    const path = "/disks/.imgtx-t1-1.redo";
    const old = await RedoLog.create(disk.storage, path, { ...log.header, keepsReplaced: false });
    await old.appendSize(3 * PAGE_BYTES);
    expect((await errorFrom(old.appendReplaced(pageOf(0), new Uint8Array(PAGE_BYTES)))).code).toBe(
      "E_INTERNAL",
    );
    const read = await RedoLog.open(disk.storage, path, old.end, "read");
    expect([read.header.keepsReplaced, read.sizeBytes]).toEqual([false, 3 * PAGE_BYTES]);
  });

  test("of a later version is refused by name", async () => {
    const { bytes, sealed } = await makeSmallLog();
    bytes.writeUInt32BE(3, 8);
    const error = await errorFrom(openChanged(bytes, sealed));
    expect(error).toMatchObject({ code: "E_UNSUPPORTED", message: expect.stringMatching(/version 3/) });
  });

  test.each([
    "null",
    "{]",
    "[]",
    '{"transaction":"t1","image":"/a","fileSystemId":"","inode":7,"bornNs":"0"}',
  ])("that anybody put there is not read as one, whatever digest it has: '%s'", async (json) => {
    const { bytes, sealed } = await makeSmallLog();
    const header = Buffer.concat([bytes.subarray(0, 64), Buffer.from(json)]);
    header.writeUInt32BE(json.length, 12);
    const digest = createHash("sha256").update(header.subarray(0, 32)).update(header.subarray(64)).digest();
    digest.copy(header, 32);
    const error = await errorFrom(openChanged(header, sealed));
    expect(error).toMatchObject({ code: "E_CORRUPT", offset: 64, image: LOG });
    const disk = diskWith(
      new Map([
        [IMAGE, new Uint8Array(512)],
        [LOG, header],
      ]),
    );
    const stat = await disk.storage.stat(IMAGE);
    expect(await findRedoLogsOn(disk.storage, IMAGE, stat!)).toEqual([]);
  });

  test("of many pages is made, checked and applied in pieces of at most 1 MiB", async () => {
    const disk = diskWith(new Map([[IMAGE, new Uint8Array(8 * MIB).fill(1)]]));
    const storage = new StagedStorage(disk.storage);
    await storage.stage(IMAGE, { transaction: "t1", log: ".imgtx-t1-0.redo", guardedBy: "digests" });
    const file = await storage.openFile(IMAGE, "write");
    await file.write(new Uint8Array(10 * MIB).fill(2), 0);
    await file.punchHole({ start: MIB, lengthBytes: 3 * MIB });
    const sealed = await sealOne(storage);
    expect(sealed).toMatchObject({ pages: 1792, freedPages: 768 });
    await applySealed(disk.storage, sealed, { kind: "digests" });
    expect(disk.require(IMAGE).content.at(-1)).toBe(2);
    expect(disk.watch.longestReadBytes).toBeLessThanOrEqual(MIB);
  });

  test("is removed, and removing it again is no error", async () => {
    const { disk, storage } = await stageImage();
    await storage.close();
    await removeRedoLog(disk.storage, LOG);
    await removeRedoLog(disk.storage, LOG);
    expect(disk.find(LOG)).toBeUndefined();
  });
});

/** Where the frames begin. */
async function frameStarts(bytes: Buffer, { end }: SealedLog): Promise<number[]> {
  const starts: number[] = [];
  let at = 64 + bytes.readUInt32BE(12);
  while (at < end.position) {
    starts.push(at);
    const [kind, count] = [bytes.readUInt32BE(at), bytes.readUInt32BE(at + 4)];
    at += 64 + (kind === 1 ? count * 4240 : kind === 2 ? count * 128 : kind === 4 ? count * 4096 : 0);
  }
  expect(starts.length).toBeGreaterThan(2);
  return starts;
}

describe("an earlier end", () => {
  test("is gone back to, and gone on from: the log is as if nothing had been in between", async () => {
    const [one, other] = [await stageImage(), await stageImage()];
    for (const { file } of [one, other]) await file.write(Buffer.from("kept"), 10_000);
    const sealed = await one.storage.seal();
    const content = await contentOf(one.file);
    await one.file.write(new Uint8Array(20_000).fill(9), 9000);
    await one.file.punchHole({ start: 0, lengthBytes: 8192 });
    await one.file.truncate(3);
    const resumed = await resumeAt(one.storage, one.disk.storage, sealed);
    const file = await resumed.openFile(IMAGE, "write");
    expect((await contentOf(file)).equals(content)).toBe(true);
    for (const each of [file, other.file]) await each.write(Buffer.from("after"), 20_000);
    expect(await sealOne(resumed)).toEqual(await sealOne(other.storage));
    expect(one.disk.require(LOG).content.equals(other.disk.require(LOG).content)).toBe(true);
  });
});

describe("a write to the log that fails", () => {
  test("leaves it as it was, and the next one takes its place", async () => {
    const disk = diskWith(new Map([[IMAGE, new Uint8Array(8 * PAGE_BYTES).fill(1)]]));
    let isFull = false;
    const storage = new StagedStorage({
      ...disk.storage,
      async createFile(path, mode) {
        const log = await disk.storage.createFile(path, mode);
        const write = log.write.bind(log);
        log.write = async (source, offset) => {
          // A full disk may have taken a part of it.
          await write(isFull ? source.subarray(0, 1000) : source, offset);
          if (isFull) throw new ImgtxError("E_NO_SPACE", "the disk is full", { image: path });
        };
        return log;
      },
    });
    await storage.stage(IMAGE, { transaction: "t1", log: ".imgtx-t1-0.redo", guardedBy: "digests" });
    const file = await storage.openFile(IMAGE, "write");
    await file.write(Buffer.from("kept"), 10_000);
    const before = await contentOf(file);
    isFull = true;
    expect((await errorFrom(file.write(Buffer.from("lost"), 20_000))).code).toBe("E_NO_SPACE");
    expect((await contentOf(file)).equals(before)).toBe(true);
    isFull = false;
    await file.write(Buffer.from("next"), 30_000);
    const sealed = await sealOne(storage);
    const again = new StagedStorage(disk.storage);
    await storage.close();
    await again.resume(IMAGE, sealed, "read");
    const content = await contentOf(await again.openFile(IMAGE, "read"));
    before.set(Buffer.from("next"), 30_000);
    expect(content.equals(before)).toBe(true);
  });
});

describe("a staged storage", () => {
  test("shows the image by each of its names, and everything else as it is", async () => {
    const { disk, storage, file } = await stageImage();
    disk.set("/disks/other-name", disk.require(IMAGE));
    disk.put("/disks/b.img", Buffer.from("untouched"));
    await file.write(Buffer.from("staged"), 0);
    await file.truncate(50_000);
    const other = await storage.openFile("/disks/other-name", "read");
    expect((await contentOf(other)).subarray(0, 6).toString()).toBe("staged");
    expect((await storage.stat("/disks/other-name"))?.sizeBytes).toBe(50_000);
    expect((await storage.statLink(IMAGE))?.sizeBytes).toBe(50_000);
    expect((await contentOf(await storage.openFile("/disks/b.img", "read"))).toString()).toBe("untouched");
    expect(disk.require(IMAGE).changes).toBe(0);
  });

  test("refuses another file that has taken the place of a staged one", async () => {
    const { disk, storage } = await stageImage();
    disk.put(IMAGE, Buffer.from("another"));
    expect((await errorFrom(storage.openFile(IMAGE, "write"))).code).toBe("E_CHANGED");
    disk.put("/disks/new.img", Buffer.alloc(0));
    await (await storage.openFile("/disks/new.img", "write")).write(Buffer.from("new"), 0);
    expect(disk.require("/disks/new.img").content.toString()).toBe("new");
  });

  test("puts a log that nobody will apply where it is told to", async () => {
    const disk = diskWith(new Map([[IMAGE, new Uint8Array(100)]]));
    const storage = new StagedStorage(disk.storage);
    const options = {
      transaction: "dry",
      log: ".imgtx-dry-3.redo",
      guardedBy: "fence",
      folder: "/tmp/dry",
    } as const;
    expect(await storage.stage(IMAGE, options)).toBe("/tmp/dry/.imgtx-dry-3.redo");
    expect(disk.namesIn("/disks")).toEqual(["a.img"]);
  });

  test("refuses what has no place in a log as a mistake of the caller's", async () => {
    const { storage, file } = await stageImage();
    const reading = await storage.openFile(IMAGE, "read");
    for (const call of [
      async () => await file.setModified("1"),
      async () => await file.setAccess({ mode: 0o600, ownerId: 0, groupId: 0 }),
      async () => await reading.write(new Uint8Array(1), 0),
      async () =>
        await storage.stage(IMAGE, { transaction: "t1", log: ".imgtx-t1-1.redo", guardedBy: "fence" }),
      async () => {
        await reading.close();
        await reading.read(new Uint8Array(1), 0);
      },
    ]) {
      await expect(call()).rejects.toThrow(ImgtxError);
      expect((await errorFrom(call())).code).toBe("E_INTERNAL");
    }
  });

  test("takes nothing that it could not read again", async () => {
    const { bytes, sealed } = await makeSmallLog();
    const { disk, log } = await openChanged(bytes, sealed, "write");
    const page = (number: number): PageRecord => ({
      page: pageOf(number * PAGE_BYTES),
      changed: 1,
      forced: 0,
      digests: new Uint8Array(PAGE_DIGEST_BYTES),
      content: new Uint8Array(PAGE_BYTES),
    });
    for (const call of [
      async () => await log.appendPages([]),
      async () => await log.appendPages([page(3), page(2)]),
      async () => await log.appendPages([page(3), page(3)]),
      async () => await log.appendHole(pageOf(PAGE_BYTES), 2, new Uint8Array(PAGE_DIGEST_BYTES)),
    ]) {
      expect(await errorFrom(call())).toMatchObject({ code: "E_INTERNAL", image: LOG, changed: false });
    }
    expect(Buffer.from(disk.require(LOG).content).equals(bytes)).toBe(true);
  });

  test("does not log what does not change the image", async () => {
    const { storage, file } = await stageImage("fence");
    const before = await storage.seal();
    await file.write(new Uint8Array(5 * PAGE_BYTES).fill(1), 100);
    await file.truncate(8 * PAGE_BYTES);
    await file.punchHole({ start: 8 * PAGE_BYTES, lengthBytes: PAGE_BYTES });
    expect((await storage.seal()).map(({ end }) => end)).toEqual(before.map(({ end }) => end));
  });
});
