// What is written into an image must not land on what is in use: an image of whose clusters one is not counted
// is refused by everything that would allocate in it, before a byte of it changes.

import { readFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, expect, test } from "vitest";
import { assertCopyable } from "../../../../src/format/copy/copy-layers.ts";
import { resizeImage } from "../../../../src/format/qcow2/change/resize-image.ts";
import { openForWriting } from "../../../../src/format/open/open-for-writing.ts";
import { readRefcount, writeRefcount } from "../../../../src/format/qcow2/codec/refcount-block.ts";
import { requireCounted } from "../../../../src/format/qcow2/check/require-counted.ts";
import { makeNodeStorage } from "../../../../src/storage/index.ts";
import { unpackFixture } from "../../../helpers/fixtures.ts";
import { planChange } from "../../../helpers/format/bitmap-oracle.ts";
import { errorFrom } from "../../../helpers/expect-error.ts";
import { makeFolder } from "../../../helpers/temporary-folder.ts";

const storage = makeNodeStorage();

/** Without leaks: each counted cluster is in use. */
const CLEAN = [
  "v2.qcow2",
  "v3.qcow2",
  "snapshots.qcow2",
  "snapshots-v2.qcow2",
  "bitmaps.qcow2",
  "compressed-zlib.qcow2",
  "extended-l2.qcow2",
  "refcount-1.qcow2",
  "refcount-4.qcow2",
  "refcount-64.qcow2",
  "cluster-512.qcow2",
  "cluster-2m.qcow2",
  "preallocated.qcow2",
  "zero-clusters.qcow2",
];
const CLUSTERS_TRIED = 12;

interface Counts {
  readonly clusterBytes: number;
  /** The clusters with a refcount, ascending. */
  readonly used: readonly number[];
  /** The file with another count for a cluster. */
  recount(cluster: number, count: number): Buffer;
}

/** Of the clusters that the first refcount block counts. */
function readCounts(path: string): Counts {
  const bytes = readFileSync(path);
  const clusterBytes = 2 ** bytes.readUInt32BE(20);
  const order = bytes.readUInt32BE(4) === 2 ? 4 : bytes.readUInt32BE(96);
  const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))));
  const entries = Math.min((clusterBytes * 8) / 2 ** order, Math.ceil(bytes.length / clusterBytes));
  const view = (content: Buffer): Uint8Array => content.subarray(block, block + clusterBytes);
  const all = Array.from({ length: entries }, (_, cluster) => cluster);
  return {
    clusterBytes,
    used: all.filter((cluster) => readRefcount(view(bytes), cluster, order) > 0),
    recount(cluster, count) {
      const changed = Buffer.from(bytes);
      writeRefcount(view(changed), cluster, order, count);
      return changed;
    },
  };
}

/** Some of them: the first, the last, and what lies evenly between. */
function pickSome(clusters: readonly number[]): number[] {
  const step = Math.max(1, (clusters.length - 1) / (CLUSTERS_TRIED - 1));
  const count = Math.min(CLUSTERS_TRIED, clusters.length);
  return Array.from({ length: count }, (_, index) => clusters[Math.round(index * step)]!);
}

function gateOf(path: string) {
  return { allowPaths: [dirname(path)], currentFolder: dirname(path) };
}

/** Everything that allocates in an image that is there. */
const WRITERS: Readonly<Record<string, (path: string) => Promise<unknown>>> = {
  "guest data": (path) =>
    openForWriting(storage, path, { format: "qcow2", gate: gateOf(path), backing: false }),
  "what is copied into it": (path) => assertCopyable(storage, { path, format: "qcow2" }, gateOf(path)),
  "a larger disk": (path) => resizeImage(storage, path, { format: "qcow2", gate: gateOf(path) }, 2 ** 43),
  "a new bitmap": (path) => planChange(path, { kind: "add", name: "new" }),
};

