// A committed transaction in a copy of its workspace: whether all that its end needs is in the copy, so that it can be
// finished there, and how its journal is to name the files.
//
// Invariants
// - All is in the folder, and nothing of it is the original's as well, by a second name or a link. No image leads out of it
//   by the name of its backing image, which may be the original's.
// - Each image is proved to be a copy of what it was: by its redo log, by the transaction's fence, or else by size, time
//   and header. Where one is not, nothing of the transaction is touched.

import { posix } from "node:path";
import type { Workspace } from "../../device/index.ts";
import {
  describeContentChanges,
  type Fingerprint,
  isSameFile,
  readOwnBacking,
  takeFingerprint,
} from "../../format/index.ts";
import type { FileStat, StorageFile } from "../../storage/index.ts";
import { isFenceUp } from "../commit/leaving-fences.ts";
import { surveyRedo } from "../images/apply-redo.ts";
import { AS_IMAGE } from "../images/devices.ts";
import { markFolders } from "../images/planned-folders.ts";
import {
  copiesOf,
  filesRemoved,
  type JournalRecord,
  lastSeen,
  logsOf,
  type PlannedFolder,
  redoOf,
  type TransactionState,
} from "../journal/index.ts";

export interface Successors {
  /** The files of the copy, by what the journal has of those that they were copied from. */
  readonly files: ReadonlyMap<string, FileStat>;
  /** Where they are. Those of the journal are the original's. */
  readonly folders: readonly PlannedFolder[];
}

/**
 * Undefined where not all is here. Taken over: its journal is of this workspace already, by an adoption that was cut off,
 * and names these very files. Moved: the table has moved, and new images are their guests'.
 */
export async function findSuccessors(
  workspace: Workspace,
  state: TransactionState,
  { isTakenOver, hasMoved }: { readonly isTakenOver: boolean; readonly hasMoved: boolean },
): Promise<Successors | undefined> {
  const { storage } = workspace;
  const seen = lastSeen(state);
  const files = new Map<string, FileStat>();
  const needed = filesNeeded(state);
  for (const path of needed) {
    const stat = await findOwn(workspace, path);
    if (!stat) return undefined;
    const known = seen.get(path);
    if (!known) continue;
    if (isSameFile(known.fingerprint, stat) !== isTakenOver) return undefined;
    const file = await storage.openFile(path, "read", AS_IMAGE);
    try {
      if (known.fingerprint.headerSha256 !== null && (await leadsOut(workspace, file))) return undefined;
      if (!(known.isNew && hasMoved) && !(await isCopyOf(workspace, state, path, file))) return undefined;
    } finally {
      await file.close();
    }
    files.set(nameOf(known.fingerprint), stat);
  }
  return { files, folders: await markFolders(storage, [...needed]) };
}

function filesNeeded(state: TransactionState): ReadonlySet<string> {
  const logs = state.statements.flatMap(({ plan }) => logsOf(plan));
  const copied = copiesOf(state).flatMap(({ sources, into }) => [...sources, into]);
  const made = state.statements.flatMap(({ plan }) => plan.newFiles.map(({ path }) => path));
  return new Set([...lastSeen(state).keys(), ...logs, ...copied, ...made, ...filesRemoved(state)]);
}

/** A regular file in the workspace's own folder, that nobody has by another name. */
async function findOwn({ storage, root }: Workspace, path: string): Promise<FileStat | undefined> {
  const stat = await storage.statLink(path);
  if (stat?.kind !== "file" || stat.names !== 1) return undefined;
  return (await storage.realPath(path)).startsWith(`${await storage.realPath(root)}/`) ? stat : undefined;
}

async function leadsOut({ root }: Workspace, file: StorageFile): Promise<boolean> {
  const name = (await readOwnBacking(file))?.name;
  return name !== undefined && !posix.resolve(posix.dirname(file.path), name).startsWith(`${root}/`);
}

async function isCopyOf(
  { storage }: Workspace,
  state: TransactionState,
  image: string,
  file: StorageFile,
): Promise<boolean> {
  const redo = redoOf(state).get(image);
  if (redo) {
    const survey = await surveyRedo(storage, state, redo);
    const isAsLogged = survey === "untouched" || survey === "partly" || survey === "applied";
    if (isAsLogged || !state.applied.has(image)) return isAsLogged;
  }
  if (await isFenceUp(file, image, state)) return true;
  const known = lastSeen(state).get(image)?.fingerprint;
  if (!known) return false;
  const now = await takeFingerprint(file, known.headerSha256 !== null);
  return describeContentChanges(known, now).length === 0;
}

function nameOf({ fileSystem, inode, bornNs }: Pick<Fingerprint, "fileSystem" | "inode" | "bornNs">): string {
  return `${fileSystem} ${inode} ${bornNs}`;
}

/** The record, with the identities of the copy's files. Their change times say nothing any more. */
export function withSuccessors(record: JournalRecord, { files, folders }: Successors): JournalRecord {
  const renewed = renew(record, files) as JournalRecord;
  return renewed.type === "plan" ? { ...renewed, folders } : renewed;
}

function renew(value: unknown, successors: Successors["files"]): unknown {
  if (Array.isArray(value)) return value.map((one: unknown) => renew(one, successors));
  if (typeof value !== "object" || value === null) return value;
  const fields = Object.fromEntries(Object.entries(value).map(([key, one]) => [key, renew(one, successors)]));
  const { inode, bornNs, fileSystem: own } = fields;
  if (typeof inode !== "string" || typeof bornNs !== "string" || typeof own !== "string") return fields;
  const stat = successors.get(nameOf({ fileSystem: own, inode, bornNs }));
  if (!stat) return fields;
  const { changedNs: _changed, settled: _settled, ...rest } = fields;
  const { fileSystem, fileSystemId, mountId, bootId } = stat;
  return { ...rest, inode: stat.inode, bornNs: stat.bornNs, fileSystem, fileSystemId, mountId, bootId };
}
