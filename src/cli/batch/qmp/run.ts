// Runs the commands of a batch in QMP, and answers each of them on stdout.
//
// Invariants
// - Nothing runs before every command of the text has been read and checked.
// - A command that fails is the last one that runs: nobody is there to decide otherwise. What it had begun
//   is undone, and so is the transaction that the text itself started. One that the text does not end stays open, as
//   `txn begin` leaves it: nothing of it counts before its commit.
// - stdout has answers alone. What was done goes to stderr in the form of --output, like the errors.

import { EXIT_OF_CODE, ImgtxError } from "../../../errors/index.ts";
import type { ActionRequest, RunOptions } from "../../../transaction/index.ts";
import { explainAbort } from "../../interrupts.ts";
import {
  lockWait,
  openSession,
  runOptions,
  type Invocation,
  type OpenSession,
} from "../../running/invocation.ts";
import { drawFailure, drawNotRun, drawSuccess } from "./answer.ts";
import { type Envelope, type Errand, readScript } from "./script.ts";
import { needsDevices, resolveSteps, type Step } from "./steps.ts";
import { ABORTED, COMMITTED, OUTCOME } from "../../running/outcomes.ts";

/** Returns 0, or throws what the command ends with, when all the answers are out. */
export async function runQmp(invocation: Invocation, text: string): Promise<number> {
  const { context, report } = invocation;
  const { envelopes, errands, refusal } = readScript(text, context.cwd);
  if (refusal) {
    const why = `${envelopes[refusal.index]?.prefix.replace(/\.$/, "") ?? ""} is refused, and with it the whole batch`;
    report.print(
      envelopes.map(({ id }, index) =>
        index === refusal.index ? drawFailure(refusal.error, id) : drawNotRun(why, id),
      ),
    );
    throw refusal.error;
  }
  await new Runner(invocation).run(envelopes, errands ?? []);
  return 0;
}

/** The transaction that the text has started. */
interface Block {
  readonly id: string;
  readonly ends: boolean;
  release(): Promise<void>;
}

class Runner {
  readonly #invocation: Invocation;
  #opened: OpenSession | undefined;
  #block: Block | undefined;
  /** Of a dry run: what all commands so far ask for. Each is planned on top of those before it. */
  #rehearsed: ActionRequest[] = [];
  /** Of a dry run: how many of them stood before the block that is open. */
  #blockStart: number | undefined;

  constructor(invocation: Invocation) {
    this.#invocation = invocation;
  }

  async run(envelopes: readonly Envelope[], errands: readonly Errand[]): Promise<void> {
    const { report, signal } = this.#invocation;
    for (const [index, errand] of errands.entries()) {
      const { id, prefix } = envelopes[index] ?? { id: undefined, prefix: "" };
      try {
        signal.throwIfAborted();
        await this.#runOne(errand);
        report.print([drawSuccess(id)]);
      } catch (cause) {
        const wasOpen = this.#block !== undefined || this.#blockStart !== undefined;
        const error = await this.#undoAfter(cause);
        report.print([drawFailure(explainAbort(error, signal), id)]);
        this.#answerRest(envelopes.slice(index + 1), errands.slice(index + 1), wasOpen);
        throw error instanceof ImgtxError && prefix !== ""
          ? error.reworded(`${prefix.slice(0, -1)}: ${error.message}`)
          : error;
      }
    }
    if (this.#block) {
      report.notice(
        `transaction ${this.#block.id} is open, since the batch does not end it: blockdev-commit-transaction ` +
          `or \`imgtx txn commit --txn ${this.#block.id}\` does, or abort in place of commit`,
      );
    }
  }

