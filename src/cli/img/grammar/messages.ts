// What `imgtx img` says of a failure: qemu-img's words as far as they are good, on one line after the
// program's name, with a hint on the next. This is the only place that knows how an ImgtxError becomes a
// message and an exit status there.
//
// Invariants
// - Files are named as they were given. Layers below speak of absolute paths; the names that the command
//   line gave are put back in their place.
// - No name that comes from outside reaches the terminal with control characters in it.

import { ImgtxError } from "../../../errors/index.ts";
import { hintOf } from "../../render/hint.ts";
import { printable } from "../../render/printable.ts";
import type { QemuVersion } from "./qemu-version.ts";

/** What stands before every message. */
export type ProgramName = "imgtx" | "qemu-img";

/** A name of the command line, and the absolute path that it was opened by. */
export interface GivenName {
  readonly given: string;
  readonly path: string;
}

export interface MessageForm {
  readonly program: ProgramName;
  readonly names: readonly GivenName[];
  readonly verbose: boolean;
  /** Whether the command has an option that reads what others write to. */
  readonly canForceShare: boolean;
  readonly qemuVersion: QemuVersion;
  /** The command, once it is known. */
  readonly verb: string | undefined;
}

const OF_GETOPT = "words";

/** The field of what is wrong with a name before anything is opened, which the message has already. */
export const GIVEN_NAME = "name";

/** What getopt_long refuses. */
export function grammarError(message: string): ImgtxError {
  return new ImgtxError("E_USAGE", message, { field: OF_GETOPT });
}

/** A command line that means nothing; qemu-img refers to its help then. Ends with 1, as there. */
export function usageError(message: string): ImgtxError {
  return new ImgtxError("E_USAGE", message);
}

/** Before "not" in what newer versions say of a word that they don't expect. */
export function commaFrom11(qemuVersion: QemuVersion): string {
  return qemuVersion >= 11 ? "," : "";
}

/**
 * Parts the lines of a message. Half a surrogate pair, which no decoded text holds: a line break in a name is a
 * part of the name, and is escaped.
 */
export const LINE_BREAK = "\udc0a";

/** At the start of a line, for the program's name: where qemu-img makes two messages of one error. */
export const PROGRAM_MARK = "%: ";

/**
 * An error in qemu-img's own words, complete. Lines after the first one begin with LINE_BREAK, and are printed as
 * they are, but for PROGRAM_MARK.
 */
export function failure(message: string, cause?: unknown): ImgtxError {
  return new ImgtxError("E_FAILED", message, cause === undefined ? {} : { cause });
}

const STATUS_INTERRUPTED = 130;
const STATUS_TERMINATED = 143;

/** The exit status for an error: the command's own for a failure, the shell's for a signal. */
export function statusOf(error: unknown, failureStatus: number): number {
  if (!(error instanceof ImgtxError)) return 1;
  if (error.code === "E_INTERRUPTED") return STATUS_INTERRUPTED;
  if (error.code === "E_TERMINATED") return STATUS_TERMINATED;
  return error.code === "E_USAGE" ? 1 : failureStatus;
}

/** The lines of an error, each for stderr. */
export function drawFailure(error: unknown, form: MessageForm): string[] {
  if (!(error instanceof ImgtxError)) return drawBug(error, form);
  const message = wordsOf(error, form.names);
  const [first = "", ...rest] = message.split(LINE_BREAK);
  return [
    `${speaker(error, form)}: ${printable(first)}`,
    ...rest.map((line) =>
      line.startsWith(PROGRAM_MARK)
        ? `${form.program}: ${printable(line.slice(PROGRAM_MARK.length))}`
        : printable(line),
    ),
    ...(form.verbose ? causesOf(error).map((cause) => `  cause: ${printable(cause)}`) : []),
    ...hintsOf(error, form),
  ];
}

/** Newer versions name the command in complaints of its words, as getopt_long does. */
function speaker({ field }: ImgtxError, { program, qemuVersion, verb }: MessageForm): string {
  const isNamed = field === OF_GETOPT && program === "qemu-img" && qemuVersion >= 10 && verb !== undefined;
  return isNamed ? `${program} ${verb}` : program;
}

