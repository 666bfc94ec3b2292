// Local times, in zones that this test sets.

import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { localTime, readTime, sayTime } from "../../src/units/index.ts";

const iso = (text: string): string | undefined => {
  const milliseconds = readTime(text);
  return milliseconds === undefined ? undefined : new Date(milliseconds).toISOString();
};

afterEach(() => {
  vi.unstubAllEnvs();
});

test.each([
  ["Europe/Berlin", "2026-07-01T22:30:05.250Z", "2026-07-02 00:30:05+02:00"],
  ["Europe/Berlin", "2026-01-31T23:30:05Z", "2026-02-01 00:30:05+01:00"],
  ["America/St_Johns", "2026-01-01T00:00:00Z", "2025-12-31 20:30:00-03:30"],
  ["UTC", "2026-01-31T23:30:05.999Z", "2026-01-31 23:30:05Z"],
])("in %s, %s is %s", (zone, utc, local) => {
  vi.stubEnv("TZ", zone);
  expect(sayTime(utc)).toBe(local);
  // What is printed goes back to the second that it was, up to its end.
  expect(iso(local)).toBe(`${utc.slice(0, 19)}.999Z`);
});

test("what is no time is printed as it is", () => {
  expect(sayTime("?")).toBe("?");
});

describe("in Berlin", () => {
  beforeEach(() => {
    vi.stubEnv("TZ", "Europe/Berlin");
  });

  test.each([
    ["2026-07-01", "2026-07-01T21:59:59.999Z"],
    ["2026-07-01Z", "2026-07-01T23:59:59.999Z"],
    ["2026-07-01 04:00", "2026-07-01T02:00:59.999Z"],
    ["2026-07-01T04:00:07", "2026-07-01T02:00:07.999Z"],
    ["2026-07-01 04:00:07.5", "2026-07-01T02:00:07.500Z"],
    ["2026-07-01 04:00 UTC", "2026-07-01T04:00:59.999Z"],
    ["2026-07-01 04:00:07-0330", "2026-07-01T07:30:07.999Z"],
    ["2026-07-01 04:00:07 +05:45", "2026-06-30T22:15:07.999Z"],
    // Twice there, the first of them.
    ["2026-10-25 02:30", "2026-10-25T00:30:59.999Z"],
  ])("'%s' is %s", (text, utc) => {
    expect(iso(text)).toBe(utc);
  });

  test.each([
    "2026-02-30",
    "2026-13-01",
    "2026-07-01 24:00",
    "2026-07-01 04:60",
    "04:00",
    "monday",
    "12",
    "",
  ])("'%s' is no time", (text) => {
    expect(readTime(text)).toBeUndefined();
  });

  test("a change of the clock shows in the zone", () => {
    const change = Date.parse("2026-10-25T01:00:00Z");
    expect([localTime(change - 1000), localTime(change)]).toEqual([
      { date: "2026-10-25", time: "02:59:59", zone: "+02:00" },
      { date: "2026-10-25", time: "02:00:00", zone: "+01:00" },
    ]);
  });
});
