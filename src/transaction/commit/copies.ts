// Copy steps: content of an image that is there already, which the commit copies down into it from the layers above,
// after its mark and with the workspace free. So a mirror is brought in sync, by an overlay that a statement made; and
// so images of a chain are merged into one below them.
//
// Invariants
// - Before the commit mark the image is only read, and what it takes is known to fit its disk.
// - From before the mark on the image has a fence, where its format has a place for one: nobody opens what is copied by
//   halves. It comes down when all is durable. Where none can be, what is found otherwise than planned was begun to be
//   written to, or somebody else wrote to it: nothing tells the two apart but content (copy-target.ts).
// - What is copied does not depend on what the image holds by then: the journal says how far all was durable, and
//   recovery goes on from there, as often as it takes. It does so only where the source is what it was.
// - An image that a device of the new table is on gets its content before the table moves. One that is only a mirror
//   waits until it has moved, so that no device waits for it. Until then the table takes the mirror for one that
//   somebody has written to; and so it stays where recovery has to give it up. What a mirror would lose by a merge comes
//   before the table all the same: it is gone by then.
// - What is merged hides what is below it: whoever reads through the chain sees no change, however far it has come. It
//   counts as done when the journal says so, durably, before the fence comes down: what was merged goes then.
// - Whatever the order of the statements, redo logs come first, then all copies, then what is made of them (`late`), then
//   what points to them (`isLast`). What this order would not do as it was asked is refused (engine/plan.ts).
// - Layers that are merged, and what is pulled, are read as the transaction leaves them, through their logs; those that go,
//   or that their device leaves, are not changed by then.
//   One that is emptied is read without its log, which comes when the table has moved: all is durable below it then.
// - What the transaction made for it goes when the table has moved, durably, and before the journal that knows its name.

import type { DeviceTable, Workspace } from "../../device/index.ts";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import {
  beforeItsName,
  copyLayers,
  copyUp,
  type Fingerprint,
  type GateOptions,
  type HowToCopyLayers,
  isFileFenced,
  isSameFile,
  type LayersToCopy,
  lookAtFiles,
  tidyCutOff,
} from "../../format/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import { MARK_EVERY_MS, progressOf } from "../actions/plan/action.ts";
import {
  changeWhenCopied,
  copyUpOf,
  isLateLogMade,
  isUp,
  lateLogOf,
  liftCopied,
  waitsForCopies,
} from "./change-header.ts";
import { openedBy, openSources } from "./copy-space.ts";
import {
  type HowToJudge,
  isOfDevice,
  type Judged,
  judgeSource,
  judgeTarget,
  openCopyTarget,
  UNTOLD,
} from "./copy-target.ts";
import {
  ALL_COPIED,
  type Copy,
  copiesOf,
  filesRemoved,
  type Journal,
  lastSeen,
  NOT_MADE_YET,
  type TransactionState,
} from "../journal/index.ts";
import { AS_IMAGE } from "../images/devices.ts";
import { runFill } from "../images/fill-volume.ts";
import { openHeld, openIfFree } from "../images/open-free.ts";
import type { RunOptions } from "../requests/request.ts";
import { foldersOf, isDiskThere } from "../images/planned-folders.ts";
import { plannedGate } from "../images/planned-gate.ts";
import { removeFinished } from "../images/removal.ts";

/** How much there is to copy, at most: what the sources take on the disk. */
export async function measureCopies(storage: Storage, state: TransactionState): Promise<number> {
  const files = copiesOf(state).flatMap((copy) => (copy.copiedBytes === ALL_COPIED ? [] : copy.sources));
  const sources = await Promise.all(files.map(async (file) => await storage.statLink(file)));
  return sources.reduce((sum, stat) => sum + (stat?.allocatedBytes ?? 0), 0);
}

/** Images that get new content after the commit mark. */
export function imagesCopiedInto(state: TransactionState): ReadonlySet<string> {
  return new Set(copiesOf(state).map(({ into }) => into));
}

/** Those of them that may have a fence meanwhile. What is filled has one from its first byte on. */
export function targetsToFence(state: TransactionState): string[] {
  return copiesOf(state).flatMap(({ kind, into, format }) =>
    format === "qcow2" && kind !== "fill" ? [into] : [],
  );
}

