// Loop devices, as all tests of this machine take them: one after the other.

/**
 * The words that start what finds a free loop device, one at a time: two at once find the same, and who comes too late
 * has the other's device open for writing for a moment, which imgtx meets as somebody who writes to it.
 */
export function findingLoop(...words: readonly string[]): readonly [string, ...string[]] {
  return ["flock", "/dev/loop-control", ...words];
}
