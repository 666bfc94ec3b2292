// Which devices are not free, because of whom, and whether that may pass.

import { readTable } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { type Beside, besideCandidates } from "../../format/index.ts";
import { traitsOf } from "../actions/index.ts";
import { heldByOpen } from "../choose.ts";
import { describeTransaction } from "../describe/describe.ts";
import { findGenerationMade } from "../commit/finish.ts";
import {
  type JournalSnapshot,
  type PlanRecord,
  readJournals,
  type TransactionState,
} from "../journal/index.ts";
import type { Settled } from "../recover/recovery.ts";
import { heldError, noteOnDamaged } from "../recover/waiting.ts";
import { findJournalBeside } from "../recover/beside.ts";
import type { Work } from "./work.ts";

/** What stands in the way of a statement, and may pass. */
export interface HeldUp {
  readonly obstacle: ImgtxError;
  /** A committed transaction that nobody works on, and that has to be finished first. */
  readonly unfinished?: string;
  /** Where an interrupted command has left its journal, of an image that is in no workspace or was not then. */
  readonly beside?: Beside;
}

/** Obstacles of recovery that may go away while a command waits. */
const MAY_PASS: ReadonlySet<string> = new Set([
  "E_LOCKED",
  "E_BUSY",
  "E_NOT_FOUND",
  "E_IO",
  "E_NO_SPACE",
  "E_UNFINISHED",
]);

/**
 * What keeps the plan's devices. E_TRANSACTION where that is an open transaction, or one that waits for more than
 * time. The caller holds the workspace lock, and has settled under it what it could.
 */
export async function findHeldUp(
  work: Work,
  record: Pick<PlanRecord, "devices" | "kind">,
  { notes, journals }: Settled,
): Promise<HeldUp | undefined> {
  for (const snapshot of journals) {
    const device = heldAmong(snapshot, record.devices);
    if (device === undefined || (await isEndedBy(work, record, snapshot))) continue;
    const note = notes.find(({ transaction, did }) => transaction === snapshot.id && did === "waiting");
    if (!note) {
      const obstacle = holderError(work, snapshot, device);
      if (obstacle.code === "E_BUSY") return { obstacle };
      throw obstacle;
    }
    const obstacle = heldError(note, device ?? undefined);
    const { code = "", isCommitted = false } = note.obstacle ?? {};
    if (!MAY_PASS.has(code)) throw obstacle;
    return { obstacle, ...(isCommitted && { unfinished: snapshot.id }) };
  }
  return undefined;
}

/** The first of the images, which the command has locked, that has a journal beside it: nobody is at work on it now. */
export async function findHeldBeside(
  { workspace }: Work,
  images: Iterable<string>,
): Promise<HeldUp | undefined> {
  for (const image of await besideCandidates(workspace.storage, [...images])) {
    const beside = await findJournalBeside(workspace.storage, image);
    if (!beside || beside.folder === workspace.root) continue;
    const message = `what an interrupted command was changing in it has to be ended first, in ${beside.folder}`;
    return { obstacle: new ImgtxError("E_BUSY", message, { image }), beside };
  }
  return undefined;
}

/** For a dry run, which settles nothing: E_TRANSACTION or E_BUSY where somebody holds one of the devices. */
export async function assertDevicesFree(
  work: Work,
  record: Pick<PlanRecord, "devices" | "kind">,
): Promise<void> {
  for (const snapshot of await readJournals(work.workspace, work.id)) {
    const device = heldAmong(snapshot, record.devices);
    if (device === undefined || (await isEndedBy(work, record, snapshot))) continue;
    throw holderError(work, snapshot, device);
  }
}

/** The first of the devices that the journal holds; null: it may hold any of them. */
function heldAmong({ held }: JournalSnapshot, devices: readonly string[]): string | null | undefined {
  return held === null ? null : held.find((one) => devices.includes(one));
}

/** A merge into a mirror that is given up by the action itself: the table lacks it then, and the merge is left out. */
async function isEndedBy(
  work: Work,
  { kind }: Pick<PlanRecord, "kind">,
  { id, path, busy, state }: JournalSnapshot,
): Promise<boolean> {
  if (busy || state instanceof ImgtxError || !state.commit || !traitsOf(kind).endsCopies) return false;
  const table = await readTable(work.workspace);
  return (await findGenerationMade(work.workspace, { id, path, state }, table)) !== undefined;
}

function holderError({ workspace }: Work, snapshot: JournalSnapshot, device: string | null): ImgtxError {
  const { state } = snapshot;
  const place = device === null ? {} : { device };
  if (state instanceof ImgtxError) return heldError(noteOnDamaged(snapshot, state), device ?? undefined);
  const { user, worker } = state.begin;
  const pid = worker?.pid ?? state.begin.pid;
  if (isOpen(state)) return heldByOpen(describeTransaction(workspace, snapshot, undefined)).with(place);
  return new ImgtxError("E_BUSY", `another imgtx command works on it (pid ${pid}, ${user})`, {
    ...place,
    hint: "wait for it, with --wait",
  });
}

function isOpen({ begin, commit, aborting }: TransactionState): boolean {
  return !begin.implicit && !commit && !aborting;
}
