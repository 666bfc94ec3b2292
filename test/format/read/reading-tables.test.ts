// How a qcow2 layer comes by its tables: slices that are kept within bounds, and a disk that is told ahead.

import { describe, expect, onTestFinished, test } from "vitest";
import { openChain } from "../../../src/format/index.ts";
import { Qcow2Layer } from "../../../src/format/qcow2/read/qcow2-layer.ts";
import { RunList } from "../../../src/format/read/run-list.ts";
import { TableCache } from "../../../src/format/qcow2/read/table-cache.ts";
import { type ByteRange, makeNodeStorage, type StorageFile } from "../../../src/storage/index.ts";
import { guestOffset } from "../../../src/units/index.ts";
import { unpackFixture } from "../../helpers/fixtures.ts";

interface Watched {
  readonly reads: number[];
  readonly announced: ByteRange[];
}

/** The file as it is, with a list of what is asked of it. */
function watchFile(file: StorageFile): { file: StorageFile } & Watched {
  const reads: number[] = [];
  const announced: ByteRange[] = [];
  const watched = Object.create(file, {
    stat: { value: () => file.stat() },
    seekData: { value: (offset: number) => file.seekData(offset) },
    seekHole: { value: (offset: number) => file.seekHole(offset) },
    beginRead: { value: (range: ByteRange) => announced.push(range) },
    read: {
      value: (target: Uint8Array, offset: number) => {
        reads.push(offset);
        return file.read(target, offset);
      },
    },
  }) as StorageFile;
  return { file: watched, reads, announced };
}

async function openLayer(name: string) {
  const path = await unpackFixture(name);
  const chain = await openChain(makeNodeStorage(), path, {
    format: "qcow2",
    gate: { allowPaths: [], currentFolder: "/" },
  });
  onTestFinished(() => chain.close());
  const [link] = chain.links;
  if (link?.header === undefined) throw new Error("no qcow2");
  const { file, reads, announced } = watchFile(link.file);
  const layer = new Qcow2Layer({ ...link, header: link.header, file }, { cacheBytes: 1024 * 1024 });
  const l1 = new DataView(new ArrayBuffer(link.header.l1Size * 8));
  await link.file.read(new Uint8Array(l1.buffer), link.header.l1TableOffset);
  const tables = Array.from({ length: link.header.l1Size }, (_, index) =>
    Number(l1.getBigUint64(index * 8) & 0x00ff_ffff_ffff_fe00n),
  );
  return { layer, reads, announced, header: link.header, tables: tables.filter((offset) => offset > 0) };
}

describe("a qcow2 layer", () => {
  test("lets the disk begin with each table that a scan comes to, once", async () => {
    const { layer, announced, tables } = await openLayer("cluster-512.qcow2");
    expect(tables.length).toBeGreaterThan(2);
    await layer.findRuns(guestOffset(0), guestOffset(layer.virtualSizeBytes), new RunList(), "describe");
    expect(announced).toEqual(tables.slice(1).map((start) => ({ start, lengthBytes: 512 })));
  });

  test("announces nothing past the end of what it was asked for, nor for a read", async () => {
    const { layer, announced } = await openLayer("cluster-512.qcow2");
    await layer.findRuns(guestOffset(0), guestOffset(512), new RunList(), "describe");
    await layer.findRuns(guestOffset(0), guestOffset(layer.virtualSizeBytes), new RunList(), "read");
    expect(announced).toEqual([]);
  });

  test("reads each table once for reads, and keeps none that a scan has gone through", async () => {
    const { layer, reads, header, tables } = await openLayer("cluster-512.qcow2");
    const isTable = (offset: number): boolean => tables.includes(offset);
    for (const rounds of [1, 2, 3]) {
      await layer.findRuns(guestOffset(0), guestOffset(layer.virtualSizeBytes), new RunList(), "describe");
      // The last slice is not gone through: the range ends with it.
      expect(reads.filter(isTable)).toHaveLength(1 + (tables.length - 1) * rounds);
    }
    reads.length = 0;
    for (let at = 0; at < layer.virtualSizeBytes; at += 512) {
      await layer.findRuns(guestOffset(at), guestOffset(at + 512), new RunList(), "read");
    }
    expect(reads.filter(isTable)).toEqual(tables.slice(0, -1));
    expect(reads).not.toContain(header.l1TableOffset);
  });
});

describe("a table cache", () => {
  const FILE = {
    read: (target: Uint8Array, offset: number) => {
      target.fill(offset / 512).fill(0, 256);
      return Promise.resolve(256);
    },
  } as unknown as StorageFile;

  test("forgets what was used longest ago, and keeps within its bound", async () => {
    const cache = new TableCache(FILE, 1024);
    for (const offset of [0, 512]) await cache.load(offset, 512);
    cache.find(0);
    await cache.load(1024, 512);
    expect([0, 512, 1024].map((offset) => cache.find(offset) !== undefined)).toEqual([true, false, true]);
  });

  test("keeps the slice that was asked for, though it exceeds the bound", async () => {
    const cache = new TableCache(FILE, 100);
    const slice = await cache.load(512, 512);
    expect(cache.find(512)).toBe(slice);
    expect([slice[0], slice[63], slice[64]]).toEqual([0x01010101, 0x01010101, 0]);
  });

  test("reads zeros past the end of the file, into memory that held something else", async () => {
    const cache = new TableCache(FILE, 1024);
    const memory = Buffer.alloc(512, 0xff);
    const halves = await cache.loadInto(memory, 512);
    expect([halves[63], halves[64], halves[127]]).toEqual([0x01010101, 0, 0]);
    expect(cache.find(512)).toBeUndefined();
  });
});
