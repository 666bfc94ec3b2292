// What recovery can't end yet: its words, the way out, and the devices that it holds until then.
//
// Invariant: the trouble of one transaction is that of its devices. Commands on others, and those that only read, go on.

import { type ErrorCode, ImgtxError } from "../../errors/index.ts";
import { summarise } from "../commit/closing.ts";
import { heldDevices, type JournalSnapshot, type TransactionState } from "../journal/index.ts";
import type { Obstacle, RecoveryNote } from "../requests/request.ts";

/** The way out where nothing is wrong, but that readers would wait. */
const TAKES_LONG = "`imgtx recover` does it, and so does the next command that changes the same device";

/** The note on a transaction that the error keeps from its end. */
export function noteOnWaiting(id: string, state: TransactionState, error: ImgtxError): RecoveryNote {
  const isCommitted = state.commit !== undefined;
  const obstacle: Obstacle = {
    devices: heldDevices(state),
    isCommitted,
    code: error.code,
    place: placeOf(error),
    why: clauseOf(error),
    hint:
      error.code === "E_UNFINISHED" ? TAKES_LONG : isCommitted ? wayForward(id, error) : wayBack(id, error),
  };
  const what = `transaction ${id} (${summarise(state)})`;
  const until = isCommitted ? "is committed, and can't be finished yet" : "can't be undone wholly yet";
  return { transaction: id, did: "waiting", text: `${what} ${until}: ${sayObstacle(obstacle)}`, obstacle };
}

/** The note on a committed transaction whose copies take longer than others want to wait; and lines of what was done. */
export function noteOnLeft(id: string, state: TransactionState, lines: readonly string[]): RecoveryNote {
  const obstacle: Obstacle = {
    devices: heldDevices(state),
    isCommitted: true,
    code: "E_UNFINISHED",
    place: {},
    why: "what it copies into an image takes long",
    hint: TAKES_LONG,
  };
  const text = `transaction ${id} (${summarise(state)}) is committed, and not finished: ${[obstacle.why, ...lines, obstacle.hint].join("; ")}`;
  return { transaction: id, did: "waiting", text, obstacle, found: lines };
}

/** How one that was left has come to its end, with what was found before. No notes: another process has it by now. */
export function withFound(
  ends: readonly RecoveryNote[],
  { transaction, found = [] }: RecoveryNote,
): readonly RecoveryNote[] {
  if (found.length === 0) return ends;
  if (ends.length === 0) return [{ transaction, did: "noted", text: found.join("; ") }];
  return ends.map((end) => ({ ...end, text: [end.text, ...found].join("; ") }));
}

/** The note on a transaction that a process may be amid which can't be seen from here. */
export function noteOnUnsure(id: string, state: TransactionState, who: string): RecoveryNote {
  const isCommitted = state.commit !== undefined;
  const verb = isCommitted ? "commit" : "abort";
  const does = isCommitted ? "finishes it" : "takes it back";
  const obstacle: Obstacle = {
    devices: heldDevices(state),
    isCommitted,
    code: "E_BUSY",
    place: {},
    why: `${who} may be at work on it, and shares no locks with this process`,
    hint: `wait for it; where nothing works on it any more, \`imgtx txn ${verb} --force ${id}\` ${does}`,
  };
  const text = `transaction ${id} (${summarise(state)}) is left as it is: ${sayObstacle(obstacle)}`;
  return { transaction: id, did: "waiting", text, obstacle };
}

/** The note on a view that can't be shown. */
export function noteOnView(error: ImgtxError): RecoveryNote {
  const { code, hint = "`imgtx recover` tries again" } = error;
  const obstacle: Obstacle = {
    devices: [],
    isCommitted: false,
    code,
    place: placeOf(error),
    why: clauseOf(error),
    hint,
  };
  const text = `'devices' can't show the devices as they are: ${obstacle.why}; ${hint}`;
  return { transaction: null, did: "waiting", text, obstacle };
}

/** The note on a journal that can't be read. */
export function noteOnDamaged({ id, held }: JournalSnapshot, error: ImgtxError): RecoveryNote {
  const obstacle: Obstacle = {
    devices: held,
    isCommitted: false,
    code: error.code,
    place: placeOf(error),
    why: clauseOf(error),
    hint: `${before(error.code, error.hint)} \`imgtx recover\`; \`imgtx recover --give-up ${id}\` ends it without that`,
  };
  const text = `the journal of transaction ${id} can't be used: ${sayObstacle(obstacle)}`;
  return { transaction: id, did: "waiting", text, obstacle };
}

/** The error of a command that wants to change a device which is held; devices, where nobody knows which. */
export function heldError(note: RecoveryNote, device: string | undefined): ImgtxError {
  const { transaction, obstacle } = note;
  const why = obstacle ? `: ${obstacle.why}` : "";
  const what =
    obstacle?.devices === null
      ? `the journal of transaction ${transaction} can't be used, and does not tell which devices it holds`
      : `transaction ${transaction} holds it, and waits to be ${obstacle?.isCommitted ? "finished" : "undone"}`;
  return new ImgtxError("E_TRANSACTION", `${what}${why}`, {
    ...obstacle?.place,
    ...(device !== undefined && { device }),
    hint: obstacle?.hint ?? "`imgtx recover` ends it, or says why it can't",
  });
}

function wayForward(id: string, { code, hint }: ImgtxError): string {
  if (code === "E_CHANGED") {
    return `\`imgtx txn commit --force ${id}\` finishes it, and leaves what others changed as it is`;
  }
  return `${before(code, hint)} \`imgtx recover\`; \`imgtx recover --give-up ${id}\` ends it without that`;
}

function wayBack(id: string, { code, hint }: ImgtxError): string {
  if (code === "E_CHANGED") {
    return `\`imgtx txn abort --force ${id}\` ends it, and leaves what others changed as it is`;
  }
  return `${before(code, hint)} \`imgtx recover\`; \`imgtx recover --give-up ${id}\` ends it without that`;
}

/** What to do before the command that follows. */
function before(code: ErrorCode, hint: string | undefined): string {
  return `${BEFORE.get(code) ?? hint ?? "see to it"}; then`;
}

const BEFORE: ReadonlyMap<ErrorCode, string> = new Map([
  ["E_LOCKED", "close it there"],
  ["E_BUSY", "close it there"],
  ["E_NOT_FOUND", "mount its disk, or put the file back"],
  ["E_NO_SPACE", "make room on its disk"],
  ["E_IO", "see to its disk"],
  ["E_NO_PERMISSION", "make it writable"],
  ["E_READ_ONLY", "make it writable"],
]);

function sayObstacle({ devices, why, hint }: Obstacle): string {
  const held =
    devices === null
      ? "no device can be changed until then; "
      : devices.length === 0
        ? ""
        : `'${devices.join("', '")}' can't be changed until then; `;
  return `${why}; ${held}${hint}`;
}

function placeOf({ image, offset }: ImgtxError): Obstacle["place"] {
  return { ...(image !== undefined && { image }), ...(offset !== undefined && { offset }) };
}

function clauseOf({ image, message }: ImgtxError): string {
  return image === undefined || message.includes(image) ? message : `${image}: ${message}`;
}
