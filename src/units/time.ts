// Moments as people read and type them: local time, with its zone, so that a time that is printed on one host is
// understood on another, and may be pasted wherever one is asked for. What is recorded, and JSON, is UTC.

import { minutesAhead } from "./zone.ts";

interface LocalTime {
  /** `2026-11-27` */
  readonly date: string;
  /** `04:10:02` */
  readonly time: string;
  /** `Z`, or `+01:00` */
  readonly zone: string;
}

export function localTime(milliseconds: number): LocalTime {
  const minutes = minutesAhead(milliseconds);
  const iso = new Date(milliseconds + minutes * 60_000).toISOString();
  // A year of more digits has a sign before it.
  const [date = "", time = ""] = iso.split("T");
  return { date, time: time.slice(0, 8), zone: sayZone(minutes) };
}

function sayZone(minutes: number): string {
  if (minutes === 0) return "Z";
  const two = (part: number): string => String(part).padStart(2, "0");
  const size = Math.abs(minutes);
  return `${minutes < 0 ? "-" : "+"}${two(Math.floor(size / 60))}:${two(size % 60)}`;
}

/** `2026-11-27 05:10:02+01:00`, or `2026-11-27 04:10:02Z`; what is no time stays as it is. */
export function sayTime(iso: string): string {
  const milliseconds = Date.parse(iso);
  if (Number.isNaN(milliseconds)) return iso;
  const { date, time, zone } = localTime(milliseconds);
  return `${date} ${time}${zone}`;
}

const TIME =
  /^(\d{4})-(\d\d)-(\d\d)(?:[T ](\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,3}))?)?)?(?: ?(Z|UTC|([+-])(\d\d):?(\d\d)))?$/;

/**
 * A time as somebody typed it, in milliseconds: local, unless it says a zone. A day, a minute and a second are meant up to
 * their ends. Of a time that a change of the clock has twice the first one is meant. Undefined where it is none.
 */
export function readTime(text: string): number | undefined {
  const [match, year, month, day, hour = "23", minute = "59", second = "59", fraction = "999", ...zone] =
    TIME.exec(text) ?? [];
  if (match === undefined) return undefined;
  const [years, months] = [Number(year), Number(month) - 1];
  const rest = [day, hour, minute, second, fraction.padEnd(3, "0")].map(Number);
  const asUtc = new Date(Date.UTC(years, months, ...rest));
  // The 31st of June would be one of July.
  if (asUtc.toISOString().slice(0, 10) !== `${year}-${month}-${day}` || Number(hour) > 23) return undefined;
  if (Number(minute) > 59 || Number(second) > 59) return undefined;
  const [name, sign, hours, minutes] = zone;
  if (name === undefined) return new Date(years, months, ...rest).getTime();
  const away = (Number(hours ?? 0) * 60 + Number(minutes ?? 0)) * (sign === "-" ? -1 : 1);
  return asUtc.getTime() - away * 60_000;
}
