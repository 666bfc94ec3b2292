// The one way to the outputs: results to stdout, all else to stderr, each as text or as JSON. Text is
// drawn from printable data only, so that no drawing function can forget to escape a name.

import { ImgtxError } from "../../errors/index.ts";
import { withWorkspaceNamed } from "../../format/index.ts";
import type { RecoveryNote } from "../../transaction/index.ts";
import type { CliContext, WriteFailure } from "../context.ts";
import { makeCanvas, type Canvas } from "../render/canvas.ts";
import { drawError } from "../render/error.ts";
import { hintOf } from "../render/hint.ts";
import { errorJson, withSchema, withSentences } from "../render/json.ts";
import { fold, wordsOf } from "../render/layout.ts";
import { printable, printableData, printableJson } from "../render/printable.ts";
import { startSpinner, type Spinner } from "../render/progress/spinner.ts";

export interface ReportOptions {
  readonly json: boolean;
  readonly quiet: boolean;
  readonly verbose: boolean;
  readonly refusesColor: boolean;
  /** The workspace that the command line names, which commands of hints have to name as well. */
  readonly givenWorkspace?: string | undefined;
}

export interface Drawing<T> {
  readonly text: (data: T, canvas: Canvas) => readonly string[];
  readonly json: (data: T) => object;
  /** What was done, and stays done where this can't be written, as a clause; undefined: nothing. */
  readonly stands?: (data: T) => string | undefined;
}

export class Report {
  readonly #context: Pick<CliContext, "stdout" | "stderr" | "env" | "ask">;
  readonly #options: ReportOptions;
  readonly #out: Canvas;
  readonly #err: Canvas;
  #spinner: Spinner | undefined;
  /** What the command has done so far. */
  #stands: string[] = [];
  #isAsking = false;

  /** Takes away what is drawn of the progress of long work. */
  readonly #clearProgress: () => void;

  private constructor(
    context: CliContext,
    options: ReportOptions,
    [out, err]: readonly [Canvas, Canvas],
    clearProgress: () => void,
  ) {
    this.#context = context;
    this.#clearProgress = clearProgress;
    this.#options = options;
    this.#out = out;
    this.#err = err;
  }

  static async create(
    context: CliContext,
    options: ReportOptions,
    clearProgress: () => void = () => undefined,
  ): Promise<Report> {
    const { stdout, stderr, env } = context;
    const canvases = await Promise.all([
      makeCanvas(stdout, env, options.refusesColor),
      makeCanvas(stderr, env, options.refusesColor),
    ]);
    return new Report(context, options, canvases, clearProgress);
  }

  /** Whether a question waits for its answer, which is asked before anything is done. */
  get isAsking(): boolean {
    return this.#isAsking;
  }

  get quiet(): boolean {
    return this.#options.quiet;
  }

  /** Whether answers are JSON: what its text does not show need not be found out. */
  get answersJson(): boolean {
    return this.#options.json;
  }

  get canvas(): Canvas {
    return this.#out;
  }

  /** Of stderr. */
  get asideCanvas(): Canvas {
    return this.#err;
  }

