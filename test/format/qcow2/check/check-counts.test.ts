import { expect, test, vi } from "vitest";
import { clusterIndex } from "../../../../src/units/index.ts";
import {
  CHUNK_CLUSTERS,
  ClusterCounts,
  LARGE_COUNT,
} from "../../../../src/format/qcow2/check/check-counts.ts";
import { CheckFindings } from "../../../../src/format/qcow2/check/check-findings.ts";
import { References } from "../../../../src/format/qcow2/check/check-references.ts";
import { TableUses } from "../../../../src/format/qcow2/check/check-table-uses.ts";

test.each([
  ["of a large disk are collected when they are released, where the runtime can be told", 256, 1],
  ["of a small one wait for the next check", 255, 0],
])("counts %s", (_, chunks, times) => {
  const gc = vi.fn();
  vi.stubGlobal("Bun", { gc });
  try {
    const counts = new ClusterCounts(chunks * CHUNK_CLUSTERS, 65_535);
    for (let index = 0; index < chunks; index += 1) counts.chunkFor(index);
    counts.release();
    expect(gc.mock.calls).toEqual(Array.from({ length: times }, () => [true]));
    expect(counts.chunksEnd).toBe(0);
  } finally {
    vi.unstubAllGlobals();
  }
});

test("counts go on beyond what a byte holds", () => {
  const counts = new ClusterCounts(10, 65_535);
  expect(counts.add(clusterIndex(3), LARGE_COUNT - 1)).toBe(0);
  expect(counts.add(clusterIndex(3), 1)).toBe(0);
  expect(counts.add(clusterIndex(3), 1000)).toBe(0);
  expect(counts.count(clusterIndex(3))).toBe(LARGE_COUNT + 1000);
  expect(counts.count(clusterIndex(4))).toBe(0);
});

test("counts stop at what the refcount width holds, and tell the excess", () => {
  const counts = new ClusterCounts(10, 3);
  expect(counts.add(clusterIndex(1), 2)).toBe(0);
  expect(counts.add(clusterIndex(1), 5)).toBe(4);
  expect(counts.count(clusterIndex(1))).toBe(3);
  expect(counts.fastMax(counts.chunkFor(0))).toBe(3);
});

test("chunks without references take no memory", () => {
  const counts = new ClusterCounts(2 ** 31 - 1, 65_535);
  const [last, bytes] = [(2 ** 31 - 2) >>> 16, new Uint8Array(CHUNK_CLUSTERS)];
  counts.add(clusterIndex(2 ** 31 - 2), 1);
  counts.add(clusterIndex(0), 1);
  expect(counts.chunksEnd).toBe(last + 1);
  expect(counts.readChunk(1, bytes)).toBe(false);
  expect(counts.readChunk(last, bytes)).toBe(true);
  expect(bytes[CHUNK_CLUSTERS - 2]).toBe(1);
});

test("a chunk has as many bits for each count as its largest one needs, and keeps them all as it grows", () => {
  const counts = new ClusterCounts(CHUNK_CLUSTERS, 65_535);
  const expected = new Map<number, number>();
  const bytes = new Uint8Array(CHUNK_CLUSTERS);
  const largest = [1, 2, 3, 4, 15, 16, 254, 255, 70_000];
  const lengths: number[] = [];
  for (const [round, count] of largest.entries()) {
    for (let at = round; at < CHUNK_CLUSTERS; at += 1000) {
      counts.add(clusterIndex(at), count);
      expected.set(at, Math.min(count, 65_535));
    }
    lengths.push(counts.chunkFor(0).length);
    counts.readChunk(0, bytes);
    for (const [at, value] of expected) {
      expect(counts.count(clusterIndex(at))).toBe(value);
      expect(bytes[at]).toBe(Math.min(value, LARGE_COUNT));
    }
    expect(bytes.filter((byte) => byte !== 0)).toHaveLength(expected.size);
  }
  const [two, four] = [CHUNK_CLUSTERS / 4, CHUNK_CLUSTERS / 2];
  expect(lengths).toEqual([two, two, two, four, four, ...largest.slice(5).map(() => CHUNK_CLUSTERS)]);
});

test("a reference may end inside the last cluster's missing part, and no further", () => {
  const lines: string[] = [];
  const findings = new CheckFindings((line) => lines.push(line));
  const references = new References(new ClusterCounts(2, 65_535), findings, 65_536, 65_537);
  references.add(65_536, 65_536, 1);
  expect(lines).toEqual([]);
  references.add(65_537, 65_536, 2);
  const line =
    "ERROR: counting reference for region exceeding the end of the file by one cluster or more: " +
    "offset 0x10001 size 0x10000";
  expect(lines).toEqual([line, line]);
  expect(findings.corruptions).toBe(2);
});

test("uses of tables are kept by offset, and listed in ascending order", () => {
  const uses = new TableUses();
  const offsets = Array.from({ length: 5000 }, (_, index) => ((index * 7919) % 5000) * 65_536 + 2 ** 45);
  for (const offset of offsets) uses.add(offset, 2, 1);
  for (const offset of offsets) uses.add(offset, 1, 0);
  expect([...uses.offsets]).toEqual([...offsets].sort((a, b) => a - b));
  expect(uses.timesAt(2 ** 45)).toBe(3);
  expect(uses.activeTimesAt(2 ** 45)).toBe(1);
  expect(uses.timesAt(512)).toBe(0);
});
