// Makes the files of a statement: filled and flushed under staging names, named in the journal by inode,
// then moved to their final names. Beside them, redo logs of existing images are written and flushed.
//
// What a crash leaves, step by step
// - while filling: staging files, which the journal's plan names; undone.
// - after `prepared`, before the moves: the same.
// - amid the moves: some files at their final names, which `prepared` knows by inode and birth time; undone.

import { posix } from "node:path";
import { setFirstSignpost } from "../../device/index.ts";
import { ImgtxError, settleAll } from "../../errors/index.ts";
import { beforeItsName, settleFingerprint, takeContent, takeFingerprint } from "../../format/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import { giveAccess, modeAtFirst } from "../images/access.ts";
import { type FileToMake, type FillTools, MARK_EVERY_MS, type Plan } from "../actions/plan/action.ts";
import type { Journal, NewFile, PlanRecord, NamedFile, PreparedFile } from "../journal/index.ts";
import { stageChanges } from "../images/redo.ts";
import { imagesToSign } from "./set-signposts.ts";
import { throwIfInterrupted, type Work } from "./work.ts";

/** Returns when the files have their names; what it returns settles when the names are durable. */
export async function prepareStatement(
  work: Work,
  journal: Journal,
  plan: Plan,
  record: PlanRecord,
): Promise<readonly Promise<void>[]> {
  const { storage } = work.workspace;
  const files: StorageFile[] = [];
  const fresh = new Set<number>();
  const signed = imagesToSign(work.workspace, record);
  try {
    await forgetLostFiles(storage, journal, record);
    for (const [index, newFile] of record.newFiles.entries()) {
      throwIfInterrupted(work.options.signal);
      const toMake = plan.filesToMake[index];
      if (!toMake) throw new Error("each new file was planned");
      await explained(record, async () => {
        const { file, isFresh } = await makeOrGoOn(storage, journal, record, newFile, toMake);
        files.push(file);
        if (isFresh) fresh.add(index);
        await giveAccess(storage, file, toMake);
        if (isFresh && signed.has(newFile.path)) await setFirstSignpost(file, work.workspace.root);
      });
    }
    const tools = fillTools(work, journal, record, fresh);
    work.reads?.keepOnly((plan.redo ?? []).map(({ link }) => link.stat));
    if (files.length > 0) await explained(record, async () => await fill(work, plan, files, tools));
    // All begun before the first is waited for, and side by side: one journal commit of the file system
    // then serves many of them.
    for (const file of files) file.beginFlush();
    const changes = plan.redo ?? [];
    const redo = await stageChanges(work.staged, work.id, record, { changes, before: journal.state });
    // Not before: what takes a repair back is written to its file while the repair is staged.
    const flushed = flushAll(record, files);
    const prepared = await fingerprints(plan, record, files);
    const { statement } = record;
    const reads = work.reads?.stored() ?? [];
    const told = {
      type: "prepared" as const,
      statement,
      files: prepared,
      redo,
      ...(reads.length > 0 && { reads }),
    };
    await settleAll<unknown>([flushed, journal.append(told, "prepared")]);
    for (const { staging, path } of record.newFiles) {
      if (path !== staging) await moveIntoPlace(work, record, staging, path);
    }
  } catch (error) {
    for (const file of files) await file.close();
    throw error;
  }
  for (const [index, file] of files.entries()) {
    const newFile = record.newFiles[index];
    if (newFile) work.images.keepMade(newFile.path, file);
  }
  return flushNames(storage, record, "new image's name");
}

/** What a renewable plan copies of devices is copied once more by the commit. */
async function fill(
  { reads }: Work,
  plan: Plan,
  files: readonly StorageFile[],
  tools: FillTools,
): Promise<void> {
  const run = async (): Promise<void> => await plan.fillFiles(files, tools);
  await (reads && plan.renewable ? reads.withoutThoseOf(run) : run());
}

/** New images with their names, which has moved their change times. Copies once a later write to them would show. */
export async function lookAtNamed(
  { workspace, images }: Work,
  journal: Journal,
  { statement, newFiles, renewable }: PlanRecord,
): Promise<NamedFile[]> {
  const open = images.byPath();
  const looks: NamedFile[] = [];
  const prepared = journal.state.statements[statement]?.prepared?.files ?? [];
  for (const { path, fingerprint, contentSha256 } of prepared) {
    const file = newFiles.some((one) => one.path === path) ? open.get(path)?.file : undefined;
    if (!file) continue;
    const now = await takeFingerprint(file, fingerprint.headerSha256 !== null);
    const goesByTimes = renewable || contentSha256 === null;
    const settled = goesByTimes ? await settleFingerprint(workspace.storage.host, file, now) : now;
    looks.push({ path, fingerprint: settled });
  }
  return looks;
}

/** Staging names and final ones are in the same folders. */
function flushNames(storage: Storage, { newFiles }: PlanRecord, purpose: string): Promise<void>[] {
  const folders = new Set(newFiles.map(({ path }) => posix.dirname(path)));
  return [...folders].map((folder) => storage.flushFolder(folder, purpose));
}

/**
 * Marks speak of the files that they were kept for. Where one is gone, as after a cancel that was cut off, and is
 * made anew, they must not be there any more when the next crash comes.
 */