/** The message of an error, places included, as it can stand after `Could not open 'x': `. */
export function wordsOf(error: ImgtxError, names: readonly GivenName[]): string {
  const lock = lockWords(error, names);
  if (lock !== undefined) return lock;
  const place = [
    error.offset === undefined ? undefined : `offset 0x${error.offset.toString(16)}`,
    error.field,
  ].filter((part) => part !== undefined);
  const isNotQcow2 = error.code === "E_CORRUPT" && error.field === "magic" && error.doing === "open";
  const message = isNotQcow2 ? `${error.prefix}Image is not in qcow2 format` : error.message;
  const words = rename(message, names);
  return error.field !== "magic" && error.code === "E_CORRUPT" && place.length > 0
    ? `${words} (${place.join(", ")})`
    : words;
}

/** The same error in words that are complete, its place included: nothing is added to them, and nothing put in their place. */
export function inFinalWords(error: ImgtxError, message: string): ImgtxError {
  const told = error.code === "E_CORRUPT" ? { offset: undefined, field: undefined } : {};
  return error.reworded(message, { doing: undefined, lock: undefined, ...told });
}

function lockWords({ lock, image, prefix }: ImgtxError, names: readonly GivenName[]): string | undefined {
  if (lock === undefined || image === undefined) return undefined;
  const name = rename(`'${image}'`, names).slice(1, -1);
  return `${rename(prefix, names)}${lock.failed}${LINE_BREAK}Is another process using the image [${name}]?`;
}

/** Puts given names back where their absolute paths stand in quotes, and their folders likewise. */
function rename(text: string, names: readonly GivenName[]): string {
  let renamed = text;
  for (const { given, path } of names) {
    for (const quote of ["'", '"', "["]) renamed = renamed.replaceAll(`${quote}${path}`, `${quote}${given}`);
  }
  for (const { given, path } of names) {
    const folder = path.slice(0, path.lastIndexOf("/") + 1);
    const givenFolder = given.slice(0, given.lastIndexOf("/") + 1);
    if (!path.endsWith(given.slice(givenFolder.length))) continue;
    for (const quote of ["'", '"', "["]) {
      renamed = renamed.replaceAll(`${quote}${folder}`, `${quote}${givenFolder}`);
    }
  }
  return renamed;
}

function hintsOf(error: ImgtxError, form: MessageForm): string[] {
  const { program, names, canForceShare } = form;
  // The format layer's, of an option's value, name the field: they are no grammar of the command line.
  if (error.code === "E_USAGE" && (error.field === undefined || error.field === OF_GETOPT)) {
    return [error.hint === undefined ? helpHint(form) : `  hint: ${error.hint}`];
  }
  // Who has the image, which qemu-img does not say; and under its name only what it would say.
  if (program === "qemu-img") return error.code === "E_OUTSIDE" ? hintLine(error, names) : [];
  const lock = findLock(error);
  if (lock !== undefined) {
    // What a reader did not get; a writer has no way past it.
    const wayPast =
      canForceShare && lock.failed.includes("shared")
        ? "; -U reads it all the same, as it is amid its changes"
        : "";
    return [`  hint: in use by ${printable(lock.holders)}${wayPast}`];
  }
  return hintLine(error, names);
}

function helpHint({ program, qemuVersion, verb }: MessageForm): string {
  const command = program === "qemu-img" ? program : "imgtx img";
  const which = qemuVersion < 10 || verb === undefined ? command : `${command} ${verb}`;
  return `Try '${which} --help' for more ${qemuVersion === 10 ? "info" : "information"}`;
}

/** Storage's words, wherever they are below. */
function findLock(error: ImgtxError): ImgtxError["lock"] {
  if (error.code !== "E_LOCKED") return undefined;
  for (let each: unknown = error; each instanceof Error; each = each.cause) {
    if (each instanceof ImgtxError && each.lock !== undefined) return each.lock;
  }
  return undefined;
}

function hintLine(error: ImgtxError, names: readonly GivenName[]): string[] {
  const hint = hintOf(error);
  if (hint === undefined) return [];
  // A name that begins with a dash would be an option in a command of the hint.
  const pasteable = names.map(({ given, path }) => ({ given: given.replace(/^-/, "./-"), path }));
  return [`  hint: ${printable(rename(hint, pasteable))}`];
}

function causesOf(error: Error): string[] {
  const causes: string[] = [];
  for (let cause = error.cause; cause instanceof Error && causes.length < 10; cause = cause.cause) {
    causes.push(cause.message);
  }
  return causes;
}

function drawBug(error: unknown, { program, verbose }: MessageForm): string[] {
  const message = error instanceof Error ? error.message : String(error);
  const stack = error instanceof Error && error.stack !== undefined ? error.stack.split("\n") : [];
  return [
    `${program}: this is a bug in imgtx: ${printable(message)}`,
    ...(verbose ? stack.map((line) => `  ${printable(line)}`) : []),
  ];
}