describe("an image with a cluster that nobody counted", () => {
  test.each(CLEAN)("takes no guest data, whatever the cluster holds: %s", async (name) => {
    const path = await unpackFixture(name, makeFolder());
    const counts = readCounts(path);
    const opened = await openForWriting(storage, path, {
      format: "qcow2",
      gate: gateOf(path),
      backing: false,
    });
    await opened.close();
    for (const cluster of pickSome(counts.used)) {
      const damaged = counts.recount(cluster, 0);
      writeFileSync(path, damaged);
      const error = await errorFrom(WRITERS["guest data"]!(path));
      expect(error.code, `cluster ${cluster}`).toBe("E_CORRUPT");
      expect(readFileSync(path).equals(damaged)).toBe(true);
    }
  });

  test.each(Object.keys(WRITERS))("is refused before a byte changes: %s", async (what) => {
    const path = await unpackFixture("v3.qcow2", makeFolder());
    const counts = readCounts(path);
    const cluster = counts.used.at(-1)!;
    const damaged = counts.recount(cluster, 0);
    writeFileSync(path, damaged);
    const error = await errorFrom(WRITERS[what]!(path));
    expect(error).toMatchObject({
      code: "E_CORRUPT",
      image: path,
      offset: cluster * counts.clusterBytes,
      field: "refcount",
      hint: `\`imgtx img check -r all ${path}\` repairs it`,
    });
    expect(error.message).toContain("is in use, and its refcount is 0");
    expect(readFileSync(path).equals(damaged)).toBe(true);
  });

  test("and one that is counted too low is refused: the first of its users to go would free it", async () => {
    const path = await unpackFixture("snapshots.qcow2", makeFolder());
    const counts = readCounts(path);
    const before = readFileSync(path);
    const shared = counts.used.find(
      (cluster) => !counts.recount(cluster, 2).equals(before) && isShared(path, cluster),
    );
    expect(shared).toBeDefined();
    writeFileSync(path, counts.recount(shared!, 1));
    const error = await errorFrom(WRITERS["guest data"]!(path));
    expect(error).toMatchObject({ code: "E_CORRUPT", offset: shared! * counts.clusterBytes });
  });
});

function isShared(path: string, cluster: number): boolean {
  const bytes = readFileSync(path);
  const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))));
  return bytes.readUInt16BE(block + 2 * cluster) > 1;
}

describe("what does not endanger data is let pass", () => {
  test("a leaked cluster", async () => {
    const path = await unpackFixture("v3.qcow2", makeFolder());
    const counts = readCounts(path);
    writeFileSync(path, counts.recount(Math.max(...counts.used) + 1, 1));
    await openAndClose(path);
  });

  test("an L1 entry without its COPIED flag", async () => {
    const path = await unpackFixture("v3.qcow2", makeFolder());
    const bytes = readFileSync(path);
    const l1 = Number(bytes.readBigUInt64BE(40));
    expect(bytes[l1]).toBe(0x80);
    bytes[l1] = 0;
    writeFileSync(path, bytes);
    await openAndClose(path);
  });
});

async function openAndClose(path: string): Promise<void> {
  const image = await openForWriting(storage, path, { format: "qcow2", gate: gateOf(path) });
  await image.close();
}

test("an image whose end is missing is refused, with the first byte that lacks", async () => {
  const path = await unpackFixture("v3.qcow2", makeFolder());
  const counts = readCounts(path);
  const wholeBytes = statSync(path).size;
  const last = counts.used.at(-1)!;
  const keptBytes = last * counts.clusterBytes - 1000;
  truncateSync(path, keptBytes);
  const file = await storage.openFile(path, "read");
  const error = await errorFrom(requireCounted(file, path));
  await file.close();
  expect(error.code).toBe("E_CORRUPT");
  expect(error.message).toContain(
    `bytes 0x${(last * counts.clusterBytes).toString(16)} onward are missing: ` +
      `the file has ${keptBytes} bytes; its tables need ${Math.ceil(wholeBytes / counts.clusterBytes) * counts.clusterBytes}`,
  );
});