  /** What was asked for: printed under --quiet too. */
  answer<T>(data: T, drawing: Drawing<T>): void {
    this.stopWaiting();
    this.#keepWhatStands(data, drawing);
    const { stdout } = this.#context;
    if (this.#options.json) stdout.write(`${this.#jsonOf(drawing.json(data), 2)}\n`);
    else stdout.write(this.#pasteable(linesOf(drawing.text(printableData(data), this.#out))));
  }

  /** What names things, a line each. */
  answerNames(names: readonly string[]): void {
    this.stopWaiting();
    this.#context.stdout.write(linesOf(printableData(names)));
  }

  /** What was asked for as JSON, whatever the form of other results. */
  answerJson(json: object): void {
    this.stopWaiting();
    this.#context.stdout.write(`${printableJson(json, 2)}\n`);
  }

  /** What was done: left out under --quiet. */
  done<T>(data: T, drawing: Drawing<T>): void {
    this.stopWaiting();
    if (!this.#options.quiet) this.answer(data, drawing);
  }

  /** What was done, where stdout belongs to others: on stderr, as JSON in one line. Left out under --quiet. */
  aside<T>(data: T, drawing: Drawing<T>): void {
    this.stopWaiting();
    this.#keepWhatStands(data, drawing);
    const { stderr } = this.#context;
    if (this.#options.quiet) return;
    if (this.#options.json) stderr.write(`${this.#jsonOf(drawing.json(data))}\n`);
    else stderr.write(this.#pasteable(linesOf(drawing.text(printableData(data), this.#err))));
  }

  /** Why the results could not be written, for a command to which a reader that went away matters too. */
  async findWriteFailure(): Promise<WriteFailure | undefined> {
    return await this.#context.stdout.settled?.();
  }

  /** The same, where an output that may be closed counts as one: nobody reads there. */
  async findLoss(): Promise<WriteFailure | undefined> {
    const failure = await this.findWriteFailure();
    if (failure || !this.#context.stdout.mayBeClosed?.()) return failure;
    const reason = "stdout is closed, or is the null device opened for reading too";
    const hint = "what is begun with `imgtx txn begin --name NAME` is known without its id";
    return { reason, hint, readerGone: false };
  }

  /**
   * The exit status of a command that has ended with this one, when its results are out. Where they can't be
   * written, that is never 0: a script would take what it read for the whole. What was done is told then.
   */
  async finish(status: number): Promise<number> {
    const failure = await this.findWriteFailure();
    if (!failure || failure.readerGone) return status;
    const stands = this.#stands.length > 0;
    const done = stands ? `${this.#stands.join("; ")}, but ` : "";
    const message = `${done}the result could not be written: ${failure.reason}`;
    const failed = this.failure(new ImgtxError("E_FAILED", message, { changed: stands }));
    return status === 0 ? failed : status;
  }

  /** Lines that are text in every form of output: help, completions. */
  print(lines: readonly string[]): void {
    this.#context.stdout.write(linesOf(lines));
  }

  /** The same on stderr. */
  printAside(lines: readonly string[]): void {
    this.#context.stderr.write(linesOf(lines));
  }

  /** A line on stderr, printed under --quiet too; a JSON object there under --json. */
  notice(line: string): void {
    const text = this.#pasteable(line);
    this.#toStderr(withSchema({ notice: text }), text);
  }

  /** A line on stderr for people alone. */
  advice(text: string): void {
    if (!this.#options.json && !this.#options.quiet) this.notice(text);
  }

  recovery({ transaction, did, text: line }: RecoveryNote): void {
    const text = this.#pasteable(line);
    this.#toStderr(withSchema({ recovered: { transaction, did, text } }), text);
  }

  /** The answer of who sits at the terminal; undefined where nobody does. */
  async ask(question: string, signal: AbortSignal): Promise<string | undefined> {
    this.stopWaiting();
    this.#isAsking = true;
    try {
      return await this.#context.ask?.(question, signal);
    } finally {
      this.#isAsking = false;
    }
  }

  waiting(what: string): void {
    this.stopWaiting();
    if (this.#options.json) this.#toStderr(withSchema({ waiting: what }), "");
    else if (!this.#options.quiet) {
      this.#spinner = startSpinner(`imgtx: waiting: ${printable(what)}`, this.#context);
    }
  }

  stopWaiting(): void {
    this.#spinner?.stop();
    this.#spinner = undefined;
    this.#clearProgress();
  }

  /** Prints an error and returns the exit status for it. */
  failure(found: unknown): number {
    this.stopWaiting();
    const hint = found instanceof ImgtxError ? hintOf(found) : undefined;
    const error =
      found instanceof ImgtxError && hint !== undefined
        ? found.reworded(found.message, { hint: this.#pasteable(hint), cause: found.cause })
        : found;
    const { stderr } = this.#context;
    if (this.#options.json) stderr.write(`${printableJson(errorJson(error))}\n`);
    else stderr.write(linesOf(drawError(error, this.#err, this.#options.verbose)));
    return error instanceof ImgtxError ? error.exitCode : 1;
  }

  #jsonOf(json: object, indent?: number): string {
    const isNamed = this.#options.givenWorkspace !== undefined;
    return printableJson(isNamed ? withSentences(json, (text) => this.#pasteable(text)) : json, indent);
  }

  #pasteable(text: string): string {
    const { givenWorkspace } = this.#options;
    return givenWorkspace === undefined ? text : withWorkspaceNamed(text, givenWorkspace);
  }

  #keepWhatStands<T>(data: T, { stands }: Drawing<T>): void {
    const standing = stands?.(data);
    if (standing !== undefined) this.#stands.push(standing);
  }

  #toStderr(json: object, text: string): void {
    this.stopWaiting();
    const { stderr } = this.#context;
    if (this.#options.json) stderr.write(`${printableJson(json)}\n`);
    else stderr.write(linesOf(fold(wordsOf(`imgtx: ${printable(text)}`), this.#err, 2)));
  }
}

function linesOf(lines: readonly string[]): string {
  return lines.map((line) => `${line}\n`).join("");
}
