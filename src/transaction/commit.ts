// The commit: re-check, mark, move the table.
//
// Invariants
// - Everything that may refuse runs before the mark. Behind it there is only finishCommit, which is
//   idempotent, and which recovery calls as well.
// - Committed transactions of others are finished first, so that the mark names the next generation.

import { type DeviceTable, lockWorkspace, readTable, type Workspace } from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import { holdImages, takeFingerprint } from "../format/index.ts";
import type { LockWaiting, StorageFile } from "../storage/index.ts";
import { assertActiveLayersApart, assertUnchanged } from "./chain-entry.ts";
import {
  type CommitRecord,
  heldDevices,
  type Journal,
  liveStatements,
  type TransactionState,
  type WatchedImage,
} from "./journal/index.ts";
import { finishCommit, nextTable, summarise } from "./finish.ts";
import { settleJournals } from "./recovery.ts";

/**
 * Commits what the journal holds. The caller holds the journal, which is retired afterwards, and perhaps
 * locks on some of the images, by path.
 */
export async function commitJournal(
  workspace: Workspace,
  journal: Journal,
  waiting: LockWaiting,
  alreadyLocked: ReadonlySet<string> = new Set(),
): Promise<DeviceTable> {
  const files = await openWatched(workspace, journal.state);
  try {
    const images = files
      .filter(({ watched }) => !alreadyLocked.has(watched.image))
      .map(({ file, watched }) => ({ file, device: watched.device ?? undefined }));
    await holdImages(workspace.storage, images, waiting);
    const lock = await lockWorkspace(workspace, waiting);
    try {
      await settleJournals(workspace, journal.id);
      const table = await readTable(workspace);
      await assertNothingChanged(files);
      const record = commitRecord(workspace, table, journal.state);
      assertActiveLayersApart(nextTable(table, journal.state, record), heldDevices(journal.state));
      await journal.appendForGood(record, "commit mark");
      return await finishOrExplain(workspace, journal);
    } finally {
      await lock.close();
    }
  } finally {
    for (const { file } of files) await file.close();
  }
}

async function finishOrExplain(workspace: Workspace, journal: Journal): Promise<DeviceTable> {
  try {
    return await finishCommit(workspace, journal);
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause);
    throw new ImgtxError(
      "E_UNFINISHED",
      `the transaction is committed and durable, but not finished: ${why}`,
      {
        image: cause instanceof ImgtxError && cause.image !== undefined ? cause.image : journal.path,
        changed: true,
        hint: "the next imgtx command goes on with it; `imgtx recover` does only that",
        cause,
      },
    );
  }
}

function commitRecord(workspace: Workspace, table: DeviceTable, state: TransactionState): CommitRecord {
  return {
    type: "commit",
    generation: table.generation + 1,
    committed: new Date(workspace.storage.host.now()).toISOString(),
    summary: state.begin.name ?? summarise(state),
  };
}

interface OpenWatched {
  readonly watched: WatchedImage;
  readonly file: StorageFile;
  readonly isNew: boolean;
}

/** Every image that the statements rest on, and every one that they made, each once. */
async function openWatched(workspace: Workspace, state: TransactionState): Promise<OpenWatched[]> {
  const wanted = new Map<string, Omit<OpenWatched, "file">>();
  for (const { plan, prepared } of liveStatements(state)) {
    for (const watched of plan.watched) {
      if (!wanted.has(watched.image)) wanted.set(watched.image, { watched, isNew: false });
    }
    for (const { path, fingerprint } of prepared?.files ?? []) {
      const device = plan.changes.find(({ after }) => after?.image === path)?.device ?? null;
      wanted.set(path, { watched: { device, image: path, fingerprint }, isNew: true });
    }
  }
  const opened: OpenWatched[] = [];
  try {
    for (const { watched, isNew } of wanted.values()) {
      opened.push({ watched, isNew, file: await openOrExplain(workspace, watched, isNew) });
    }
    return opened;
  } catch (error) {
    for (const { file } of opened) await file.close();
    throw error;
  }
}

async function openOrExplain(
  workspace: Workspace,
  watched: WatchedImage,
  isNew: boolean,
): Promise<StorageFile> {
  try {
    return await workspace.storage.openFile(watched.image, "read");
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_NOT_FOUND") throw error;
    throw new ImgtxError("E_CHANGED", isNew ? "the new image has gone" : "the image has gone", {
      image: watched.image,
      ...(watched.device !== null && { device: watched.device }),
      hint: "`imgtx txn abort` takes the transaction back; then begin again",
      cause: error,
    });
  }
}

async function assertNothingChanged(files: readonly OpenWatched[]): Promise<void> {
  for (const { watched, file, isNew } of files) {
    const now = await takeFingerprint(file, watched.fingerprint.headerSha256 !== null);
    assertUnchanged(watched, now, isNew ? "imgtx made it" : "the transaction read it");
  }
}
