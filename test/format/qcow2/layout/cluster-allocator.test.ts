// What no allocator may do: a bug ends before a count is changed.

import { expect, test } from "vitest";
import { ClusterAllocator } from "../../../../src/format/qcow2/layout/cluster-allocator.ts";
import { NewImageCounts } from "../../../../src/format/qcow2/layout/new-image-counts.ts";
import { clusterIndex, offsetBy } from "../../../../src/units/index.ts";
import { failureOf } from "../../../helpers/expect-error.ts";

const LAYOUT = { clusterBits: 16, refcountOrder: 4 };

/** The header in cluster 0, the refcount table in 1, the first block in 2. */
async function planned() {
  const counts = new NewImageCounts(8192, clusterIndex(1), clusterIndex(2));
  const allocator = new ClusterAllocator(counts, LAYOUT);
  await allocator.raise(clusterIndex(0), 3);
  return { counts, allocator };
}

test.each([
  [
    "the header's cluster is given back",
    async ({ allocator }: Planned) => await allocator.lower(clusterIndex(0), 1),
  ],
  [
    "a part of a cluster is given back",
    async ({ allocator }: Planned) => await allocator.lower(offsetBy(clusterIndex(1), 0.5), 1),
  ],
  ["a cluster is taken twice", async ({ counts }: Planned) => await counts.change(clusterIndex(2), 3, 1)],
  ["a free cluster is freed", async ({ counts }: Planned) => await counts.change(clusterIndex(2), 3, -1)],
])("%s: E_INTERNAL, and every count is as it was", async (_, call) => {
  const plan = await planned();
  const before = structuredClone(plan.counts.used);
  expect(await failureOf(async () => await call(plan))).toMatchObject({ code: "E_INTERNAL", changed: false });
  expect(plan.counts.used).toEqual(before);
  expect(await plan.allocator.allocate(2)).toBe(3);
});

type Planned = Awaited<ReturnType<typeof planned>>;