/** Those that show by themselves a part of what comes into them meanwhile, with how many layers that is of: a mirror of one. */
export function imagesMergedInto(state: TransactionState): ReadonlyMap<string, number> {
  const merges = copiesOf(state).filter(({ kind }) => kind === "merge" || kind === "sync");
  return new Map(
    merges.map(({ kind, into, sources }) => [into, kind === "merge" ? new Set(sources).size : 1]),
  );
}

const LATE: ReadonlySet<string> = new Set(["sync", "fill"]);

/**
 * Images to sync that the table, as the transaction makes it, names as a device's own mirror and nowhere else. What such a
 * one would miss on another backing image is not there any more when the table has moved.
 */
export function imagesCopiedLate(state: TransactionState, table: DeviceTable): ReadonlySet<string> {
  const named = table.devices.flatMap(({ chain, mirror }) =>
    [...chain, ...(mirror?.chain ?? []), ...(mirror?.source ?? [])].map(({ image }) => image),
  );
  const tops = table.devices.map(({ mirror }) => mirror?.image);
  const isLate = (image: string): boolean =>
    tops.includes(image) && named.filter((one) => one === image).length === 1;
  const synced = copiesOf(state).flatMap(({ kind, into }) => (LATE.has(kind) ? [into] : []));
  return new Set(synced.filter(isLate));
}

/** What the table has of a mirror that is still to be copied into: no image ever looks so. */
export const NOT_COPIED_YET = NOT_MADE_YET;

/** Whether the table waits for content to come into the image: else it knows what that has made of it. */
export function isCopyPending(table: DeviceTable, image: string): boolean {
  return table.devices.some(({ mirror }) => {
    const [top] = mirror?.chain ?? [];
    return top?.image === image && isSameFile(top.fingerprint, NOT_COPIED_YET);
  });
}

interface CopyChoice extends HowToJudge {
  readonly throttle?: RunOptions["throttle"];
  /** How long a copy goes on before the journal is told how far it is. */
  readonly markEveryMs?: number | undefined;
  readonly onNotice?: ((line: string) => void) | undefined;
}

/** Copies what is due into its images, durably. Returns the fingerprints that they then have. */
export async function runCopies(
  workspace: Workspace,
  journal: Journal,
  how: CopyChoice,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const { state } = journal;
  const isLate = how.when === "after it";
  const late = imagesCopiedLate(state, how.table);
  const looks = new Map<string, Fingerprint>();
  const isDue = ({ into }: Copy) => (isLate ? isCopyPending(how.table, into) : !late.has(into));
  const run = async (copy: Copy, isLast: boolean): Promise<void> => {
    const { into } = copy;
    try {
      const found = await runCopy(workspace, journal, copy, { ...how, isLast });
      for (const [path, look] of found ?? []) looks.set(path, look);
      if (found) return;
      how.onNotice?.(`${into} could not be brought in sync`);
      // What is to stand on it waits for it.
      if (copy.kind === "fill" && !isLate) looks.set(into, NOT_COPIED_YET);
    } catch (error) {
      // The command itself has to say so. Recovery must not hold up everybody for a copy that is none any more.
      if (!isLate || how.isLocked || !isUnfit(error)) throw error;
      how.onNotice?.(`${into} could not be brought in sync`);
    }
  };
  for (const copy of copiesOf(state).filter(isDue)) await run(copy, !waitsForCopies(copy));
  for (const copy of copiesOf(journal.state).filter(isDue)) if (waitsForCopies(copy)) await run(copy, true);
  return looks;
}

/** isLast: whether nothing is to be copied any more that its header waits for. */
type HowToCopy = CopyChoice & { readonly isLast: boolean };

const UNFIT_CODES = new Set(["E_CORRUPT", "E_REFUSED", "E_UNSUPPORTED", "E_OUTSIDE"]);

/** Whether somebody has made another image of it since the plan was made, into which nothing can be copied. */
function isUnfit(error: unknown): boolean {
  return error instanceof ImgtxError && UNFIT_CODES.has(error.code);
}

