// Makes a workspace that is a copy one of its own: `imgtx init --adopt`.
//
// Two things can be meant. A copy, or a workspace put back from a backup: its open transactions are those of the
// original, which went on with them, and they are forgotten; but one that was committed, and of which all is in the copy,
// is finished there, or what it left half done would stay so. Or the workspace itself, which came here by cp or
// tar and is nowhere else any more (`--moved`): then they are its own, and go on.
//
// Invariants
// - Nothing that a forgotten transaction speaks of is touched: no image, no overlay, no fence. Its journal is
//   kept, where nobody takes it for one.
// - The table is made anew last: cut off before, it is still a copy, and the same command goes on.

import {
  describeCopy,
  type DeviceTable,
  endMoveHere,
  isMarkedFile,
  isWorkspaceMade,
  lockAsItIs,
  readTable,
  replaceTable,
  type Workspace,
  workspaceAt,
  isNoWorkspace,
} from "../../device/index.ts";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import { summarise } from "../commit/closing.ts";
import { findGenerationMade } from "../commit/finish.ts";
import type { Storage } from "../../storage/index.ts";
import { findSuccessors, type Successors, withSuccessors } from "./copied-commit.ts";
import { givenUpPath, setAside } from "./given-up.ts";
import {
  fencesToRaise,
  Journal,
  type JournalRecord,
  type JournalSnapshot,
  liveStatements,
  type PlannedFolder,
  readJournals,
} from "../journal/index.ts";
import { OverlaySearch } from "../images/overlay-search.ts";
import { markFolders } from "../images/planned-folders.ts";
import type { Adoption, ForgottenTransaction } from "../describe/repair-results.ts";
import type { LockWait, RecoveryNote } from "../requests/request.ts";

/** E_NO_WORKSPACE where there is none; E_BUSY where a live process works on a transaction in it. */
export async function adoptWorkspace(
  storage: Storage,
  folder: string,
  how: LockWait & {
    readonly moved: boolean;
    readonly dryRun: boolean;
    readonly safeWorkspaces?: readonly string[];
  },
): Promise<Adoption> {
  const workspace = await workspaceAt(storage, folder, how.safeWorkspaces);
  if (!(await isWorkspaceMade(workspace))) {
    throw isNoWorkspace(workspace.root);
  }
  if (!how.dryRun) await endMoveHere(workspace);
  return await whileOpen(await lockAsItIs(workspace, how), async () => {
    const copy = await describeCopy(workspace);
    const journals = await readJournals(workspace);
    const strange = journals.filter((one) => copy !== undefined || one.isPutBack);
    assertNobodyWorks(strange);
    const successors =
      copy === undefined ? new Map<string, Successors>() : await findFinishable(workspace, strange);
    const isKept = ({ id }: JournalSnapshot): boolean => how.moved || successors.has(id);
    const forgotten = strange.filter((one) => !isKept(one)).map((one) => describeForgotten(workspace, one));
    const kept = strange.filter(isKept).map(({ id }) => id);
    if (!how.dryRun) {
      await takeOver(workspace, kept, successors);
      await setAside(
        workspace,
        forgotten.map(({ id }) => id),
      );
      if (copy !== undefined) await nameAnew(workspace, how.moved);
    }
    const { devices, generation } = await readTable(workspace);
    return {
      root: workspace.root,
      changed: copy !== undefined || strange.length > 0,
      generation,
      forgotten,
      kept,
      devices: await describeDevices(workspace, devices),
    };
  });
}

async function describeDevices(
  { storage, root }: Workspace,
  devices: DeviceTable["devices"],
): Promise<Adoption["devices"]> {
  const search = new OverlaySearch(storage, root);
  await search.readAround(
    [],
    devices.map(({ image }) => image),
  );
  const described: Adoption["devices"][number][] = [];
  for (const { name, image, format } of devices) {
    described.push({ device: name, image, format, overlays: await search.on(image) });
  }
  return described;
}

