// From one generation to the next: the table's contents, its history and its view, in three steps with the
// commit mark between the first and the last.
//
// Invariants
// - The first step takes all the space on the disk that the move needs, where nobody looks. The others rename.
// - Each step may be repeated, whatever a crash left of it, as long as the table has not moved.
// - The caller holds the workspace lock, and that is looked at before each step that writes.

import { ImgtxError, settleAll } from "../errors/index.ts";
import type { DeviceTable } from "./table/device-table.ts";
import { assertLocked } from "./lock/held-locks.ts";
import { closeGeneration, encodeRenewed, historyPath } from "./history/history.ts";
import { clearTheWay } from "./workspace/in-the-way.ts";
import { readTable } from "./history/present-table.ts";
import {
  flushNameOf,
  moveOver,
  type NewContent,
  type NewMode,
  removeBeside,
  renameOver,
  replaceFile,
  writeBeside,
} from "./workspace/replace-file.ts";
import { discardRecords, discardSnapshots, keepSnapshots, stageSnapshots } from "./history/snapshots.ts";
import { buildView, discardView, flipView, removeOldViews } from "./view/view.ts";
import {
  encodeForHere,
  FILE_MODE,
  pathsOf,
  TABLE_LIMIT_BYTES,
  type Workspace,
} from "./workspace/workspace.ts";

/** All three. */
export async function writeNextGeneration(
  workspace: Workspace,
  closing: DeviceTable,
  next: DeviceTable,
): Promise<void> {
  await discardKept(workspace, closing, next);
  await stageGeneration(workspace, closing, next);
  // The history first: once the table has moved nobody knows any more what it was before.
  await keepGeneration(workspace, closing, next);
  await moveToGeneration(workspace, next);
}

/** The contents of history, table and new snapshots, durable beside their names, and the view, which nobody sees yet. */
export async function stageGeneration(
  workspace: Workspace,
  closing: DeviceTable,
  next: DeviceTable,
  limitBytes = STAGED_LIMIT_BYTES,
): Promise<void> {
  assertLocked(workspace, "the next table");
  const { storage } = workspace;
  const history = historyPath(workspace, closing.generation);
  const { mode, sizeBytes } = await lookAtTable(workspace);
  const present = await readTable(workspace);
  const { bytes, sinceWhole } = closeGeneration(workspace, { present, closing, next }, sizeBytes);
  const encode = await encodeForHere(workspace, { ...next, sinceWhole });
  const limited: NewContent = (file) => assertReadAgain(workspace, encode(file), limitBytes);
  if ((await storage.statLink(history))?.kind === "folder") await clearTheWay(storage, history);
  await settleAll([
    writeBeside(storage, history, bytes, mode, "earlier generation"),
    writeBeside(storage, pathsOf(workspace).table, limited, mode, "next table"),
    buildView(workspace, next, present),
    stageSnapshots(workspace, next, mode),
  ]);
}

/**
 * Less than what is read again: after the commit mark nothing may refuse, and the table that is written then may
 * know more of its images.
 */
const STAGED_LIMIT_BYTES = TABLE_LIMIT_BYTES / 2;

function assertReadAgain(workspace: Workspace, bytes: Uint8Array, limitBytes: number): Uint8Array {
  if (bytes.length <= limitBytes) return bytes;
  throw new ImgtxError(
    "E_REFUSED",
    `the device table would take ${bytes.length} bytes, and at most ${limitBytes} are written`,
    {
      image: pathsOf(workspace).table,
      hint: "keep some of the devices in another workspace, or shorten their chains and paths",
    },
  );
}

/** Who could read the table goes on reading it, whatever the umask of this command is. */
async function lookAtTable(
  workspace: Workspace,
): Promise<{ readonly mode: NewMode; readonly sizeBytes: number }> {
  const there = await workspace.storage.statLink(pathsOf(workspace).table);
  if (there?.kind !== "file") return { mode: FILE_MODE, sizeBytes: 0 };
  return { mode: { exact: there.mode }, sizeBytes: there.sizeBytes };
}

/** The closing generation goes into the history, and new snapshots beside it: neither counts until the table has moved. */
export async function keepGeneration(
  workspace: Workspace,
  closing: DeviceTable,
  next: DeviceTable,
): Promise<void> {
  assertLocked(workspace, "the history");
  const path = historyPath(workspace, closing.generation);
  await settleAll([
    moveOver(workspace.storage, path, "earlier generation's name"),
    keepSnapshots(workspace, next),
  ]);
}

/**
 * What was kept of a generation that is made anew goes first, for the inodes that it has: the disk may have no others.
 * None of it counts yet.
 */
async function discardKept(workspace: Workspace, closing: DeviceTable, next: DeviceTable): Promise<void> {
  assertLocked(workspace, "the history");
  await clearTheWay(workspace.storage, historyPath(workspace, closing.generation));
  await discardRecords(workspace, next);
}

/** The table moves, and the view with it. */
export async function moveToGeneration(workspace: Workspace, next: DeviceTable): Promise<void> {
  assertLocked(workspace, "the table");
  const { table } = pathsOf(workspace);
  await renameOver(workspace.storage, table);
  try {
    // Before the flush, which makes both durable: after a power cut a guest is started on what the view leads to.
    await flipView(workspace);
  } finally {
    await flushNameOf(workspace.storage, table, "next table's name");
  }
  await removeOldViews(workspace, next);
}

/** The present generation once more: what some image looks like has come to be known. */
export async function replaceTable(workspace: Workspace, table: DeviceTable): Promise<void> {
  assertLocked(workspace, "the table");
  const { storage } = workspace;
  const { mode } = await lookAtTable(workspace);
  // Of a workspace of the version before, whose history they are read from until then.
  await stageSnapshots(workspace, table, mode);
  await keepSnapshots(workspace, table);
  await replaceFile(storage, pathsOf(workspace).table, await encodeForHere(workspace, table), mode, {
    content: "renewed table",
    name: "renewed table's name",
  });
}

/** A generation of the history once more: what some image of it looks like has come to be known. */
export async function renewGeneration(workspace: Workspace, generation: DeviceTable): Promise<void> {
  assertLocked(workspace, "the history");
  const content = await encodeRenewed(workspace, generation, await readTable(workspace));
  const path = historyPath(workspace, generation.generation);
  // What waits for a disk is not written anew by each command. Whoever wrote it may have died before its name was durable.
  if (content === undefined) {
    await flushNameOf(workspace.storage, path, "renewed generation's name");
    return;
  }
  const { mode } = await lookAtTable(workspace);
  await replaceFile(workspace.storage, path, content, mode, {
    content: "renewed generation",
    name: "renewed generation's name",
  });
}

/** Takes back what the first two steps left of the generation after this one. */
export async function discardNextGeneration(workspace: Workspace, present: DeviceTable): Promise<void> {
  const { storage } = workspace;
  const history = historyPath(workspace, present.generation);
  await removeBeside(storage, history);
  await removeBeside(storage, pathsOf(workspace).table);
  if (await storage.statLink(history)) await storage.removeFile(history);
  await discardSnapshots(workspace, present);
  await discardView(workspace, present);
}