async function forgetLostFiles(
  storage: Storage,
  journal: Journal,
  { statement, newFiles }: PlanRecord,
): Promise<void> {
  const marks = [...(journal.state.statements[statement]?.marks ?? [])].filter(([, offset]) => offset > 0);
  if (marks.length === 0) return;
  const found = await Promise.all(newFiles.map(async ({ staging }) => await storage.statLink(staging)));
  if (!found.includes(undefined)) return;
  for (const [path] of marks) {
    await journal.append({ type: "copied", statement, path, offset: 0 }, "copied");
  }
}

/** A new file; where the statement goes on with what was cut off, the one that is there. */
async function makeOrGoOn(
  storage: Storage,
  journal: Journal,
  { statement }: PlanRecord,
  { staging }: NewFile,
  toMake: FileToMake,
): Promise<{ file: StorageFile; isFresh: boolean }> {
  const isResumed = (journal.state.statements[statement]?.marks.size ?? 0) > 0;
  return isResumed && (await storage.statLink(staging))
    ? { file: await storage.openFile(staging, "write", { refuseSymlink: true }), isFresh: false }
    : { file: await storage.createFile(staging, modeAtFirst(toMake)), isFresh: true };
}

function fillTools(work: Work, journal: Journal, record: PlanRecord, fresh: ReadonlySet<number>): FillTools {
  const { storage } = work.workspace;
  const { host } = storage;
  const { statement, newFiles } = record;
  const { signal, onProgress, throttle, markEveryMs = MARK_EVERY_MS } = work.options;
  const marks = journal.state.statements[statement]?.marks ?? new Map<string, number>();
  const begun = host.monotonicMs();
  const markedAt = new Map<number, number>();
  // A mark without the file's name would say of another file, made anew, that all of it is there.
  let appending: Promise<void> | undefined;
  return {
    signal,
    onProgress,
    throttle,
    commitsAlone: journal.state.begin.implicit,
    note: (device, note) => void work.found.push({ device, note }),
    isFresh: (index) => fresh.has(index),
    resumeAt: (index) => {
      const mark = fresh.has(index) ? undefined : marks.get(newFiles[index]?.path ?? "");
      // At 0 nothing is known to be there: not even the size that the image was given.
      return mark === 0 ? undefined : mark;
    },
    // A transaction of several commands is undone to the command before, and has no use for marks.
    isMarkDue: (index) =>
      journal.state.begin.implicit && host.monotonicMs() - (markedAt.get(index) ?? begun) >= markEveryMs,
    async keepMark(index, offset) {
      const path = newFiles[index]?.path ?? "";
      const before = appending ?? settleAll(flushNames(storage, record, "unfinished copy's name"));
      // One after the other: several copies are under way.
      appending = (async () => {
        await before;
        await journal.append({ type: "copied", statement, path, offset }, "copied");
      })();
      await appending;
      markedAt.set(index, host.monotonicMs());
    },
  };
}

async function fingerprints(
  plan: Plan,
  record: PlanRecord,
  files: readonly StorageFile[],
): Promise<PreparedFile[]> {
  const looks = record.newFiles.map(async ({ path }, index): Promise<PreparedFile> => {
    const file = files[index];
    if (!file) throw new Error("each new file was made");
    const hasHeader = plan.filesToMake[index]?.hasHeader ?? false;
    const { fingerprint, contentSha256 } = await takeContent(file, hasHeader);
    return { path, fingerprint: beforeItsName(fingerprint), contentSha256 };
  });
  return await Promise.all(looks);
}

/** Waited for beside the record that names them, and they are looked at meanwhile: until then a failure is not an unhandled one. */
function flushAll(record: PlanRecord, files: readonly StorageFile[]): Promise<unknown> {
  const flushed = settleAll(
    files.map(async (file) => {
      await explained(record, async () => await file.flush("new image"));
    }),
  );
  flushed.catch(() => undefined);
  return flushed;
}

/** Does work on staging files; its errors name the files that the user knows. */
async function explained(record: PlanRecord, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    const newFile = record.newFiles.find(({ staging }) => staging === error.image);
    if (!newFile) throw error;
    const path = record.copies.find(({ from }) => from === newFile.path)?.into ?? newFile.path;
    const { doing, reason, message } = error;
    const device = deviceOf(record, path);
    throw error.reworded(reason === undefined ? message : `Could not ${doing} '${path}': ${reason}`, {
      image: path,
      ...(device !== undefined && { device }),
    });
  }
}

function deviceOf(record: PlanRecord, path: string): string | undefined {
  return record.changes.find(({ after }) => after?.image === path)?.device;
}

async function moveIntoPlace(work: Work, record: PlanRecord, staging: string, path: string): Promise<void> {
  try {
    await work.workspace.storage.renameWithoutReplacing(staging, path);
  } catch (error) {
    if (!(error instanceof ImgtxError && error.code === "E_EXISTS")) throw error;
    const device = deviceOf(record, path);
    throw new ImgtxError("E_EXISTS", "the target has come into being meanwhile", {
      image: path,
      ...(device !== undefined && { device }),
      hint: "it was left as it is; name a file that does not exist",
      cause: error,
    });
  }
}
