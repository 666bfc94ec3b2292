// Every failure that imgtx foresees is an ImgtxError: a stable code, a place as data, whether anything
// changed, and how to mend it. Anything else that is thrown is a bug in imgtx, and is reported as one.

/** Each code, with the exit status it ends the process with. Codes and statuses are a contract. */
export const EXIT_OF_CODE = {
  E_INTERNAL: 1,
  E_FAILED: 1,
  E_COMMAND_FAILED: 1,
  E_ROTTED: 1,
  E_LOCKED: 10,
  E_BUSY: 10,
  E_TRANSACTION: 11,
  E_NO_TRANSACTION: 11,
  E_UNSUPPORTED: 12,
  E_IO: 13,
  E_NO_SPACE: 13,
  E_EXISTS: 14,
  E_NOT_FOUND: 14,
  E_NOT_A_FILE: 14,
  E_NO_PERMISSION: 14,
  E_READ_ONLY: 14,
  E_NO_WORKSPACE: 14,
  E_NOT_OWNER: 14,
  E_NO_DEVICE: 14,
  E_DUPLICATE: 14,
  E_FORMAT_UNKNOWN: 14,
  E_OUTSIDE: 14,
  E_LOOP: 14,
  E_IN_USE: 14,
  E_CHANGED: 14,
  E_REFUSED: 14,
  E_CORRUPT: 15,
  E_JOURNAL: 15,
  E_UNFINISHED: 16,
  E_USAGE: 64,
  E_INTERRUPTED: 130,
  E_TERMINATED: 143,
} as const;

export type ErrorCode = keyof typeof EXIT_OF_CODE;

/** A lock that another program keeps from being had. */
export interface RefusedLock {
  /** Which one, in QEMU's words: `Failed to get "write" lock`. */
  readonly failed: string;
  readonly holders: string;
}

export interface ErrorDetails {
  /** The device it is about, by its name in the table. */
  device?: string;
  /** Path of the image it is about. */
  image?: string;
  /** Byte offset in that file. */
  offset?: number | undefined;
  /** The field of the specification, in its own name. */
  field?: string | undefined;
  /** Line of a batch, counted from 1. */
  line?: number;
  /** What was being done with the image: `open`, `create`, `lock`, `read`, `write`, `copy` … */
  doing?: string | undefined;
  /** Why that failed, without what was being done and with what: `Permission denied`. */
  reason?: string;
  lock?: RefusedLock | undefined;
  /** What the message begins with that says only what it was done for: see `within`. */
  prefix?: string;
  /** How large the block device that the image is on has to be for it. */
  wantsBytes?: number;
  /** What to do about it, in one sentence or command. */
  hint?: string;
  /** Whether anything that the user can see was changed, and stays changed. Default: false. */
  changed?: boolean;
  cause?: unknown;
}

export class ImgtxError extends Error {
  override readonly name = "ImgtxError";
  readonly code: ErrorCode;
  readonly device: string | undefined;
  readonly image: string | undefined;
  readonly offset: number | undefined;
  readonly field: string | undefined;
  readonly line: number | undefined;
  readonly doing: string | undefined;
  readonly reason: string | undefined;
  readonly lock: RefusedLock | undefined;
  readonly wantsBytes: number | undefined;
  readonly prefix: string;
  readonly hint: string | undefined;
  readonly changed: boolean;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.device = details.device;
    this.image = details.image;
    this.offset = details.offset;
    this.field = details.field;
    this.line = details.line;
    this.doing = details.doing;
    this.reason = details.reason;
    this.lock = details.lock;
    this.wantsBytes = details.wantsBytes;
    this.prefix = details.prefix ?? "";
    this.hint = details.hint;
    this.changed = details.changed ?? false;
  }

  get exitCode(): number {
    return EXIT_OF_CODE[this.code];
  }

  /** The same error with places that a caller further up knows. What is already set is kept. */
  with(details: ErrorDetails): ImgtxError {
    return new ImgtxError(this.code, this.message, {
      ...details,
      ...this.#details(),
      changed: details.changed ?? this.changed,
    });
  }

  /** The same error in other words, with this one as its cause. The details given replace its own. */
  reworded(message: string, details: ErrorDetails = {}): ImgtxError {
    return new ImgtxError(this.code, message, {
      ...this.#details(),
      changed: this.changed,
      cause: this,
      ...details,
    });
  }

  /** The same error with what it was done for before its words: "Could not open backing file: ". */
  within(prefix: string): ImgtxError {
    return this.reworded(`${prefix}${this.message}`, { prefix: `${prefix}${this.prefix}` });
  }

  #details(): ErrorDetails {
    const { device, image, offset, field, line, doing, reason, lock, wantsBytes } = this;
    const { prefix, hint, cause } = this;
    const entries = Object.entries({
      device,
      image,
      offset,
      field,
      line,
      doing,
      reason,
      lock,
      wantsBytes,
      prefix,
      hint,
      cause,
    });
    return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
  }
}

/** What the work returns. Its errors get the place that the caller knows; what they say of it already is kept. */
export async function withPlace<T>(place: ErrorDetails, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw error instanceof ImgtxError ? error.with(place) : error;
  }
}

/** The same of work that ends at once. */
export function placed<T>(place: ErrorDetails, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw error instanceof ImgtxError ? error.with(place) : error;
  }
}

/**
 * Where a failure is an answer: what the work comes to, undefined where it fails with one of these codes. Default: in any
 * way that imgtx foresees, which a broken invariant is not.
 */
export async function unlessItFails<T>(
  work: () => Promise<T>,
  codes?: readonly ErrorCode[],
): Promise<T | undefined> {
  try {
    return await work();
  } catch (error) {
    const isAnswer =
      error instanceof ImgtxError && (codes ? codes.includes(error.code) : error.code !== "E_INTERNAL");
    if (isAnswer) return undefined;
    throw error;
  }
}

export { elseClosed, whileOpen } from "./closing.ts";
export { settleAll } from "./settle-all.ts";