/** Undefined where the image, or what was to come into it, is not what it was, and nothing needs it. */
async function runCopy(
  workspace: Workspace,
  journal: Journal,
  copy: Copy,
  how: HowToCopy,
): Promise<ReadonlyMap<string, Fingerprint> | undefined> {
  if (copy.kind === "fill") return await runFill(workspace, journal, copy, how);
  const { storage } = workspace;
  const { state } = journal;
  const { table } = how;
  // What is up already needs no source any more.
  const isAllUp = isUp(copy) && copy.copiedBytes === ALL_COPIED;
  const source = isAllUp ? "as planned" : await judgeSource(storage, state, copy, how);
  if (source === "unfit") return undefined;
  if (source === "written" && isLateLogMade(state, copy)) throw isWrittenLate(copy);
  const file = await openCopyTarget(storage, state, { copy, table });
  if (!file) return undefined;
  const plan = state.statements[copy.statement]?.plan;
  const gate = plannedGate(workspace, state, { plan, allowPaths: table.allowPaths });
  try {
    const due = source === "written" ? { ...copy, copiedBytes: 0 } : copy;
    const found = await judgeTarget(storage, state, { copy: due, file }, { ...how, gate });
    if (found === "another") return undefined;
    if (found === "let go") await renewLift(storage, state, copy);
    else {
      if (source === "written" && copy.format === "qcow2") {
        how.onNotice?.(`bitmaps of ${copy.into} count no more: what is merged into it was written to`);
      }
      if (copy.late?.snapshot && found === "touched") {
        how.onNotice?.(`${copy.into}: ${UNTOLD}; its internal snapshot would hold that too`);
      }
      const isHeld = !isUp(due) || isAllUp || how.isLocked;
      const held = isHeld ? [] : await openHeld(storage, due.sources, how.waiting);
      try {
        await copyInto(
          workspace,
          journal,
          { copy: due, file, found, gate, isWritten: source === "written" },
          how,
        );
      } finally {
        for (const one of held) await one.close();
      }
    }
    const looks = await lookAtFiles(storage, { path: copy.into, format: copy.format }, gate);
    // Nobody knows whether a mirror of the device lacks what was written meanwhile.
    const isUnfenced = state.fences.every(({ image }) => image !== copy.into);
    const isDoubtful = source === "written" || (copy.kind === "up" && isUnfenced && found !== "as planned");
    const isKnown = found === "as planned" || found === "fenced" || isOfDevice(table, copy.into);
    if (isKnown && !isDoubtful) return looks;
    if (!isKnown)
      how.onNotice?.(
        `${copy.into} is compared from end to end when it is synced next: it was being synced, and ${UNTOLD}`,
      );
    // What it looks like without its change time leaves a doubt.
    return new Map([...looks].map(([path, look]) => [path, beforeItsName(look)]));
  } finally {
    await file.close();
  }
}

/** What is read from it, and what follows from that, is decided by then. */
function isWrittenLate({ sources: [from], into }: Copy): ImgtxError {
  return new ImgtxError("E_CHANGED", `somebody wrote to it after it was copied into '${into}'`, {
    ...(from !== undefined && { image: from }),
    hint: "find out who wrote to it; what stands there was left as it is",
  });
}

interface Copying {
  readonly copy: Copy;
  readonly file: StorageFile;
  readonly found: Judged;
  readonly gate: GateOptions;
  /** Whether somebody wrote to what is copied since its bitmaps were planned. */
  readonly isWritten: boolean;
}

async function copyInto(
  workspace: Workspace,
  journal: Journal,
  { copy, file, found, gate, isWritten }: Copying,
  { markEveryMs = MARK_EVERY_MS, onProgress, throttle, onNotice, isLast }: HowToCopy,
): Promise<void> {
  const { storage } = workspace;
  const { kind, from, into, format, copiedBytes, statement } = copy;
  if (isLateLogMade(journal.state, copy)) {
    await changeWhenCopied(workspace, journal, copy, { onNotice });
    return;
  }
  const isFenced = format === "qcow2" && (await isFileFenced(file));
  const isCutOff = found === "fenced" || found === "touched";
  // What was written meanwhile is in no bitmap, and neither is what a mirror gets.
  const keepsBitmaps = kind !== "sync" && !isWritten;
  if (isCutOff && format === "qcow2") {
    await tidyCutOff(storage, file, { gate, signal: undefined, isFenced, keepsBitmaps });
  }
  const { host } = storage;
  let told = host.monotonicMs();
  const layers = {
    from,
    into: { path: into, format, isFenced, keepsBitmaps: kind === "merge" && !isWritten },
  };
  const how: HowToCopyLayers = {
    gate,
    signal: undefined,
    throttle,
    startBytes: isCutOff ? copiedBytes : 0,
    onProgress: progressOf({ onProgress }, `copying into ${into}`),
    progress: {
      isDue: () => host.monotonicMs() - told >= markEveryMs,
      async keep(offset) {
        await keepProgress(journal, { statement, path: into, offset });
        told = host.monotonicMs();
      },
    },
  };
  if (!isUp(copy) || copiedBytes !== ALL_COPIED) {
    await copyContent(workspace, journal.state, copy, { layers, how });
  }
  if ((kind !== "sync" || lateLogOf(copy) !== undefined) && copiedBytes !== ALL_COPIED) {
    await journal.append({ type: "copied", statement, path: into, offset: ALL_COPIED }, "all copied");
  }
  if (lateLogOf(copy) !== undefined) {
    if (isLast) await changeWhenCopied(workspace, journal, copy, { onNotice });
    return;
  }
  if (!isFenced) return;
  await whileOpen(await storage.openFile(into, "write", AS_IMAGE), async (fenced) => {
    await liftCopied(fenced, into, journal.state);
  });
}

