// Which snapshots a policy keeps: restic's own examples, and what must hold for every policy.

import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  applyPolicy,
  COUNTED,
  matchesGlob,
  type Moment,
  parseDuration,
  type RetentionPolicy,
  sayDuration,
} from "../../src/transaction/retention.ts";

const NOW = Date.parse("2030-01-01T00:00:00Z");

/** Numbered from 1, in the order given. */
function momentsOf(times: readonly string[], names: readonly string[] = []): Moment[] {
  return times.map((time, index) => ({
    number: index + 1,
    name: names[index] ?? null,
    createdMs: Date.parse(time.length === 10 ? `${time}T11:00:00Z` : time),
  }));
}

/** The times of those that are kept, oldest first. */
function kept(times: readonly string[], policy: RetentionPolicy, names?: readonly string[]): string[] {
  const verdict = applyPolicy(momentsOf(times, names), policy, NOW);
  return times.filter((_, index) => (verdict.get(index + 1) ?? []).length > 0);
}

const SUNDAYS = [
  "2019-09-01",
  "2019-09-08",
  "2019-09-15",
  "2019-09-22",
  "2019-09-29",
  "2019-10-06",
  "2019-10-13",
  "2019-10-20",
  "2019-10-27",
  "2019-11-03",
  "2019-11-10",
];

describe("a policy keeps", () => {
  test("as many days as have a snapshot, however long the machine was off in between", () => {
    expect(kept(SUNDAYS, { daily: 4 })).toEqual(SUNDAYS.slice(-4));
  });

  test("the last of each month, and with a count left the oldest of all", () => {
    expect(kept(SUNDAYS, { monthly: 6 })).toEqual(["2019-09-01", "2019-09-29", "2019-10-27", "2019-11-10"]);
    expect(kept(SUNDAYS, { monthly: 3 })).toEqual(["2019-09-29", "2019-10-27", "2019-11-10"]);
    const reasons = applyPolicy(momentsOf(SUNDAYS), { monthly: 6, last: 1 }, NOW);
    expect(reasons.get(1)).toEqual(["oldest monthly"]);
    expect(reasons.get(11)).toEqual(["last", "monthly"]);
  });

  test("all of a kind where that is unlimited, and none by a count of 0", () => {
    expect(kept(SUNDAYS, { weekly: Infinity })).toEqual(SUNDAYS);
    expect(kept(SUNDAYS, { last: 1, weekly: 0 })).toEqual(["2019-11-10"]);
  });

  test("weeks from Monday to Sunday, counted to the year of their Thursday", () => {
    const days = ["2020-12-27", "2020-12-28", "2021-01-03", "2021-01-04"];
    expect(kept(days, { weekly: 9 })).toEqual(["2020-12-27", "2021-01-03", "2021-01-04"]);
  });

  test("hours and days of UTC", () => {
    const times = [
      "2026-03-29T00:59:00Z",
      "2026-03-29T01:10:00Z",
      "2026-03-29T01:50:00Z",
      "2026-03-30T00:01:00Z",
    ];
    expect(kept(times, { hourly: 3 })).toEqual([times[0], times[2], times[3]]);
    expect(kept(times, { daily: 2 })).toEqual([times[2], times[3]]);
  });

  test("all that are within a duration of the newest one, whenever that was", () => {
    const days = ["2026-05-01", "2026-05-02", "2026-05-04", "2026-05-05"];
    expect(kept(days, { within: parseDuration("3d") })).toEqual(["2026-05-04", "2026-05-05"]);
    expect(kept(days, { within: parseDuration("3d1h") })).toEqual(["2026-05-02", "2026-05-04", "2026-05-05"]);
    // The clock was wrong once: what is of the future is kept, and is not what others are measured from.
    expect(kept([...days, "2031-01-01"], { within: parseDuration("2d") })).toEqual([
      "2026-05-04",
      "2026-05-05",
      "2031-01-01",
    ]);
    // A month before March 31 is the 31st of February, as restic reckons: March 3.
    const ends = ["2026-03-02", "2026-03-03", "2026-03-04", "2026-03-31"];
    expect(kept(ends, { within: parseDuration("1m") })).toEqual(["2026-03-04", "2026-03-31"]);
  });

  test("those whose names it knows, beside what it counts", () => {
    const days = ["2026-05-01", "2026-05-02", "2026-05-03"];
    const names = ["before-upgrade", "nightly 1", "nightly 2"];
    expect(kept(days, { names: ["before-*"], last: 1 }, names)).toEqual(["2026-05-01", "2026-05-03"]);
    expect(kept(days, { names: ["nothing"] }, names)).toEqual([]);
  });
});

