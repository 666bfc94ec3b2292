import { guestOffset, guestRange } from "../../../../src/units/index.ts";
import { createHash } from "node:crypto";
import { readFileSync, statSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../../src/errors/index.ts";
import { planImage, writeImage } from "../../../../src/format/new/create.ts";
import type { CreateOptions } from "../../../../src/format/new/create-options.ts";
import { openForWriting, type WritingOptions } from "../../../../src/format/open/open-for-writing.ts";
import { makeNodeStorage, type Storage, type StorageFile } from "../../../../src/storage/index.ts";
import { FIXTURES, unpackFixture } from "../../../helpers/fixtures.ts";
import { openGuest, openHostImage } from "../../../helpers/guest-content.ts";
import { structureProblems } from "../../../helpers/qcow2-structure.ts";
import { errorFrom } from "../../../helpers/expect-error.ts";
import { makeFolder } from "../../../helpers/temporary-folder.ts";

const storage = makeNodeStorage();
const QCOW2: WritingOptions = { format: "qcow2", gate: { allowPaths: ["/"], currentFolder: "/" } };
const MIB = 1024 ** 2;

async function makeImage(sizeBytes: number, options: CreateOptions = {}): Promise<string> {
  const path = `${makeFolder()}/disk.qcow2`;
  const plan = await planImage({ format: "qcow2", virtualSizeBytes: sizeBytes, options });
  const file = await storage.createFile(path, 0o600);
  await writeImage({ file }, plan);
  await file.close();
  return path;
}

function hashOf(path: string): string {
  return createHash("sha256").update(readFileSync(path)).digest("hex");
}

function readGuest(path: string, offset: number, lengthBytes: number): Uint8Array {
  return openGuest(openHostImage, path, "qcow2").read(offset, lengthBytes);
}

interface Traffic {
  readonly writes: { readonly offset: number; readonly lengthBytes: number }[];
  readonly flushes: string[];
}

/** A storage that tells what is written through it. */
function watchWrites(): { storage: Storage; traffic: Traffic } {
  const traffic: Traffic = { writes: [], flushes: [] };
  const watched: Storage = {
    ...storage,
    async openFile(path, access, options) {
      const file = await storage.openFile(path, access, options);
      const write = file.write.bind(file);
      const flush = file.flush.bind(file);
      file.write = async (source: Uint8Array, offset: number) => {
        traffic.writes.push({ offset, lengthBytes: source.length });
        await write(source, offset);
      };
      file.flush = async (purpose: string) => {
        traffic.flushes.push(purpose);
        await flush(purpose);
      };
      return file;
    },
  };
  return { storage: watched, traffic };
}

describe("an image that must not be written to", () => {
  const refused = FIXTURES.filter(({ refusal }) => refusal?.when === "write" || refusal?.when === "open");
  test.each(refused.map((fixture) => [fixture.name, fixture] as const))(
    "is refused, and stays as it is: %s",
    async (name, fixture) => {
      const path = await unpackFixture(name);
      const before = hashOf(path);
      const gate = { allowPaths: [], currentFolder: dirname(path) };
      const opening = openForWriting(storage, path, { format: fixture.format ?? undefined, gate });
      expect((await errorFrom(opening)).code).toBe(fixture.refusal!.code);
      expect(hashOf(path)).toBe(before);
    },
  );

  const TABLES = /corrupt\/(l1-entry|refcount-block|snapshot-l1-at-header|snapshot-l1-huge|snapshot-extra)/;
  test.each(FIXTURES.filter(({ name }) => TABLES.test(name)).map(({ name }) => [name]))(
    "is refused for its tables before anything is written: %s",
    async (name) => {
      const path = await unpackFixture(name);
      const before = hashOf(path);
      expect((await errorFrom(openForWriting(storage, path, QCOW2))).code).toBe("E_CORRUPT");
      expect(hashOf(path)).toBe(before);
    },
  );

  const ENTRIES =
    /corrupt\/(l2-entry-(at-header|at-l1|unaligned|past-end|reserved)|l2-zero-in-v2|l2-subclusters-both)/;
  test.each(FIXTURES.filter(({ name }) => ENTRIES.test(name)).map(({ name }) => [name]))(
    "is refused at the latest when the write meets a damaged entry, and nothing is written: %s",
    async (name) => {
      const path = await unpackFixture(name);
      const before = hashOf(path);
      const writing = async (): Promise<void> => {
        const image = await openForWriting(storage, path, QCOW2);
        const all = new Uint8Array(Math.min(image.virtualSizeBytes, 4 * MIB)).fill(1);
        const first = await errorFrom(image.write(all, guestOffset(0)));
        const end = image.virtualSizeBytes - 512;
        expect((await errorFrom(image.write(all.subarray(0, 512), guestOffset(end)))).code).toBe("E_CORRUPT");
        await image.close();
        throw first;
      };
      expect((await errorFrom(writing())).code).toBe("E_CORRUPT");
      expect(hashOf(path)).toBe(before);
    },
  );

  test("ranges beyond the disk are a mistake of the caller's", async () => {
    const image = await openForWriting(storage, await makeImage(MIB), QCOW2);
    expect((await errorFrom(image.write(new Uint8Array(MIB), guestOffset(65_536)))).code).toBe("E_INTERNAL");
    expect((await errorFrom(image.writeCompressed(new Uint8Array(65_536), guestOffset(512)))).code).toBe(
      "E_INTERNAL",
    );
    await image.close();
  });
});

describe("a sound image", () => {
  const readable = FIXTURES.filter(
    ({ name, format, guest, refusal }) =>
      format === "qcow2" &&
      guest !== null &&
      refusal === null &&
      guest.sizeBytes <= 16 * MIB &&
      guest.sizeBytes >= 1024 &&
      !/zstd|data-file|snapshots|bitmap|over-no-format|corrupt/.test(name),
  );
  test.each(readable.map(({ name }) => [name]))("takes a write and stays sound: %s", async (name) => {
    const path = await unpackFixture(name);
    const before = readGuest(path, 0, 16 * MIB);
    const image = await openForWriting(storage, path, QCOW2);
    const bytes = new Uint8Array(512).fill(0x77);
    const middle = Math.floor(image.virtualSizeBytes / 1024) * 512;
    await image.write(bytes, guestOffset(0));
    await image.write(bytes, guestOffset(middle));
    await image.close();
    before.fill(0x77, 0, 512);
    before.fill(0x77, middle, middle + 512);
    expect(Buffer.compare(readGuest(path, 0, 16 * MIB), before)).toBe(0);
    expect(structureProblems(openHostImage(path), name)).toEqual([]);
  });

  test("is not touched before the first write, nor by one that writes nothing", async () => {
    const path = await makeImage(MIB);
    const before = statSync(path, { bigint: true }).mtimeNs;
    const image = await openForWriting(storage, path, QCOW2);
    await image.write(new Uint8Array(0), guestOffset(0));
    await image.read(new Uint8Array(512), guestOffset(0));
    await image.close();
    expect(statSync(path, { bigint: true }).mtimeNs).toBe(before);
  });

  test("shows the guest every write at once, also those that overlap in time", async () => {
    const path = await makeImage(8 * MIB, { clusterSizeBytes: 4096 });
    const image = await openForWriting(storage, path, QCOW2);
    const model = new Uint8Array(8 * MIB);
    const writes: Promise<void>[] = [];
    for (let index = 0; index < 200; index += 1) {
      const start = ((index * 37) % 1000) * 1536;
      const bytes = new Uint8Array(3584).fill(index + 1);
      model.set(bytes, start);
      writes.push(image.write(bytes, guestOffset(start)));
    }
    await Promise.all(writes);
    const seen = new Uint8Array(model.length);
    await image.read(seen, guestOffset(0));
    expect(Buffer.compare(seen, model)).toBe(0);
    await image.close();
    expect(Buffer.compare(readGuest(path, 0, model.length), model)).toBe(0);
    expect(structureProblems(openHostImage(path), path)).toEqual([]);
  });

  test("gets a large sequential write as a few large ones, and flushes when it is asked to", async () => {
    const path = await makeImage(64 * MIB);
    const { storage: watched, traffic } = watchWrites();
    const image = await openForWriting(watched, path, QCOW2);
    await image.write(new Uint8Array(32 * MIB).fill(5), guestOffset(0));
    expect(traffic).toEqual({ writes: [{ offset: 327_680, lengthBytes: 32 * MIB }], flushes: [] });
    await image.flush("asked-for");
    expect(traffic.flushes).toEqual(["refcounts-before-references", "asked-for"]);
    expect(traffic.writes.length).toBeLessThanOrEqual(4);
    await image.close();
  });

  test("that nobody can find yet is written without a flush", async () => {
    const path = await makeImage(4 * MIB, { clusterSizeBytes: 512, refcountBits: 64 });
    const { storage: watched, traffic } = watchWrites();
    const image = await openForWriting(watched, path, { ...QCOW2, isOrdered: false });
    await image.write(new Uint8Array(4 * MIB).fill(5), guestOffset(0));
    await image.close();
    expect(traffic.flushes).toEqual([]);
    expect(structureProblems(openHostImage(path), path)).toEqual([]);
  });

  test("packs compressed clusters side by side within clusters of the file", async () => {
    const path = await makeImage(4 * MIB);
    const image = await openForWriting(storage, path, QCOW2);
    for (let cluster = 0; cluster < 64; cluster += 1) {
      await image.writeCompressed(new Uint8Array(65_536).fill(cluster + 1), guestOffset(cluster * 65_536));
    }
    await image.close();
    expect(statSync(path).size).toBe(6 * 65_536);
    expect(readGuest(path, 63 * 65_536, 65_536).every((byte) => byte === 64)).toBe(true);
  });

  test("is marked dirty while its lazy refcounts lag behind, and clean when it is closed", async () => {
    const path = await makeImage(MIB, { lazyRefcounts: true });
    const image = await openForWriting(storage, path, QCOW2);
    await image.write(new Uint8Array(512).fill(1), guestOffset(0));
    await image.flush("asked-for");
    expect(readFileSync(path)[79]).toBe(1);
    expect((await errorFrom(openForWriting(storage, path, QCOW2))).code).toBe("E_REFUSED");
    await image.close();
    expect(readFileSync(path)[79]).toBe(0);
    expect(structureProblems(openHostImage(path), path)).toEqual([]);
  });

  test("loses the autoclear bits of what a writer does not keep up, and no other", async () => {
    const path = await makeImage(MIB);
    const bytes = readFileSync(path);
    bytes[88] = 0x80;
    writeFileSync(path, bytes);
    const image = await openForWriting(storage, path, QCOW2);
    expect(readFileSync(path)[88]).toBe(0x80);
    await image.writeZeroes(guestRange(0, 65_536), true);
    await image.close();
    expect(
      readFileSync(path)
        .subarray(88, 96)
        .every((byte) => byte === 0),
    ).toBe(true);
  });
});

test("a raw image is written through the same face", async () => {
  const path = `${makeFolder()}/disk.raw`;
  writeFileSync(path, new Uint8Array(64 * 1024).fill(1));
  const image = await openForWriting(storage, path, {
    format: "raw",
    gate: { allowPaths: [], currentFolder: "/" },
  });
  await image.write(new Uint8Array(512).fill(2), guestOffset(4096));
  await image.writeZeroes(guestRange(8192, 4096), true);
  await image.writeZeroes(guestRange(16_384, 512), false);
  await image.discard(guestRange(32_768, 4096));
  expect((await errorFrom(image.writeCompressed(new Uint8Array(65_536), guestOffset(0)))).code).toBe(
    "E_INTERNAL",
  );
  const seen = new Uint8Array(64 * 1024);
  await image.read(seen, guestOffset(0));
  await image.flush("asked-for");
  await image.close();
  const model = new Uint8Array(64 * 1024).fill(1);
  model.fill(2, 4096, 4608);
  for (const [from, to] of [
    [8192, 12_288],
    [16_384, 16_896],
    [32_768, 36_864],
  ] as const) {
    model.fill(0, from, to);
  }
  expect(Buffer.compare(seen, model)).toBe(0);
  expect(Buffer.compare(readFileSync(path), model)).toBe(0);
});

describe("a disk that fails", () => {
  test("leaves the image without the clusters that could not be written", async () => {
    const path = await makeImage(MIB);
    const image = await openForWriting(failingStorage("write", 300_000), path, QCOW2);
    await image.write(new Uint8Array(65_536).fill(1), guestOffset(0));
    expect((await errorFrom(image.write(new Uint8Array(500_000).fill(2), guestOffset(131_072)))).code).toBe(
      "E_IO",
    );
    await image.close();
    expect(structureProblems(openHostImage(path), path)).toEqual([]);
    expect(readGuest(path, 0, 65_536).every((byte) => byte === 1)).toBe(true);
    expect(readGuest(path, 131_072, 500_000).every((byte) => byte === 0)).toBe(true);
  });

  test("is not written to again after a failed flush", async () => {
    const path = await makeImage(MIB);
    const image = await openForWriting(failingStorage("flush", 0), path, QCOW2);
    await image.write(new Uint8Array(65_536).fill(1), guestOffset(0));
    expect((await errorFrom(image.flush("asked-for"))).code).toBe("E_IO");
    expect((await errorFrom(image.write(new Uint8Array(512), guestOffset(0)))).code).toBe("E_IO");
    await image.close();
    expect(readGuest(path, 0, MIB).every((byte) => byte === 0)).toBe(true);
  });
});

/** Writes of more than this many bytes, or every flush, fail. */
function failingStorage(what: "write" | "flush", largestBytes: number): Storage {
  const fail = async (): Promise<void> => {
    throw new ImgtxError("E_IO", "Input/output error");
  };
  return {
    ...storage,
    async openFile(path, access, options): Promise<StorageFile> {
      const file = await storage.openFile(path, access, options);
      const write = file.write.bind(file);
      if (what === "flush") file.flush = fail;
      else {
        file.write = (source: Uint8Array, offset: number) =>
          source.length > largestBytes ? fail() : write(source, offset);
      }
      return file;
    },
  };
}
