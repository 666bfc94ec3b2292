// Counts that are to be set right come out as they went in, small and large.

import { expect, test } from "vitest";
import { type CountRepair, CountRepairs } from "../../../../src/format/qcow2/repair/count-repairs.ts";

/** More than one piece of the list holds; in the second one are counts that no byte has. */
const COUNTS: readonly CountRepair[] = Array.from({ length: 20_000 }, (_, index) => ({
  cluster: 3 * index,
  before: index === 9000 ? 2 ** 60 : (index % 7) * 40,
  after: index === 9001 ? 70_000 : 100,
}));

const repairs = new CountRepairs();
for (const count of COUNTS) repairs.add(count);

test("each is there, by ascending cluster", () => {
  expect(repairs.length).toBe(COUNTS.length);
  expect([...repairs]).toEqual(COUNTS);
});

test("those that rise, and those that fall, are told apart and counted", () => {
  const [up, down] = [
    COUNTS.filter((one) => one.before < one.after),
    COUNTS.filter((one) => one.before > one.after),
  ];
  expect([repairs.count("up"), repairs.count("down")]).toEqual([up.length, down.length]);
  expect([...repairs.select("up")]).toEqual(up);
  expect([...repairs.select("down")]).toEqual(down);
  expect(repairs.select("up").select("up").length).toBe(up.length);
});
