// What one command works on.

import {
  type DeviceEntry,
  type DeviceTable,
  isWorkspaceMade,
  lockWorkspace,
  makeWorkspace,
  readTable,
  withDevices,
  withGivenUp,
  withRenames,
  withSealsOf,
  type Workspace,
  type WorkspaceLock,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { RecordedReads, type StagedStorage } from "../../format/index.ts";
import {
  changesByStatement,
  givenUpBy,
  type Journal,
  type JournalSnapshot,
  type PlanRecord,
  readJournals,
  renamesOf,
} from "../journal/index.ts";
import { withCommitted } from "../commit/committed-table.ts";
import { OpenedImages } from "../images/opened-images.ts";
import type { OverlaySearch } from "../images/overlay-search.ts";
import { openStaged } from "../images/redo.ts";
import { DryRun } from "./dry-run.ts";
import type { Note } from "../notes/notes.ts";
import type { RunOptions } from "../requests/request.ts";

/** One try at work that may find no room in a volume. */
export interface Attempt {
  /** Whether it is the last one. */
  readonly isLast: boolean;
  /** Whether what failed has left all as it was: a transaction by itself that is undone, or a commit before its mark. */
  isUndone: boolean;
  /** Whether a volume was extended amid it, and all of it that was done is undone. */
  isExtended: boolean;
}

export interface Work {
  readonly workspace: Workspace;
  readonly options: RunOptions;
  /** When the command has waited as long as it may, by the host's monotonic clock. */
  readonly deadlineMs: number;
  readonly images: OpenedImages;
  /** The images as the statements of the transaction leave them. */
  readonly staged: StagedStorage;
  /** What is read of block devices for a statement, where others may write to them before it is committed. */
  readonly reads: RecordedReads | undefined;
  /** For a dry run: what its own actions do to them. */
  readonly dryRun: DryRun | undefined;
  /** The transaction's: that of a copy which was cut off, where this command goes on with it. */
  id: string;
  /** Plans of statements that had nothing to do, while there was no journal to tell them to. */
  readonly idle: PlanRecord[];
  /** The search for overlays that its statements share, and how many of them had made or changed files when it began. */
  search: { readonly overlays: OverlaySearch; readonly changesBefore: number } | undefined;
  /** Images whose change times the command has moved, and that it has looked at within the same moment. */
  readonly just: Set<string>;
  /** What was found out amid the work, to be told with the action on that device. */
  readonly found: { readonly device: string; readonly note: Note }[];
  /** Undefined until an implicit transaction has its first plan. */
  journal: Journal | undefined;
  /** The try that it is for, where a volume may be extended amid it. */
  readonly attempt: Attempt | undefined;
  /** What has to be durable before the commit mark, and that nobody has waited for yet. */
  underWay: Promise<unknown>;
}

/** The caller ends it, and closes the journal. */
export async function startWork(
  {
    workspace,
    root,
    currentFolder,
  }: { readonly workspace: Workspace; readonly root: string; readonly currentFolder: string },
  options: RunOptions,
  parts: Pick<Work, "id" | "journal" | "attempt">,
): Promise<Work> {
  const deadlineMs = workspace.storage.host.monotonicMs() + options.waitMs;
  const { storage } = workspace;
  const state = parts.journal?.state;
  const reads = state && !state.begin.implicit && !options.dryRun ? new RecordedReads() : undefined;
  const left = await openStaged(storage, state, options.dryRun ? "read" : "write", {
    observe: reads && (async (file) => await reads.observe(file)),
  });
  const dryRun = options.dryRun ? new DryRun(storage, left) : undefined;
  const staged = dryRun?.staged ?? left;
  const images = new OpenedImages(staged, { workspaceRoot: root, currentFolder });
  const rest = {
    idle: [],
    found: [],
    just: new Set<string>(),
    search: undefined,
    underWay: Promise.resolve(),
  };
  return { workspace, options, deadlineMs, staged, reads, dryRun, images, ...parts, ...rest };
}

export async function endWork({ images, staged, dryRun }: Work): Promise<void> {
  await images.close();
  await staged.close();
  await dryRun?.end();
}

/**
 * The table as it will be, with the changes of the work's transaction on top. The journals of others are read, unless
 * the caller has done so.
 */
export async function effectiveTable(
  { workspace, journal, id }: Work,
  others?: readonly JournalSnapshot[],
): Promise<DeviceTable> {
  const table = withCommitted(await readTable(workspace), others ?? (await readJournals(workspace, id)));
  if (!journal) return table;
  const { state } = journal;
  const changes = changesByStatement(state).flatMap((one) => one.changes);
  // What a statement made, the next one may have put another overlay on.
  const made = changes.flatMap(({ after }) => (after?.made === after?.image ? (after ?? []) : []));
  const known = { ...table, devices: [...table.devices, ...made.map(withActiveLayer)] };
  const changed = withSealsOf(withDevices(table, changes), known);
  const named = withRenames(changed, renamesOf(state), table.generation + 1);
  return givenUpBy(state).reduce(withGivenUp, named);
}

/** Alone: who has sealed what lies below is told by the table. */
function withActiveLayer(entry: DeviceEntry): DeviceEntry {
  return { ...entry, chain: entry.chain.slice(0, 1) };
}

/** The reports with what was found out after they were planned. */
export function withFound(plans: readonly PlanRecord[], found: Work["found"]): PlanRecord[] {
  return plans.map((plan) => ({
    ...plan,
    reports: plan.reports.map((report) => {
      const more = found.filter(({ device }) => device === report.device).map(({ note }) => note);
      return more.length === 0 ? report : { ...report, notes: [...report.notes, ...more] };
    }),
  }));
}

/** How long this command still waits. */
export function waitingOf({ workspace, options, deadlineMs }: Work): RunOptions {
  return { ...options, waitMs: Math.max(0, deadlineMs - workspace.storage.host.monotonicMs()) };
}

/** Asked before each step that can still be taken back; never after the commit mark. */
export function throwIfInterrupted(signal: AbortSignal | undefined): void {
  if (!signal?.aborted) return;
  throw signal.reason instanceof ImgtxError ? signal.reason : new ImgtxError("E_INTERRUPTED", "interrupted");
}

/** How often a workspace may go while its lock is waited for. */
const MOST_TRIES = 8;

/** One beside an image goes with its last journal, and so perhaps while this command waits for its lock. */
export async function lockMade(work: Work): Promise<WorkspaceLock> {
  const { workspace } = work;
  for (let tries = 1; ; tries += 1) {
    try {
      await makeWorkspace(workspace, new Date(workspace.storage.host.now()).toISOString());
      const lock = await lockWorkspace(workspace, waitingOf(work));
      if (!workspace.first || tries > MOST_TRIES || (await isWorkspaceMade(workspace))) return lock;
      await lock.close();
    } catch (error) {
      const isGone = workspace.first && error instanceof ImgtxError && error.code === "E_NOT_FOUND";
      if (!isGone || tries > MOST_TRIES) throw error;
    }
  }
}