test.each([
  ["nightly-1", "nightly-*", true],
  ["nightly-1", "night", false],
  ["a.b", "a?b", true],
  ["a.b", "a.b", true],
  ["axb", "a.b", false],
  ["a1", "a[0-9]", true],
  ["ax", "a[!0-9]", true],
  ["a(b)+", "a(b)+", true],
  [null, "*", false],
])("the name %s and the pattern %s match: %s", (name, glob, expected) => {
  expect(matchesGlob(name, glob)).toBe(expected);
});

test("durations are years, months, days and hours in that order, and read as they are said", () => {
  for (const text of ["14d", "1y6m", "2y5m7d3h", "36h"]) expect(sayDuration(parseDuration(text))).toBe(text);
  for (const text of ["", "0d", "14", "d", "3d2y", "-1d", "1w", "1 d"]) {
    expect(() => parseDuration(text)).toThrow("no duration");
  }
});

const time = fc.date({ min: new Date("2024-01-01"), max: new Date("2026-12-31"), noInvalidDate: true });
const someMoments = fc
  .array(fc.record({ at: time, name: fc.constantFrom(null, "nightly-1", "keep-me", "x") }), { maxLength: 40 })
  .map((all) =>
    all.map(({ at, name }, index): Moment => ({ number: index + 1, name, createdMs: at.getTime() })),
  );
const count = fc.constantFrom(0, 1, 2, 3, 7, Infinity);
const somePolicy = fc.record({
  ...Object.fromEntries(COUNTED.map((rule) => [rule, count])),
  within: fc.constantFrom(undefined, parseDuration("14d"), parseDuration("1y")),
  names: fc.constantFrom([], ["keep-*"], ["*"]),
}) as fc.Arbitrary<RetentionPolicy>;

function keptBy(moments: readonly Moment[], policy: RetentionPolicy): Set<number> {
  return new Set(
    [...applyPolicy(moments, policy, NOW)].flatMap(([number, reasons]) =>
      reasons.length > 0 ? [number] : [],
    ),
  );
}

describe("for every policy and every list", () => {
  test("each one has its verdict, the newest stays where anything is counted, and each rule counts no further than it says", () => {
    fc.assert(
      fc.property(someMoments, somePolicy, (moments, policy) => {
        const verdict = applyPolicy(moments, policy, NOW);
        expect([...verdict.keys()].sort((a, b) => a - b)).toEqual(moments.map(({ number }) => number));
        const [newest] = verdict.keys();
        const counts = COUNTED.some((rule) => (policy[rule] ?? 0) > 0);
        if (counts && newest !== undefined) expect(verdict.get(newest)).not.toEqual([]);
        for (const rule of COUNTED) {
          const by = [...verdict.values()].filter((all) => all.some((one) => one.endsWith(rule))).length;
          expect(by).toBeLessThanOrEqual(policy[rule] ?? 0);
        }
      }),
    );
  });

  test("what it keeps is kept when it is asked again, and by every policy that keeps more", () => {
    fc.assert(
      fc.property(someMoments, somePolicy, somePolicy, (moments, policy, other) => {
        const keeps = keptBy(moments, policy);
        const left = moments.filter(({ number }) => keeps.has(number));
        expect(keptBy(left, policy)).toEqual(keeps);
        const wider: RetentionPolicy = {
          ...Object.fromEntries(COUNTED.map((rule) => [rule, Math.max(policy[rule] ?? 0, other[rule] ?? 0)])),
          within: policy.within ?? other.within,
          names: [...(policy.names ?? []), ...(other.names ?? [])],
        };
        const more = keptBy(moments, wider);
        for (const number of keeps) expect(more).toContain(number);
      }),
    );
  });

  test("does not depend on the order of the list", () => {
    fc.assert(
      fc.property(someMoments, somePolicy, (moments, policy) => {
        expect(keptBy(moments.toReversed(), policy)).toEqual(keptBy(moments, policy));
      }),
    );
  });
});
