// Jobs that run several at once and whose results count in the order in which they were added: the first
// result that is not undefined settles it, and what was added after it does not matter any more.
//
// Invariant: finish returns, or throws, only when no job is under way any more. Callers close files then.

export class Pipeline<T> {
  readonly #atOnce: number;
  readonly #jobs: Job<T>[] = [];
  #settled: Outcome<T> | undefined;

  constructor(atOnce: number) {
    this.#atOnce = atOnce;
  }

  /** Whether a result is there, or an error: adding more is of no use. */
  get isSettled(): boolean {
    return this.#settled !== undefined;
  }

  /**
   * Starts the job, when there is room for it. onDone is called when it, and all before it, ended without a
   * result.
   */
  async add(job: () => Promise<T | undefined>, onDone?: () => void): Promise<void> {
    while (this.#jobs.length >= this.#atOnce) await this.#takeFirst();
    if (!this.isSettled) this.#jobs.push({ outcome: outcomeOf(job), onDone });
  }

  /** Waits until no job is under way. More may be added. */
  async drain(): Promise<void> {
    while (this.#jobs.length > 0) await this.#takeFirst();
  }

  /** Waits for all of them. Throws what the first one threw, where no result came before it. */
  async finish(): Promise<T | undefined> {
    await this.drain();
    if (this.#settled === undefined) return undefined;
    if ("error" in this.#settled) throw this.#settled.error;
    return this.#settled.value;
  }

  async #takeFirst(): Promise<void> {
    const job = this.#jobs.shift();
    const outcome = await job?.outcome;
    if (outcome === undefined || this.#settled !== undefined) return;
    if ("error" in outcome || outcome.value !== undefined) this.#settled = outcome;
    else job?.onDone?.();
  }
}

interface Job<T> {
  readonly outcome: Promise<Outcome<T>>;
  readonly onDone: (() => void) | undefined;
}

type Outcome<T> = { readonly value: T | undefined } | { readonly error: unknown };

async function outcomeOf<T>(job: () => Promise<T | undefined>): Promise<Outcome<T>> {
  try {
    return { value: await job() };
  } catch (error) {
    return { error };
  }
}
