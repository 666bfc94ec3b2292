// A journal as a file: its name, who may have written it, and its making as a whole.
//
// Invariants
// - A new journal that is found under its first name alone, whole and of nobody at work, may have got its own name, and
//   its first files, before a power cut took the name back. It gets the name again, and is settled like any other.
// - A journal is trusted only when it belongs to the user, nobody else may write it, and it is no link.
// - It names within itself the file that it was written to. One that was put back, or copied to its place, does
//   not match: what it speaks of is over, or somebody else's. It is left alone with all its files.

import {
  describeCopy,
  describeWorker,
  findLiveness,
  howToAdopt,
  isMarkedFile,
  type FileMark,
  markOf,
  pathsOf,
  type Worker,
  type Workspace,
} from "../../device/index.ts";
import { elseClosed, ImgtxError, settleAll, unlessItFails } from "../../errors/index.ts";
import { type LockWaiting, lockFile, type StorageFile } from "../../storage/index.ts";
import { foldRecords } from "./fold.ts";
import { encodeRecord, FIRST_DIGEST, type ParsedJournal, parseJournal } from "./record-line.ts";
import type { JournalRecord, TransactionState } from "./records.ts";
import { mapContent, storedJson } from "./stored-record.ts";

/** The record whose word about the file does not hold. */
const PUT_BACK = "mark";
const SUFFIX = ".journal";
const NEW_SUFFIX = ".new";
const MODE = 0o600;
const LIMIT_BYTES = 1024 * 2 ** 20;
/** Far past any content: a lock, not a byte. */
export const WORK_BYTE = { start: 2 ** 40, lengthBytes: 1 };

const NO_WAIT: LockWaiting = { waitMs: 0, onWait: () => undefined };

/** What imgtx calls a journal, and one that is being made. */
const OWN_NAME = /^([a-z0-9]{10})(\.journal|\.new)$/;

export interface JournalNames {
  readonly ids: string[];
  /** What a crash left half made. */
  readonly halfMade: string[];
  /** What looks like a journal, and was never one: by its name, or since it is no file. It is left alone. */
  readonly strange: string[];
}

export async function listNames(workspace: Workspace): Promise<JournalNames> {
  const { storage } = workspace;
  const { journals } = pathsOf(workspace);
  const found: JournalNames = { ids: [], halfMade: [], strange: [] };
  if ((await storage.statLink(journals))?.kind !== "folder") return found;
  for (const name of await storage.readFolder(journals)) {
    if (!name.endsWith(SUFFIX) && !name.endsWith(NEW_SUFFIX)) continue;
    const [, id, suffix] = OWN_NAME.exec(name) ?? [];
    const there = await storage.statLink(`${journals}/${name}`);
    if (!there) continue;
    if (id === undefined || there.kind !== "file") found.strange.push(name);
    else (suffix === SUFFIX ? found.ids : found.halfMade).push(id);
  }
  return found;
}

/** Clears away a journal that never got its name. The caller holds the workspace lock. */
export async function removeHalfMade(workspace: Workspace, id: string): Promise<void> {
  const path = halfMadePath(workspace, id);
  if (await workspace.storage.statLink(path)) await workspace.storage.removeFile(path);
}

/** The same, but where a process may be about to name it that shares no locks with this one. */
export async function clearHalfMade(workspace: Workspace, id: string): Promise<void> {
  const { worker } = await readHalfMade(workspace, id);
  if ((await findLiveness(workspace, worker)) === "gone") await removeHalfMade(workspace, id);
}

/**
 * Gives one that stands alone its name where it has had that before, and clears it away else. Whether it has its name
 * now. The caller holds the workspace lock.
 */
export async function nameHalfMade(workspace: Workspace, id: string): Promise<boolean> {
  const { worker, whole } = await readHalfMade(workspace, id);
  if ((await findLiveness(workspace, worker)) !== "gone") return false;
  if (!whole || !(await mayHaveBeenNamed(workspace, whole))) {
    await removeHalfMade(workspace, id);
    return false;
  }
  // Not flushed: a power cut may take that name back once more, and nothing is added to it by then.
  await workspace.storage.rename(halfMadePath(workspace, id), journalPath(workspace, id));
  return true;
}

/**
 * Of a command's own transaction: one that is begun for others is nobody's before it has its name for good. Before that
 * nothing is made, and the content may be in the page cache alone. In this start of the machine the
 * name would be there, but for a disk that went and came back: then it is told by the first files, which come later.
 */
