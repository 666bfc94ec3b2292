// What a word may have been meant to be, which is none of those that are known.

/** Further from it a word is another one. */
const EDITS_MAX = 3;
const ALIKE_MIN = 0.4;

/** The nearest of the words, `one of …` where several are as near; undefined where none is near. */
export function suggestNearest(word: string, known: Iterable<string>): string | undefined {
  // The dashes of an option are no likeness.
  const isBare = !word.startsWith("--");
  const bare = isBare ? word : word.slice(2);
  let nearest: string[] = [];
  let fewest = EDITS_MAX;
  for (const each of new Set(known)) {
    const other = isBare ? each : each.slice(2);
    const edits = countEdits(bare, other);
    const length = Math.max(bare.length, other.length);
    if (other.length < 2 || edits > fewest || (length - edits) / length <= ALIKE_MIN) continue;
    if (edits < fewest) nearest = [];
    fewest = edits;
    nearest.push(each);
  }
  if (nearest.length < 2) return nearest[0];
  return `one of ${nearest.toSorted((a, b) => a.localeCompare(b)).join(", ")}`;
}

/** Letters that are put in, left out, exchanged for another, or with the one beside them. */
function countEdits(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, at) => at);
  for (let row = 1; row <= a.length; row += 1) {
    const now = [row];
    for (let at = 1; at <= b.length; at += 1) {
      const isSame = a[row - 1] === b[at - 1];
      const isTurned = row > 1 && at > 1 && a[row - 1] === b[at - 2] && a[row - 2] === b[at - 1];
      now[at] = Math.min(
        (last[at] ?? 0) + 1,
        (now[at - 1] ?? 0) + 1,
        (last[at - 1] ?? 0) + (isSame ? 0 : 1),
        isTurned ? (beforeLast[at - 2] ?? 0) + 1 : Number.POSITIVE_INFINITY,
      );
    }
    [beforeLast, last] = [last, now];
  }
  return last[b.length] ?? 0;
}
