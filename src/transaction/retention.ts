// Which snapshots a policy keeps, in restic's words and by its rules: a pure function of their times and names.
//
// Invariants
// - One that any rule keeps is kept. Each rule goes through them from the newest to the oldest, by itself.
// - Hours, days, ISO weeks, months and years are the calendar's, in UTC, and not those of the caller: what a
//   policy does depends on no time zone of whoever runs it, and no hour is there twice.
// - A count is of hours, days … that have a snapshot: a machine that was off for a month loses nothing by that. What a
//   rule has still to give when it is through goes to the oldest one, so that the history is as long as it can be.
// - A duration is measured back from the newest snapshot, and not from now.

import { ImgtxError } from "../errors/index.ts";

export const COUNTED = ["last", "hourly", "daily", "weekly", "monthly", "yearly"] as const;
export type CountedRule = (typeof COUNTED)[number];

/** How many of each; Infinity: all. Left out: the rule keeps none. */
export interface RetentionPolicy extends Readonly<Partial<Record<CountedRule, number>>> {
  /** All that are newer than this, counted back from the newest one. */
  readonly within?: CalendarDuration | undefined;
  /** All whose name is one of these patterns. */
  readonly names?: readonly string[] | undefined;
}

/** `1y6m14d12h`. */
export interface CalendarDuration {
  readonly years: number;
  readonly months: number;
  readonly days: number;
  readonly hours: number;
}

/** A snapshot, as far as a policy asks. */
export interface Moment {
  readonly number: number;
  readonly name: string | null;
  readonly createdMs: number;
}

/** Why one is kept: `last`, `daily`, `oldest weekly`, `within 14d`, `name nightly-*`. */
export type Reason = string;

export function isEmptyPolicy({ names = [], within, ...counts }: RetentionPolicy): boolean {
  return names.length === 0 && within === undefined && COUNTED.every((rule) => (counts[rule] ?? 0) === 0);
}

/** The reasons for each one, by its number. None: it goes. */
export function applyPolicy(
  moments: readonly Moment[],
  policy: RetentionPolicy,
  nowMs: number,
): ReadonlyMap<number, readonly Reason[]> {
  const newestFirst = moments.toSorted((a, b) => b.createdMs - a.createdMs || b.number - a.number);
  const since = policy.within && startOf(policy.within, newestFirst, nowMs);
  const counters = COUNTED.map((rule) => new Counter(rule, policy[rule] ?? 0));
  return new Map(
    newestFirst.map((moment, index) => [
      moment.number,
      [
        ...(policy.names ?? [])
          .filter((glob) => matchesGlob(moment.name, glob))
          .map((glob) => `name ${glob}`),
        ...(policy.within && since !== undefined && moment.createdMs > since
          ? [`within ${sayDuration(policy.within)}`]
          : []),
        ...counters.flatMap((counter) => counter.next(moment, index, index === newestFirst.length - 1)),
      ],
    ]),
  );
}

/** One rule that counts, on its way through them. */
class Counter {
  readonly #rule: CountedRule;
  #left: number;
  #before: string | undefined;

  constructor(rule: CountedRule, count: number) {
    this.#rule = rule;
    this.#left = count;
  }

  next({ createdMs }: Moment, index: number, isOldest: boolean): Reason[] {
    if (this.#left === 0) return [];
    const period = periodOf(this.#rule, new Date(createdMs), index);
    const isNew = period !== this.#before;
    if (!isNew && !isOldest) return [];
    this.#before = period;
    this.#left -= 1;
    return [isNew ? this.#rule : `oldest ${this.#rule}`];
  }
}

const DAY_MS = 86_400_000;

function periodOf(rule: CountedRule, at: Date, index: number): string {
  if (rule === "last") return String(index);
  if (rule === "weekly") return weekOf(at);
  const lengths = { hourly: 13, daily: 10, monthly: 7, yearly: 4 } as const;
  return at.toISOString().slice(0, lengths[rule]);
}

/** The Thursday of its ISO week, which lies in the year that the week is counted to. */
function weekOf(at: Date): string {
  const day = (at.getUTCDay() + 6) % 7;
  return new Date(at.getTime() + (3 - day) * DAY_MS).toISOString().slice(0, 10);
}

/** What is newer is within it. A snapshot of the future is no newest one. */
function startOf(
  { years, months, days, hours }: CalendarDuration,
  moments: readonly Moment[],
  nowMs: number,
): number {
  const newest = moments.find(({ createdMs }) => createdMs <= nowMs);
  if (!newest) return -Infinity;
  const at = new Date(newest.createdMs);
  return (
    new Date(newest.createdMs).setUTCFullYear(
      at.getUTCFullYear() - years,
      at.getUTCMonth() - months,
      at.getUTCDate() - days,
    ) -
    hours * (DAY_MS / 24)
  );
}

const DURATION = /^(?:(\d{1,4})y)?(?:(\d{1,5})m)?(?:(\d{1,6})d)?(?:(\d{1,7})h)?$/;

/** E_USAGE for what is none, and for one of nothing. */
export function parseDuration(text: string): CalendarDuration {
  const [years = 0, months = 0, days = 0, hours = 0] = (DURATION.exec(text)?.slice(1) ?? []).map((part) =>
    Number(part ?? 0),
  );
  if (years + months + days + hours > 0) return { years, months, days, hours };
  throw new ImgtxError("E_USAGE", `'${text}' is no duration`, {
    hint: "years, months, days and hours, in that order: 14d, 1y6m, 2d12h",
  });
}

export function sayDuration({ years, months, days, hours }: CalendarDuration): string {
  const parts = [
    [years, "y"],
    [months, "m"],
    [days, "d"],
    [hours, "h"],
  ] as const;
  return parts.map(([count, unit]) => (count === 0 ? "" : `${count}${unit}`)).join("");
}

/** `*`, `?` and `[…]`, of the whole name. One without a name matches none. */
export function matchesGlob(name: string | null, glob: string): boolean {
  if (name === null) return false;
  const parts = [...glob.matchAll(/\*|\?|\[(!?)([^\]]+)\]|[^]/g)].map(([whole, not = "", set]) => {
    if (whole === "*") return ".*";
    if (whole === "?") return ".";
    if (set !== undefined) return `[${not === "" ? "" : "^"}${set.replaceAll(/[\\^[\]]/g, "\\$&")}]`;
    return whole.replace(/[\\^$.*+?()[\]{}|/-]/, "\\$&");
  });
  return compile(`^${parts.join("")}$`, glob).test(name);
}

/** E_USAGE for one with a range that ends before it begins. */
function compile(pattern: string, glob: string): RegExp {
  try {
    return new RegExp(pattern, "s");
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
    throw new ImgtxError("E_USAGE", `'${glob}' is no pattern of a name`, {
      hint: "`*` is anything, `?` one character, `[a-f]` one of these",
    });
  }
}
