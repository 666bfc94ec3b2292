// Calls on one thing that must not meet within this process, such as those that make a file longer.

/** One at a time, in the order of asking. */
export class Turnstile {
  #last: Promise<void> = Promise.resolve();

  async run<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#last;
    let finish = (): void => undefined;
    this.#last = new Promise<void>((resolve) => {
      finish = resolve;
    });
    await before;
    try {
      return await work();
    } finally {
      finish();
    }
  }
}