async function mayHaveBeenNamed(
  { storage }: Workspace,
  { begin, statements }: TransactionState,
): Promise<boolean> {
  if (!begin.implicit) return false;
  if (begin.worker?.boot !== storage.host.process.boot) return true;
  const made = statements.flatMap(({ plan }) => plan.newFiles);
  const found = await Promise.all(made.map(async ({ staging }) => await storage.statLink(staging)));
  return found.some((file) => file !== undefined);
}

interface HalfMade {
  /** Null where it does not say: cut off before it was written, or gone by now. */
  readonly worker: Worker | null;
  /** What it says, where it has all that it was to get before its name, and is itself. */
  readonly whole?: TransactionState;
}

async function readHalfMade(workspace: Workspace, id: string): Promise<HalfMade> {
  let file: StorageFile | undefined;
  try {
    file = await openTrusted(workspace, halfMadePath(workspace, id), "read");
    const { parsed, state } = await readContent(workspace, file, id, { asItIs: true });
    const { worker, whole, mark } = state.begin;
    const isItself = await isMarkedFile(workspace.storage, file.path, await file.stat(), mark);
    const isWhole = isItself && whole !== null && parsed.records.length >= whole;
    return { worker, ...(isWhole && { whole: state }) };
  } catch (error) {
    if (error instanceof ImgtxError) return { worker: null };
    throw error;
  } finally {
    await file?.close();
  }
}

function halfMadePath(workspace: Workspace, id: string): string {
  return `${pathsOf(workspace).journals}/${id}${NEW_SUFFIX}`;
}

export function journalPath(workspace: Workspace, id: string): string {
  return `${pathsOf(workspace).journals}/${id}${SUFFIX}`;
}

interface Naming {
  readonly beforeNaming?: () => void;
  /**
   * The first name is made durable beside the content, and the own one is left to the caller, before the first file of
   * the transaction gets its name: until then recovery knows the journal by either. Not where it replaces another.
   */
  readonly isNamedLater?: boolean;
}

/** Writes a journal as a whole, durably and locked, and moves it over the one that is there. */
export async function writeAnew(
  workspace: Workspace,
  path: string,
  records: readonly JournalRecord[],
  { beforeNaming, isNamedLater = false }: Naming = {},
): Promise<{ file: StorageFile; digest: string; endBytes: number }> {
  const { storage, root } = workspace;
  const fresh = `${path.slice(0, -SUFFIX.length)}${NEW_SUFFIX}`;
  if (await storage.statLink(fresh)) await storage.removeFile(fresh);
  return await elseClosed(await storage.createFile(fresh, MODE), async (file) => {
    const worker = await describeWorker(workspace);
    const { bytes, digest } = encodeAll(root, records, {
      worker,
      mark: markOf(await file.stat()),
      whole: records.length,
    });
    // Locked before it has its name: nobody may take the transaction for abandoned in between.
    await lockFile(storage, file, WORK_BYTE, NO_WAIT, "the new journal");
    await file.write(bytes, 0);
    const { journals } = pathsOf(workspace);
    await settleAll([
      file.flush("journal content"),
      ...(isNamedLater ? [storage.flushFolder(journals, "journal's first name")] : []),
    ]);
    beforeNaming?.();
    await storage.rename(fresh, path);
    if (!isNamedLater) await storage.flushFolder(journals, "journal name");
    return { file, digest, endBytes: bytes.length };
  });
}

function encodeAll(
  root: string,
  records: readonly JournalRecord[],
  written: { readonly mark: FileMark; readonly worker: Worker; readonly whole: number },
): { bytes: Uint8Array; digest: string } {
  let digest = FIRST_DIGEST;
  const lines = records.map((record) => {
    const marked = record.type === "begin" ? { ...record, ...written } : record;
    const encoded = encodeRecord(storedJson(root, marked), digest);
    digest = encoded.digest;
    return encoded.line;
  });
  return { bytes: Buffer.concat(lines), digest };
}

/** Undefined where the transaction ended between a look at the name and the opening of it. */
export async function openJournal(workspace: Workspace, path: string): Promise<StorageFile | undefined> {
  return await unlessItFails(() => openTrusted(workspace, path, "write"), ["E_NOT_FOUND"]);
}

