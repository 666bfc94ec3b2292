// Sets of guest bytes, as ranges in order and apart.

import {
  alignDown,
  alignUp,
  earliest,
  endOf,
  type GuestOffset,
  guestOffset,
  type GuestRange,
  rangeTo,
} from "../../units/index.ts";

/** Adds ranges in order, and joins those that touch. */
export class RangeCollector {
  readonly ranges: GuestRange[] = [];

  add(start: GuestOffset, end: GuestOffset): void {
    if (start >= end) return;
    const last = this.ranges.at(-1);
    if (last === undefined || start > endOf(last)) this.ranges.push(rangeTo(start, end));
    else if (end > endOf(last)) this.ranges[this.ranges.length - 1] = rangeTo(last.start, end);
  }
}

/** What lies in one of the lists, grown to whole units and cut off at the end of the disk. */
export function uniteRanges(
  lists: readonly (readonly GuestRange[])[],
  unitBytes: number,
  diskBytes: number,
): GuestRange[] {
  const sorted = lists.flat().sort((a, b) => a.start - b.start);
  const end = guestOffset(diskBytes);
  const united = new RangeCollector();
  for (const range of sorted) {
    if (range.lengthBytes === 0) continue;
    united.add(alignDown(range.start, unitBytes), earliest(alignUp(endOf(range), unitBytes), end));
  }
  return united.ranges;
}
