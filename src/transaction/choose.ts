// Which of the open transactions a command is about, and the words for those that it might have meant.
// That of a `txn exec` is joined by naming it alone: it must not collect a stranger's commands.

import { ImgtxError } from "../errors/index.ts";
import { shellQuote } from "../format/index.ts";
import { sayTime } from "../units/index.ts";
import { withName } from "./notes/note-words.ts";
import type { TransactionDescription } from "./describe/results.ts";

/** `--txn none`: the command is in no transaction, whichever are open. */
export const NO_TRANSACTION = "none";

type Candidate = Pick<TransactionDescription, "id" | "name" | "started" | "user" | "here" | "owned">;

/** What a command wants with a transaction. */
export interface Purpose {
  /** The command line that names one: `imgtx txn commit 7f3k2m9qa1`. */
  readonly commandFor: (id: string) => string;
  /** What to do where none is open. */
  readonly hintForNone: string;
}

const HISTORY = "`imgtx history` lists what was committed";
const BEGIN = "begin one with `imgtx txn begin`";

export const TO_COMMIT: Purpose = { commandFor: (id) => `imgtx txn commit ${id}`, hintForNone: HISTORY };
export const TO_ABORT: Purpose = { commandFor: (id) => `imgtx txn abort ${id}`, hintForNone: HISTORY };
export const TO_SHOW: Purpose = { commandFor: (id) => `imgtx txn show ${id}`, hintForNone: BEGIN };

/** For `txn savepoint NAME` and `txn rollback-to NAME`. */
export function toUseSavepoint(verb: "savepoint" | "rollback-to", name: string): Purpose {
  return {
    commandFor: (id) =>
      `imgtx txn ${verb} --txn ${id} ${name.startsWith("-") ? "-- " : ""}${shellQuote(name)}`,
    hintForNone: BEGIN,
  };
}

/**
 * The transaction with this id, or else of this name. Without one that which was begun here; undefined where there is
 * none, and for `none`. That of a `txn exec` is for the commands inside it: they name it. E_NO_TRANSACTION where
 * nothing is called so, E_TRANSACTION where it could be several.
 */
export function chooseTransaction<T extends Candidate>(
  open: readonly T[],
  wanted: string | undefined,
): T | undefined {
  if (wanted === NO_TRANSACTION) return undefined;
  const found =
    wanted === undefined ? open.filter(({ here, owned }) => here === true && !owned) : named(open, wanted);
  const [first, second] = found.toSorted(byAge);
  if (!first && wanted !== undefined) throw notOpen(wanted);
  if (!second) return first;
  const list = found.map(({ id, name }) => withName(id, name)).join(", ");
  throw wanted === undefined
    ? new ImgtxError("E_TRANSACTION", "several transactions that were begun here are open", {
        hint: `say which one with --txn: ${list}`,
      })
    : new ImgtxError("E_TRANSACTION", `several open transactions are called '${wanted}'`, {
        hint: `say which one with --txn: ${list}`,
      });
}

/** As above, for a command that needs one: E_NO_TRANSACTION, with the commands that would do, where it would be none. */
export function requireTransaction<T extends Candidate>(
  open: readonly T[],
  wanted: string | undefined,
  { commandFor, hintForNone }: Purpose,
): T {
  const chosen = chooseTransaction(open, wanted);
  if (chosen) return chosen;
  if (open.length === 0) {
    throw new ImgtxError("E_NO_TRANSACTION", "no transaction is open", { hint: hintForNone });
  }
  const inOrder = open.toSorted(byAge);
  const hint = `name the one that is meant: ${inOrder.map(({ id }) => `\`${commandFor(id)}\``).join(" or ")}`;
  if (wanted === NO_TRANSACTION) {
    throw new ImgtxError("E_NO_TRANSACTION", "--txn or IMGTX_TXN says that no transaction is meant", {
      hint,
    });
  }
  const others = `open: ${inOrder.map(sayWhose).join("; ")}`;
  throw new ImgtxError("E_NO_TRANSACTION", `no open transaction was begun here; ${others}`, { hint });
}

/** What a command is told that stays out of the transaction, and wants a device which that holds. */
export function heldByOpen(holder: Candidate): ImgtxError {
  const { id, owned } = holder;
  const join = `join it with \`--txn ${id}\``;
  const end = `\`imgtx txn commit ${id}\` or \`imgtx txn abort ${id}\``;
  return new ImgtxError("E_TRANSACTION", `it is in the open transaction ${sayWhose(holder)}`, {
    hint: owned ? `wait until its command has ended, or ${join}` : `${join}, or end it with ${end}`,
  });
}

/** `7f3k2m9qa1 (nightly), begun 2026-11-27 04:10:02Z by root elsewhere` */
export function sayWhose(transaction: Candidate): string {
  const { id, name, started, user, here, owned } = transaction;
  const place = `${here === false ? " elsewhere" : ""}${owned ? ", for a `txn exec`" : ""}`;
  if (started === null) return withName(id, name);
  return `${withName(id, name)}, begun ${sayTime(started)} by ${user}${place}`;
}

function byAge(a: Candidate, b: Candidate): number {
  return (a.started ?? "").localeCompare(b.started ?? "");
}

function named<T extends Candidate>(open: readonly T[], wanted: string): readonly T[] {
  const byId = open.filter(({ id }) => id === wanted);
  return byId.length > 0 ? byId : open.filter(({ name }) => name === wanted);
}

function notOpen(wanted: string): ImgtxError {
  return new ImgtxError("E_NO_TRANSACTION", `no open transaction is called '${wanted}'`, {
    hint: "`imgtx txn list` shows those that are open, and `imgtx history` what was committed",
  });
}

export function hasNoSavepoint(
  { id, savepoints }: Pick<TransactionDescription, "id" | "savepoints">,
  name: string,
): ImgtxError {
  return new ImgtxError("E_NO_TRANSACTION", `transaction ${id} has no savepoint '${name}'`, {
    hint:
      savepoints.length === 0
        ? "make one with `imgtx txn savepoint NAME`, before what it should go back to"
        : `its savepoints are ${savepoints.join(", ")}`,
  });
}
