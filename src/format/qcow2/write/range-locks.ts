// Writes that meet in a cluster follow each other; all others go on at once.
//
// Invariant: first come, first served, so that nobody waits for ever.

interface HeldRange {
  readonly first: number;
  readonly end: number;
  readonly done: Promise<void>;
}

export class RangeLocks {
  readonly #held = new Set<HeldRange>();

  /** Runs the work when nobody before it holds a part of [first, end) any more. */
  async run<T>(first: number, end: number, work: () => Promise<T>): Promise<T> {
    const before = [...this.#held].filter((other) => other.first < end && first < other.end);
    let finish = (): void => undefined;
    const done = new Promise<void>((resolve) => {
      finish = resolve;
    });
    const own: HeldRange = { first, end, done };
    this.#held.add(own);
    try {
      for (const other of before) await other.done;
      return await work();
    } finally {
      this.#held.delete(own);
      finish();
    }
  }
}
