// Jobs that run several at once and whose results count in the order in which they were added: the first
// result that is not undefined settles it, and what was added after it does not matter any more.
//
// Invariant: finish returns, or throws, only when no job is under way any more. Callers close files then.

/** Those that need no room among them. */
const JOBS_MAX = 128;

export class Pipeline<T> {
  readonly #atOnce: number;
  readonly #jobs: Job<T>[] = [];
  #inRoom = 0;
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
   * result. One that takes no memory here needs no room.
   */
  async add(job: () => Promise<T | undefined>, onDone?: () => void, needsRoom = true): Promise<void> {
    while (this.#mustTake(needsRoom)) await this.#takeFirst();
    if (this.isSettled) return;
    const added: Job<T> = { outcome: outcomeOf(job), onDone, needsRoom, hasEnded: false };
    void noteEnd(added);
    if (needsRoom) this.#inRoom += 1;
    this.#jobs.push(added);
  }

  #mustTake(needsRoom: boolean): boolean {
    if (needsRoom && this.#inRoom >= this.#atOnce) return true;
    return this.#jobs[0]?.hasEnded === true || this.#jobs.length >= JOBS_MAX;
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
    if (job?.needsRoom) this.#inRoom -= 1;
    const outcome = await job?.outcome;
    if (outcome === undefined || this.#settled !== undefined) return;
    if ("error" in outcome || outcome.value !== undefined) this.#settled = outcome;
    else job?.onDone?.();
  }
}

interface Job<T> {
  readonly outcome: Promise<Outcome<T>>;
  readonly onDone: (() => void) | undefined;
  readonly needsRoom: boolean;
  hasEnded: boolean;
}

type Outcome<T> = { readonly value: T | undefined } | { readonly error: unknown };

async function noteEnd<T>(job: Job<T>): Promise<void> {
  await job.outcome;
  job.hasEnded = true;
}

async function outcomeOf<T>(job: () => Promise<T | undefined>): Promise<Outcome<T>> {
  try {
    return { value: await job() };
  } catch (error) {
    return { error };
  }
}
