// What is metadata is found, wherever in a range it lies.

import { expect, test } from "vitest";
import { MetadataMap } from "../../../../src/format/qcow2/write/metadata-map.ts";
import { hostOffset } from "../../../../src/units/index.ts";

const CLUSTER = 512;
/** Around the place where one piece of the map ends and the next begins. */
const OWNED = [0, 7, 8, 21, 32_766, 32_767, 32_768, 32_775, 70_001];

function mapOf(clusters: readonly number[]): MetadataMap {
  const map = new MetadataMap("a.qcow2", CLUSTER);
  for (const cluster of clusters) map.claim("a table", hostOffset(cluster * CLUSTER), 1);
  return map;
}

test("a range is clear where no cluster of it is owned, and the first that is gets named", () => {
  const map = mapOf(OWNED);
  for (const around of OWNED) {
    for (let first = Math.max(0, around - 18); first <= around + 2; first += 1) {
      for (const count of [1, 2, 9, 17, 40_000]) {
        const owned = OWNED.find((each) => each >= first && each < first + count);
        const judge = () => map.requireClear("data", hostOffset(first * CLUSTER), count * CLUSTER);
        if (owned === undefined) expect(judge).not.toThrow();
        else expect(judge).toThrow(expect.objectContaining({ code: "E_CORRUPT", offset: owned * CLUSTER }));
      }
    }
  }
});

test("what was let go of is clear", () => {
  const map = mapOf(OWNED);
  map.release(hostOffset(32_766 * CLUSTER), 3 * CLUSTER);
  expect(() => map.requireClear("data", hostOffset(22 * CLUSTER), (32_775 - 22) * CLUSTER)).not.toThrow();
});