export async function openTrusted(
  workspace: Workspace,
  path: string,
  access: "read" | "write",
): Promise<StorageFile> {
  return await elseClosed(
    await workspace.storage.openFile(path, access, { refuseSymlink: true }),
    async (file) => {
      const { ownerId, mode } = await file.stat();
      // Only who may write to the folder can have put it there: see the device layer's ownership.
      const trusted = [workspace.storage.host.userId, 0, workspace.ownerId];
      const isTrusted = trusted.includes(ownerId);
      if (isTrusted && (mode & 0o022) === 0) return file;
      // Where the mount has one mode for all files, that of the folder tells the same, and is not heeded either.
      if (isTrusted && !(await workspace.storage.describeFileSystem(path)).keepsModes) return file;
      throw new ImgtxError("E_JOURNAL", "the journal belongs to another user, or others may write it", {
        image: path,
        hint: "run imgtx as the user who owns the transaction",
      });
    },
  );
}

/** What a journal says, by its name. E_JOURNAL where it is damaged, another's, or not the file it was written to. */
export async function readContent(
  workspace: Workspace,
  file: StorageFile,
  id: string,
  how: { readonly asItIs?: boolean } = {},
): Promise<{ parsed: ParsedJournal; state: TransactionState }> {
  const { parsed, state } = understand(workspace, file.path, id, await readAll(file));
  if (!how.asItIs) await assertNotPutBack(workspace, file, state);
  return { parsed, state };
}

interface Understood {
  readonly id: string;
  readonly bytes: Uint8Array;
  readonly parsed: ParsedJournal;
  readonly state: TransactionState;
}

/**
 * What a command has last made of each journal, by its path. It reads them several times, with and without the locks, and
 * most are unchanged then: all of their bytes are read each time, and the same ones say the same.
 */
const understood = new WeakMap<Workspace, Map<string, Understood>>();
/** Of a longer one nothing is kept. */
const MOST_KEPT_BYTES = 2 ** 20;

function understand(workspace: Workspace, path: string, id: string, bytes: Uint8Array): Understood {
  let all = understood.get(workspace);
  if (!all) understood.set(workspace, (all = new Map()));
  const last = all.get(path);
  if (last?.id === id && Buffer.compare(last.bytes, bytes) === 0) return last;
  const parsed = mapContent(workspace, parseJournal(bytes, path));
  const fresh = { id, bytes, parsed, state: foldOwn(parsed.records, id, path) };
  if (bytes.length <= MOST_KEPT_BYTES) all.set(path, fresh);
  return fresh;
}

async function assertNotPutBack(
  workspace: Workspace,
  file: StorageFile,
  { begin }: TransactionState,
): Promise<void> {
  if (await isMarkedFile(workspace.storage, file.path, await file.stat(), begin.mark)) return;
  // Of a copy as a whole the table tells, and nothing in it is acted on.
  if ((await describeCopy(workspace)) !== undefined) return;
  throw new ImgtxError("E_JOURNAL", `the journal of transaction ${begin.id} is a copy, or was put back`, {
    image: file.path,
    field: PUT_BACK,
    hint: howToAdopt(workspace),
  });
}

/** Whether this is why a journal can't be trusted. */
export function isPutBack(error: ImgtxError): boolean {
  return error.code === "E_JOURNAL" && error.field === PUT_BACK;
}

export async function readAll(file: StorageFile): Promise<Uint8Array> {
  const { sizeBytes } = await file.stat();
  if (sizeBytes > LIMIT_BYTES) {
    throw new ImgtxError("E_JOURNAL", "the journal is larger than any that imgtx writes", {
      image: file.path,
    });
  }
  const bytes = new Uint8Array(sizeBytes);
  return bytes.subarray(0, await file.read(bytes, 0));
}

/** The state of a journal by its name. A journal under another's name would be taken for its lock. */
function foldOwn(records: readonly JournalRecord[], id: string, path: string): TransactionState {
  const state = foldRecords(records, path);
  if (!state) throw emptyJournal(path);
  if (state.begin.id === id) return state;
  throw new ImgtxError("E_JOURNAL", `the journal is that of another transaction, ${state.begin.id}`, {
    image: path,
    hint: "give it back the name of its transaction, or move it away",
  });
}

function emptyJournal(path: string): ImgtxError {
  return new ImgtxError("E_JOURNAL", "the journal holds no complete record", { image: path, offset: 0 });
}