/** The layers as the transaction would leave them, but for one that it empties. Those that go are not changed any more. */
async function copyContent(
  { storage }: Workspace,
  state: TransactionState,
  copy: Copy,
  { layers, how }: { readonly layers: LayersToCopy; readonly how: HowToCopyLayers },
): Promise<void> {
  await whileOpen(await openSources(storage, state, copy), async (sources) => {
    const from = { ...how, above: sources, goes: filesRemoved(state).has(copy.from) };
    if (isUp(copy)) {
      await copyUp(openedBy(copy, storage, sources), copyUpOf(copy, layers.into.isFenced), from);
    } else await copyLayers(storage, layers, from);
  });
}

/** What can't be kept costs the time to copy it again after a crash, and nothing else: so the copy goes on. */
async function keepProgress(
  journal: Journal,
  { statement, path, offset }: { readonly statement: number; readonly path: string; readonly offset: number },
): Promise<void> {
  try {
    await journal.append({ type: "copied", statement, path, offset }, "copied");
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
  }
}

/** Whoever lifted the fence died before that was known to be durable. */
async function renewLift(storage: Storage, state: TransactionState, { into, format }: Copy): Promise<void> {
  if (format !== "qcow2") return;
  const file = await openIfFree(storage, into);
  try {
    if (file) await liftCopied(file, into, state);
  } finally {
    await file?.close();
  }
}

/** Lifts the fences of images that the table names no more: nobody will copy into them. */
export async function leaveCopies(
  { storage }: Workspace,
  state: TransactionState,
  table: DeviceTable,
): Promise<void> {
  const seen = lastSeen(state);
  for (const copy of copiesOf(state)) {
    const { into, kind } = copy;
    // Without its fence what was filled in part would pass for whole.
    if (kind === "fill") continue;
    const isNamed = table.devices.some(({ mirror }) => mirror?.image === into) || isOfDevice(table, into);
    const expected = seen.get(into)?.fingerprint;
    const stat = await storage.stat(into);
    if (!isNamed && stat && expected && isSameFile(expected, stat)) await renewLift(storage, state, copy);
  }
}

/** Overlays that nobody will know of any more when the transaction has ended: the disk that they are on is not there. */
export async function findOverlaysAway({ storage }: Workspace, state: TransactionState): Promise<string[]> {
  const left: string[] = [];
  for (const overlay of overlaysOf(state)) {
    // One that is seen is removed, also from a folder that was copied to another disk.
    if (await storage.statLink(overlay)) continue;
    if (!(await isDiskThere(storage, overlay, foldersOf(state)))) left.push(overlay);
  }
  return left;
}

/** Files that are merged into images below them. */
export function filesMerged(state: TransactionState): ReadonlySet<string> {
  return new Set(copiesOf(state).flatMap(({ kind, sources }) => (kind === "merge" ? sources : [])));
}

/** The table has moved: what was copied is not needed any more. */
export async function removeCopiedOverlays({ storage }: Workspace, state: TransactionState): Promise<void> {
  await removeFinished(storage, overlaysOf(state), "copied overlay gone");
}

/** What the transaction made for its copies, and nobody else has. */
function overlaysOf(state: TransactionState): string[] {
  return state.statements.flatMap(({ plan, undone }) =>
    undone ? [] : plan.newFiles.flatMap(({ path, staging }) => (path === staging ? [path] : [])),
  );
}
