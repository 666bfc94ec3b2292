// All journals of a workspace as they stand, without a lock.

import type { Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import {
  isPutBack,
  journalPath,
  listNames,
  openTrusted,
  readAll,
  readContent,
  WORK_BYTE,
} from "./journal-file.ts";
import { heldDevices } from "./queries.ts";
import { findDevicesInDamage } from "./record-line.ts";
import type { TransactionState } from "./records.ts";

export interface JournalSnapshot {
  readonly id: string;
  readonly path: string;
  /** A live process holds it. */
  readonly busy: boolean;
  /** It is not the file that it was written to, in a workspace that is itself. */
  readonly isPutBack: boolean;
  /** What it says, or why it can't be read. */
  readonly state: TransactionState | ImgtxError;
  /** Devices that it holds; null where it can't be read, and does not tell them either. */
  readonly held: readonly string[] | null;
}

/**
 * All journals as they stand now, without a lock; `except` is the caller's own. A journal that goes while
 * it is read is left out.
 */
export async function readJournals(workspace: Workspace, except?: string): Promise<JournalSnapshot[]> {
  const snapshots: JournalSnapshot[] = [];
  for (const id of (await listNames(workspace)).ids) {
    if (id === except) continue;
    const path = journalPath(workspace, id);
    const snapshot = await readJournal(workspace, id, path);
    if (snapshot) snapshots.push(snapshot);
  }
  return snapshots;
}

async function readJournal(
  workspace: Workspace,
  id: string,
  path: string,
): Promise<JournalSnapshot | undefined> {
  let file: StorageFile | undefined;
  try {
    file = await openTrusted(workspace, path, "read");
    const busy = file.wouldConflict(WORK_BYTE, "exclusive");
    const { state } = await readContent(workspace, file, id);
    return { id, path, busy, isPutBack: false, state, held: heldDevices(state) };
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    if (error.code === "E_NOT_FOUND") return undefined;
    const held = findDevicesInDamage(file && error.code !== "E_IO" ? await readAll(file) : new Uint8Array());
    return { id, path, busy: false, isPutBack: isPutBack(error), state: error, held };
  } finally {
    await file?.close();
  }
}
