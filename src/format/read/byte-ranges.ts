// Sets of guest bytes, as ranges in order and apart.

import type { ByteRange } from "../../storage/index.ts";

/** Adds ranges in order, and joins those that touch. */
export class RangeCollector {
  readonly ranges: ByteRange[] = [];

  add(start: number, end: number): void {
    if (start >= end) return;
    const last = this.ranges.at(-1);
    const lastEnd = last === undefined ? -1 : last.start + last.lengthBytes;
    if (last === undefined || start > lastEnd) this.ranges.push({ start, lengthBytes: end - start });
    else
      this.ranges[this.ranges.length - 1] = {
        start: last.start,
        lengthBytes: Math.max(end, lastEnd) - last.start,
      };
  }
}

/** What lies in one of the lists, grown to whole units and cut off at the end. */
export function uniteRanges(
  lists: readonly (readonly ByteRange[])[],
  unitBytes: number,
  end: number,
): ByteRange[] {
  const sorted = lists.flat().sort((a, b) => a.start - b.start);
  const united = new RangeCollector();
  for (const { start, lengthBytes } of sorted) {
    if (lengthBytes === 0) continue;
    const from = Math.floor(start / unitBytes) * unitBytes;
    const to = Math.ceil((start + lengthBytes) / unitBytes) * unitBytes;
    united.add(from, Math.min(to, end));
  }
  return united.ranges;
}