  async #runOne(errand: Errand): Promise<void> {
    switch (errand.kind) {
      case "nothing":
        return;
      case "begin":
        await this.#begin(errand.ends);
        return;
      case "actions":
        await this.#act(errand.steps);
        return;
      case "commit":
        await this.#commit();
        return;
      case "abort":
        await this.#abort();
    }
  }

  async #open(): Promise<OpenSession> {
    this.#opened ??= await openSession(this.#invocation);
    return this.#opened;
  }

  async #begin(ends: boolean): Promise<void> {
    const { engine, session } = await this.#open();
    if (this.#invocation.settings.dryRun) {
      this.#blockStart = this.#rehearsed.length;
      return;
    }
    // Owned where it ends in the same text: should this process die, the next command undoes it.
    const begun = await engine.beginTransaction(
      session,
      { name: undefined, onError: "keep", owned: ends },
      lockWait(this.#invocation),
    );
    const { id } = begun.description;
    let isHeld = true;
    const release = async (): Promise<void> => {
      if (isHeld) await begun.release();
      isHeld = false;
    };
    if (!ends) await release();
    this.#block = { id, ends, release };
  }

  async #act(steps: readonly Step[]): Promise<void> {
    const { engine, session } = await this.#open();
    const { devices } = needsDevices(steps)
      ? await engine.describeDevices(session, undefined)
      : { devices: [] };
    const requests = resolveSteps(steps, devices);
    this.#rehearsed.push(...requests);
    const { dryRun } = this.#invocation.settings;
    const outcome = await engine.runActions(session, dryRun ? this.#rehearsed : requests, this.#options());
    // What a block did is told once, when it ends.
    if (this.#block?.ends !== true) this.#invocation.report.aside(outcome, OUTCOME);
  }

  async #commit(): Promise<void> {
    const { engine, session } = await this.#open();
    if (this.#leaveRehearsal(true)) return;
    const options = this.#options();
    const outcome = await engine.commitTransaction(session, options.transaction, options);
    await this.#leaveBlock();
    this.#invocation.report.aside(outcome, COMMITTED);
  }

  async #abort(): Promise<void> {
    const { engine, session } = await this.#open();
    if (this.#leaveRehearsal(false)) return;
    const options = this.#options();
    const outcome = await engine.abortTransaction(session, options.transaction, options);
    await this.#leaveBlock();
    this.#invocation.report.aside(outcome, ABORTED);
  }

  /** Whether a block of a dry run ended here. What an aborted one asked for no longer counts. */
  #leaveRehearsal(keep: boolean): boolean {
    if (this.#blockStart === undefined) return false;
    if (!keep) this.#rehearsed = this.#rehearsed.slice(0, this.#blockStart);
    this.#blockStart = undefined;
    return true;
  }

  async #leaveBlock(): Promise<void> {
    await this.#block?.release();
    this.#block = undefined;
  }

  #options(): RunOptions {
    const options = runOptions(this.#invocation, false);
    return { ...options, transaction: this.#block?.id ?? options.transaction };
  }

  /** Aborts the started transaction. Returns the error to throw: the first one, which is the cause. */
  async #undoAfter(error: unknown): Promise<unknown> {
    const block = this.#block;
    if (!block || !this.#opened) return error;
    if (error instanceof ImgtxError && error.code === "E_UNFINISHED") {
      // Committed, and the next command's to finish: there is nothing to take back.
      await this.#leaveBlock();
      return error;
    }
    try {
      await this.#abortBlock(block, this.#opened);
    } catch (undoError) {
      if (!(error instanceof ImgtxError) || !(undoError instanceof ImgtxError)) return error;
      // Aborted by recovery, or by an abort that failed half way: the next command removes what that left.
      if (undoError.code === "E_NO_TRANSACTION") return error;
      // "Refused, nothing changed" would not be true yet; that a disk fails is, and is what the undo met.
      const told = error.exitCode === EXIT_OF_CODE.E_IO ? error : undoError;
      return told.reworded(`${error.message}; and then it could not be undone: ${undoError.message}`, {
        hint: `the next imgtx command takes back what is left; \`imgtx txn status\` says whether ${block.id} is open`,
        cause: new AggregateError([error, undoError]),
      });
    } finally {
      await this.#leaveBlock();
    }
    return error;
  }

  async #abortBlock(block: Block, { engine, session }: OpenSession): Promise<void> {
    // Not to be interrupted: it is what an interrupt asks for.
    const options = { ...this.#options(), signal: undefined };
    try {
      await engine.abortTransaction(session, block.id, options);
    } catch (error) {
      if (!(error instanceof ImgtxError) || error.code !== "E_BUSY") throw error;
      // A disk that failed has left an action half done in the journal, which is recovery's to mend. Once
      // nobody owns the transaction any more, that may have aborted it already.
      await block.release();
      const { session: mended } = await openSession(this.#invocation);
      await engine.abortTransaction(mended, block.id, options);
    }
  }

  /** Only the abort of a transaction that is undone already has what it asks for. */
  #answerRest(envelopes: readonly Envelope[], errands: readonly Errand[], wasOpen: boolean): void {
    const end = errands.findIndex(({ kind }) => kind === "commit" || kind === "abort");
    this.#invocation.report.print(
      envelopes.map(({ id }, index) =>
        wasOpen && index === end && errands[index]?.kind === "abort"
          ? drawSuccess(id)
          : drawNotRun("a command before it failed", id),
      ),
    );
  }
}
