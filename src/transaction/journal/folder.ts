// All journals of a workspace as they stand. What is read while the workspace is locked holds until it is free again:
// no journal comes meanwhile, and none gets a plan or a mark. So a caller reads once, and hands on what it read.

import { describeCopy, findLiveness, findOwner, type Worker, type Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import {
  isPutBack,
  journalPath,
  type JournalNames,
  listNames,
  nameHalfMade,
  openTrusted,
  readAll,
  readContent,
  WORK_BYTE,
} from "./journal-file.ts";
import { heldDevices, isParked, isUnderWay } from "./queries.ts";
import { findDevicesInDamage } from "./record-line.ts";
import type { Statement, TransactionState } from "./records.ts";

export interface JournalSnapshot {
  readonly id: string;
  readonly path: string;
  /** A live process works on it: by its lock, or since the kernel shows the process. */
  readonly busy: boolean;
  /** Who may be at work on it, or run its `txn exec`, where that can't be told from here. */
  readonly unsure: Worker | null;
  /** It is not the file that it was written to, in a workspace that is itself. */
  readonly isPutBack: boolean;
  /** What it says, or why it can't be read. */
  readonly state: TransactionState | ImgtxError;
  /** Devices that it holds; null where it can't be read, and does not tell them either. */
  readonly held: readonly string[] | null;
}

/** The folder as it stands now, and the journals in it. */
export interface JournalFolder extends JournalNames {
  readonly journals: readonly JournalSnapshot[];
}

/** `except` is the caller's own, which is not read. A journal that goes while it is read is left out. */
export async function readJournalFolder(workspace: Workspace, except?: string): Promise<JournalFolder> {
  const names = await listNames(workspace);
  const journals: JournalSnapshot[] = [];
  for (const id of names.ids) {
    if (id === except) continue;
    const path = journalPath(workspace, id);
    const snapshot = await readJournal(workspace, id, path);
    if (snapshot) journals.push(snapshot);
  }
  return { ...names, journals };
}

/**
 * The folder once each journal that stands alone under its first name has its own, or is gone; but for those that a process
 * is about to name, or to replace. The caller holds the workspace lock.
 */
export async function readNamedJournals(workspace: Workspace, except?: string): Promise<JournalFolder> {
  const folder = await readJournalFolder(workspace, except);
  let isRenamed = false;
  for (const id of folder.halfMade) {
    // Only a journal with a live process may have a new one beside it: that process is replacing it.
    if (!folder.ids.includes(id) && (await nameHalfMade(workspace, id))) isRenamed = true;
  }
  return isRenamed ? await readJournalFolder(workspace, except) : folder;
}

export async function readJournals(
  workspace: Workspace,
  except?: string,
): Promise<readonly JournalSnapshot[]> {
  return (await readJournalFolder(workspace, except)).journals;
}

interface Parked extends Pick<Statement, "plan" | "marks"> {
  readonly id: string;
  readonly busy: boolean;
}

/** Copies that were cut off, and are kept to be gone on with. */
export function parkedAmong(journals: readonly JournalSnapshot[]): Parked[] {
  return journals.flatMap(({ id, busy, state }) => {
    const copying = state instanceof ImgtxError || !isParked(state) ? undefined : state.statements[0];
    return copying ? [{ id, busy, plan: copying.plan, marks: copying.marks }] : [];
  });
}

/** One at any place of the workspace. Undefined: it is not there. */
export async function readJournal(
  workspace: Workspace,
  id: string,
  path: string,
): Promise<JournalSnapshot | undefined> {
  let file: StorageFile | undefined;
  try {
    file = await openTrusted(workspace, path, "read");
    const isLocked = file.wouldConflict(WORK_BYTE, "exclusive");
    const { state } = await readContent(workspace, file, id);
    const at = isLocked ? { busy: true, unsure: null } : await findAtWork(workspace, state);
    return { id, path, ...at, isPutBack: false, state, held: heldDevices(state) };
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    if (error.code === "E_NOT_FOUND") return undefined;
    const held = await findHeldInDamage(file, error);
    return { id, path, busy: false, unsure: null, isPutBack: isPutBack(error), state: error, held };
  } finally {
    await file?.close();
  }
}

/** Null, which is all of them, also where there is too much of it to be searched: no part speaks for the rest. */
async function findHeldInDamage(
  file: StorageFile | undefined,
  { code }: ImgtxError,
): Promise<readonly string[] | null> {
  if (!file || code === "E_IO") return findDevicesInDamage(new Uint8Array());
  return (await file.stat()).sizeBytes > MOST_SEARCHED_BYTES
    ? null
    : findDevicesInDamage(await readAll(file));
}

const MOST_SEARCHED_BYTES = 64 * 2 ** 20;

/** Who may be at work on what nobody has locked. */
async function findAtWork(
  workspace: Workspace,
  state: TransactionState,
): Promise<Pick<JournalSnapshot, "busy" | "unsure">> {
  const { id, owned, owner, worker } = state.begin;
  const life = isUnderWay(state) ? await findLiveness(workspace, worker) : "gone";
  const ofOwner = owned && !state.commit ? await findOwner(workspace, id, owner) : "gone";
  const unsure = (life === "unknown" ? worker : null) ?? (ofOwner === "unknown" ? owner : null);
  if (life !== "alive" && unsure === null) return { busy: false, unsure };
  // The journals of a copy are those of the original's processes, which do not work here.
  if ((await describeCopy(workspace)) !== undefined) return { busy: false, unsure: null };
  return { busy: life === "alive", unsure: life === "alive" ? null : unsure };
}
