import { expect, test } from "vitest";
import { clusterIndex } from "../../../../src/units/index.ts";
import {
  CHUNK_CLUSTERS,
  ClusterCounts,
  LARGE_COUNT,
} from "../../../../src/format/qcow2/check/check-counts.ts";
import { CheckFindings } from "../../../../src/format/qcow2/check/check-findings.ts";
import { References } from "../../../../src/format/qcow2/check/check-references.ts";
import { TableUses } from "../../../../src/format/qcow2/check/check-table-uses.ts";

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
  expect(counts.fastMax).toBe(3);
});

test("chunks without references take no memory", () => {
  const counts = new ClusterCounts(2 ** 31 - 1, 65_535);
  counts.add(clusterIndex(2 ** 31 - 2), 1);
  counts.add(clusterIndex(0), 1);
  expect(counts.low.filter((chunk) => chunk !== undefined)).toHaveLength(2);
  expect(counts.low[1]).toBeUndefined();
  expect(counts.low[(2 ** 31 - 2) >>> 16]?.[CHUNK_CLUSTERS - 2]).toBe(1);
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
