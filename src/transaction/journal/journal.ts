// One transaction's journal file: append-only, flushed record by record, locked while a process works on it.
//
// Invariants
// - The file gets its name only with its first records durable in it, so an empty journal does not exist.
// - The open-file-description lock on the file says that a live process works on the transaction.
// - After a failed write or flush nothing is appended to that file any more: the kernel may have dropped
//   the pages and marked them clean, and a later flush would lie. The whole journal is written anew beside
//   it and moved over it.
// - So is a journal that another process left, before the first record that this one adds: what was read
//   of it, and its very name, may be in the page cache alone.
// - What this process adds is checked as if it had been read, before anything is written: a record that recovery would
//   not take, or that stands where none can be, is a bug.
// - A journal is trusted only when it belongs to the user, nobody else may write it, and it is no link.
// - Where locks are not seen by all, who opens one writes it anew under the workspace's lock, and so names himself in it.
//   Whoever had it open adds nothing any more.

import {
  areClaimsNeeded,
  assertOwn,
  describeWorker,
  findLiveness,
  insideWorkspaceLock,
  pathsOf,
  sayWorker,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError, settleAll } from "../../errors/index.ts";
import { type LockWaiting, lockFile, type StorageFile } from "../../storage/index.ts";
import { applyRecord, foldRecords } from "./fold.ts";
import {
  journalPath,
  openJournal,
  readContent,
  removeHalfMade,
  WORK_BYTE,
  writeAnew,
} from "./journal-file.ts";
import { encodeRecord, type ParsedJournal } from "./record-line.ts";
import { assertRecord } from "./record-shape.ts";
import type { BeginRecord, JournalRecord, TransactionState } from "./records.ts";
import { isUnderWay } from "./queries.ts";
import { storedJson } from "./stored-record.ts";

const NO_WAIT: LockWaiting = { waitMs: 0, onWait: () => undefined };

export class Journal {
  readonly id: string;
  readonly path: string;
  #workspace: Workspace;
  #file: StorageFile;
  #state: TransactionState;
  #records: JournalRecord[];
  #digest: string;
  #endBytes: number;
  /** Whether the next record needs a new file: this one, or its name, may not be durable as it was read. */
  #suspect: boolean;
  /** Whether all of its records were in the file, durably, before that had its name. */
  #whole: boolean;
  /** Whether its name is not known to be durable yet: see `create`. */
  #isNameDue = false;
  /** Whether another process may write it anew that the lock does not keep out. */
  #sharesNoLocks = false;
  /** Whether others may read the record being appended: a failure from then on leaves it in doubt. */
  #visible = false;

  private constructor(
    workspace: Workspace,
    file: StorageFile,
    path: string,
    state: TransactionState,
    content: Pick<ParsedJournal, "records" | "digest" | "endBytes">,
    suspect: boolean,
  ) {
    this.id = state.begin.id;
    this.path = path;
    this.#workspace = workspace;
    this.#file = file;
    this.#state = state;
    this.#records = [...content.records];
    this.#digest = content.digest;
    this.#endBytes = content.endBytes;
    this.#suspect = suspect;
    this.#whole = !suspect || state.begin.whole === content.records.length;
  }

  get state(): TransactionState {
    return this.#state;
  }

  /**
   * Makes the journal of a new transaction, locked. The caller holds the workspace lock. Where more records follow at once
   * (`isNamedLater`) its name becomes durable beside the first of them, which saves a flush in a row.
   */
  static async create(
    workspace: Workspace,
    begin: BeginRecord,
    more: readonly JournalRecord[],
    { isNamedLater = false } = {},
  ): Promise<Journal> {
    const path = journalPath(workspace, begin.id);
    const records = [begin, ...more];
    const state = records.reduce<TransactionState | undefined>(
      (before, record) => foresee(workspace, before, record, path),
      undefined,
    );
    if (!state) throw new Error("a journal begins with a begin record");
    const { file, digest, endBytes } = await writeAnew(workspace, path, records, { isNamedLater }).catch(
      async (error: unknown) => await takeBack(workspace, begin.id, error),
    );
    const journal = new Journal(workspace, file, path, state, { records, digest, endBytes }, false);
    journal.#isNameDue = isNamedLater;
    return journal;
  }

