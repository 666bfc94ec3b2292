// Work that is done one after the other, in the order of asking.

export class Queue {
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