/** Committed transactions of a copy of which all is in it, each with the files that it has here. */
async function findFinishable(
  workspace: Workspace,
  journals: readonly JournalSnapshot[],
): Promise<Map<string, Successors>> {
  const found = new Map<string, Successors>();
  const { storage } = workspace;
  const table = await readTable(workspace);
  for (const { id, path, state } of journals) {
    if (state instanceof ImgtxError || !state.commit) continue;
    try {
      const stat = await storage.stat(path);
      const isTakenOver = stat !== undefined && (await isMarkedFile(storage, path, stat, state.begin.mark));
      const hasMoved = (await findGenerationMade(workspace, { id, path, state }, table)) !== undefined;
      const successors = await findSuccessors(workspace, state, { isTakenOver, hasMoved });
      if (successors) found.set(id, successors);
    } catch (error) {
      // What can't be read proves nothing: it is forgotten, and said to be.
      if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
    }
  }
  return found;
}

function assertNobodyWorks(journals: readonly JournalSnapshot[]): void {
  const busy = journals.find((one) => one.busy);
  if (!busy) return;
  throw new ImgtxError("E_BUSY", `a process works on transaction ${busy.id} here`, {
    image: busy.path,
    hint: "wait until it has ended: no other workspace's process can have that file open",
  });
}

function describeForgotten(workspace: Workspace, { id, state }: JournalSnapshot): ForgottenTransaction {
  const journal = givenUpPath(workspace, id);
  if (state instanceof ImgtxError) return { id, journal, what: "unreadable", committed: false, files: [] };
  const plans = liveStatements(state).map(({ plan }) => plan);
  const made = plans.flatMap(({ newFiles }) => newFiles.map(({ path }) => path));
  const changed = plans.flatMap(({ changes, redo }) =>
    [...fencesToRaise(changes), ...redo].map(({ image }) => image),
  );
  const files = [...new Set([...made, ...changed])];
  return { id, journal, what: summarise(state), committed: state.commit !== undefined, files };
}

/**
 * Writes each journal to a file of its own. The folders of the workspace are others by now: as they were marked, they
 * would be those of a disk that is not there, and nothing of them would ever be undone.
 */
async function takeOver(
  workspace: Workspace,
  ids: readonly string[],
  successors: ReadonlyMap<string, Successors>,
): Promise<void> {
  for (const id of ids) {
    const journal = await Journal.open(workspace, id, undefined, { asItIs: true });
    try {
      if (!journal) continue;
      const moved = journal.state.statements.flatMap(({ plan }) =>
        plan.folders.filter(({ path }) => isWithin(workspace.root, path)),
      );
      const marks = await markFolders(
        workspace.storage,
        moved.map(({ path }) => `${path}/any`),
      );
      const here = successors.get(id);
      await journal.takeOver((record) => (here ? withSuccessors(record, here) : withMarks(record, marks)));
    } finally {
      await journal?.close();
    }
  }
}

function withMarks(record: JournalRecord, marks: readonly PlannedFolder[]): JournalRecord {
  if (record.type !== "plan") return record;
  const folders = record.folders.map((folder) => marks.find(({ path }) => path === folder.path) ?? folder);
  return { ...record, folders };
}

function isWithin(root: string, path: string): boolean {
  return path === root || path.startsWith(`${root}/`);
}

async function nameAnew(workspace: Workspace, moved: boolean): Promise<void> {
  const table = await readTable(workspace);
  await replaceTable(workspace, moved ? table : { ...table, workspaceId: null, adopted: table.generation });
}

/** Of a workspace that was moved here, and whose move was cut off. What keeps it from ending keeps it a copy. */
export async function endMove(workspace: Workspace): Promise<RecoveryNote[]> {
  try {
    const from = await endMoveHere(workspace);
    if (from === undefined) return [];
    return [{ transaction: null, did: "finished", text: `the workspace of ${from} is here now` }];
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
    const text = `the move of the workspace to here can't be ended: ${error.message}`;
    return [{ transaction: null, did: "waiting", text }];
  }
}