  /**
   * Opens and locks a journal. Undefined where there is none; E_BUSY where a live process works on it, or may do so
   * through a mounting that shares no locks with this one, unless a person says that it does not; E_JOURNAL where it
   * is damaged or not to be trusted; E_REFUSED in a workspace that is a copy, but for who takes it as it is, to make
   * it one of its own.
   */
  static async open(
    workspace: Workspace,
    id: string,
    waiting: LockWaiting = NO_WAIT,
    how: { readonly asItIs?: boolean; readonly isForced?: boolean } = {},
  ): Promise<Journal | undefined> {
    const { storage } = workspace;
    if (!how.asItIs) await assertOwn(workspace);
    const path = journalPath(workspace, id);
    for (;;) {
      if (!(await storage.statLink(path))) return undefined;
      const file = await openJournal(workspace, path);
      if (!file) return undefined;
      try {
        await lockFile(storage, file, WORK_BYTE, waiting, `transaction ${id}`);
        // Locks follow the inode: the journal may have been retired or replaced before the lock was ours.
        const [opened, named] = [await file.stat(), await storage.statLink(path)];
        if (opened.inode !== named?.inode) {
          await file.close();
          continue;
        }
        const { parsed, state } = await readContent(workspace, file, id, how);
        if (!how.asItIs) await assertNobodyElsewhere(workspace, state, path, how.isForced === true);
        const journal = new Journal(workspace, file, path, state, parsed, true);
        if (how.asItIs || !(await areClaimsNeeded(workspace))) return journal;
        if (await insideWorkspaceLock(workspace, waiting, async () => await journal.#takeForSelf()))
          return journal;
        await file.close();
      } catch (error) {
        await file.close();
        throw error;
      }
    }
  }

  /** False where somebody who shares no locks has come first. The caller holds the workspace lock. */
  async #takeForSelf(): Promise<boolean> {
    this.#sharesNoLocks = true;
    if (!(await this.#isNamed())) return false;
    await this.#replaceWith(this.#records);
    return true;
  }

  /** Whether its name leads to it, and not to what another process has written anew. */
  async #isNamed(): Promise<boolean> {
    const named = await this.#workspace.storage.statLink(this.path);
    return (await this.#file.stat()).inode === named?.inode;
  }

  /** Adds a record durably. When this throws, the record is not there, or a crash would tear it. */
  async append(record: JournalRecord, purpose: string): Promise<void> {
    this.#visible = false;
    if (this.#sharesNoLocks && !(await this.#isNamed())) throw takenOver(this.id, this.path);
    const state = foresee(this.#workspace, this.#state, record, this.path);
    this.#whole = false;
    if (this.#suspect) {
      await this.#replaceWith([...this.#records, record]);
    } else {
      const { line, digest } = encodeRecord(storedJson(this.#workspace.root, record), this.#digest);
      this.#suspect = true;
      await this.#file.write(line, this.#endBytes);
      this.#visible = true;
      await settleAll([this.#file.flush(purpose), this.#flushName()]);
      this.#suspect = false;
      this.#digest = digest;
      this.#endBytes += line.length;
      this.#records.push(record);
    }
    this.#state = state;
  }

  /**
   * Adds a record that stands for itself: no later step would take it back. Where its flush fails after the
   * moment from which others can read it, the journal is written anew without it.
   */
  async appendOrTakeBack(record: JournalRecord, purpose: string): Promise<void> {
    try {
      await this.append(record, purpose);
    } catch (error) {
      if (!this.#visible) throw error;
      try {
        await this.secure();
      } catch (cause) {
        if (!(error instanceof ImgtxError)) throw error;
        throw error.reworded(`${error.message}; and then it could not be taken back`, {
          hint: `look with \`imgtx txn show ${this.id}\` whether it is there`,
          cause,
        });
      }
      throw error;
    }
  }

  /** What a program is to hold that works for the transaction: as long as it has that, nobody takes it for left. */
  get held(): StorageFile {
    return this.#file;
  }

  /** Whether the flush of the last record failed: it may be on the disk, though the state lacks it. */
  get isInDoubt(): boolean {
    return this.#suspect && this.#visible;
  }

  /**
   * Adds the commit mark. When its flush fails nobody knows whether it is on the disk; taking it back is
   * then as uncertain as leaving it, so the journal is written anew with the mark. E_UNFINISHED when
   * that fails as well: the next command reads what there is, and decides once for all.
   */
  async appendForGood(record: JournalRecord, purpose: string): Promise<void> {
    try {
      await this.append(record, purpose);
    } catch (error) {
      if (!this.#visible) throw error;
      await this.#rescue(record, error);
    }
  }

  /**
   * Makes what this process read durable, before it acts on it: a record may have come from the page
   * cache alone, of a process that died before its flush, or whose flush failed. Of one that was written as a whole only
   * the name is in doubt: what waits is not written anew by each command. But where locks do not tell who is at work,
   * the file has to say so.
   */
  async secure(): Promise<void> {
    const { storage } = this.#workspace;
    if (this.#whole && (await describeWorker(this.#workspace)).sharesLocks) {
      await storage.flushFolder(pathsOf(this.#workspace).journals, "journal name");
    } else await this.#replaceWith(this.#records);
  }

  /** The same in a workspace that was moved: it goes on with what the caller makes of each record. */
  async takeOver(change: (record: JournalRecord) => JournalRecord): Promise<void> {
    const records = this.#records.map(change);
    const state = foldRecords(records, this.path);
    if (!state) throw new Error("a journal that was read has records");
    await this.#replaceWith(records);
    this.#state = state;
  }

  /**
   * The transaction is over and nothing of it is left to do: the journal goes. For good, where it would take what
   * somebody writes from now on to an image that a device has left for written before the move.
   */
  async retire(isForGood = false): Promise<void> {
    const { storage } = this.#workspace;
    await storage.removeFile(this.path);
    if (isForGood) await storage.flushFolder(pathsOf(this.#workspace).journals, "journal gone");
    await this.close();
  }

  async close(): Promise<void> {
    await this.#file.close();
  }

  async #flushName(): Promise<void> {
    if (!this.#isNameDue) return;
    await this.#workspace.storage.flushFolder(pathsOf(this.#workspace).journals, "journal name");
    this.#isNameDue = false;
  }

  async #rescue(record: JournalRecord, cause: unknown): Promise<void> {
    try {
      await this.#replaceWith([...this.#records, record]);
      this.#state = applyRecord(this.#state, record, this.path);
    } catch {
      throw new ImgtxError("E_UNFINISHED", "the disk failed at the commit mark: it may be durable or not", {
        image: this.path,
        changed: true,
        hint: "run `imgtx recover` when the disk works again; it finishes the transaction or undoes it whole",
        cause,
      });
    }
  }

  async #replaceWith(records: readonly JournalRecord[]): Promise<void> {
    // The new one begins under the name that this one may still have on the disk.
    await this.#flushName();
    const beforeNaming = (): void => {
      this.#visible = true;
    };
    const { file, digest, endBytes } = await writeAnew(this.#workspace, this.path, records, { beforeNaming });
    await this.#file.close();
    this.#file = file;
    this.#records = [...records];
    this.#digest = digest;
    this.#endBytes = endBytes;
    this.#suspect = false;
    this.#whole = true;
  }
}

/** The state after a record of this process's own. E_INTERNAL for one that would not be read again as what it is. */
function foresee(
  { root }: Workspace,
  state: TransactionState | undefined,
  record: JournalRecord,
  path: string,
): TransactionState {
  try {
    const stored: unknown = JSON.parse(storedJson(root, record));
    assertRecord(stored, path, 0);
    return applyRecord(state, record, path);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    throw new ImgtxError("E_INTERNAL", `a '${record.type}' record was not written: ${error.message}`, {
      image: path,
      cause: error,
    });
  }
}

/** E_BUSY where a process is, or may be, amid the transaction that the lock does not tell of. */
async function assertNobodyElsewhere(
  workspace: Workspace,
  state: TransactionState,
  path: string,
  isForced: boolean,
): Promise<void> {
  const { id, worker } = state.begin;
  if (worker === null || !isUnderWay(state)) return;
  const life = await findLiveness(workspace, worker);
  if (life === "gone" || (life === "unknown" && isForced)) return;
  const who = sayWorker(workspace, worker);
  const what = life === "alive" ? `${who} works on it` : `${who} may be at work on it`;
  throw new ImgtxError(
    "E_BUSY",
    `transaction ${id} is busy: ${what}, and shares no locks with this process`,
    {
      image: path,
      hint: "try again when it is done",
    },
  );
}

function takenOver(id: string, path: string): ImgtxError {
  return new ImgtxError(
    "E_BUSY",
    `another command has taken transaction ${id} over, and shares no locks with this process`,
    { image: path, hint: "try again when it is done" },
  );
}

/** Removes what a failed attempt left of a new journal: a transaction that nobody was told of must not be open. */
async function takeBack(workspace: Workspace, id: string, error: unknown): Promise<never> {
  const { storage } = workspace;
  const path = journalPath(workspace, id);
  try {
    await removeHalfMade(workspace, id);
    if (await storage.statLink(path)) {
      await storage.removeFile(path);
      // The name may be on the disk, though its flush failed: a power cut must not bring it back.
      await storage.flushFolder(pathsOf(workspace).journals, "journal taken back");
    }
  } catch (cause) {
    if (!(error instanceof ImgtxError)) throw error;
    throw error.reworded(error.message, {
      hint: `transaction ${id} may be left open: look with \`imgtx txn status\`, and abort it`,
      cause,
    });
  }
  throw error;
}
