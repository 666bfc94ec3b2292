// From a request to the record that goes into the journal. Changes nothing.

import {
  canonicalPath,
  type DeviceTable,
  findDevice,
  readGeneration,
  trustedBy,
} from "../../device/index.ts";
import { ImgtxError, withPlace } from "../../errors/index.ts";
import { type GateOptions, openImage } from "../../format/index.ts";
import type { Plan, PlanContext } from "../actions/plan/action.ts";
import { planAction } from "../actions/index.ts";
import { watchChain } from "../actions/plan/chain-entry.ts";
import {
  fencesToRaise,
  copiesOf,
  type CopyStep,
  type NewFile,
  type PlanRecord,
  readJournals,
  redoLogPath,
  stagingPath,
  type WatchedImage,
  liveStatements,
  logsOf,
} from "../journal/index.ts";
import { imagesCopiedInto } from "../commit/copies.ts";
import { unfinishedAmong } from "../describe.ts";
import { markFolders } from "../images/planned-folders.ts";
import type { ImageChange } from "../images/redo.ts";
import type { ActionRequest } from "../request.ts";
import type { Work } from "./work.ts";

export interface StatementToPlan {
  readonly table: DeviceTable;
  readonly request: ActionRequest;
  readonly number: number;
  /** The earlier statements of a dry run, which have made and changed nothing. */
  readonly earlier: readonly PlanRecord[];
}

export async function planStatement(
  work: Work,
  statement: StatementToPlan,
): Promise<{ plan: Plan; record: PlanRecord }> {
  const { request, number, earlier } = statement;
  const plan = await planAction(request, contextOf(work, statement));
  assertNotClosed(plan, [
    ...(work.journal ? liveStatements(work.journal.state) : []).map((one) => one.plan),
    ...earlier,
  ]);
  const newFiles = plan.filesToMake.map(({ path, copiedInto }, index): NewFile => {
    const staging = stagingPath(path, work.id, number, index);
    return { path: copiedInto === undefined ? path : staging, staging };
  });
  const synced = plan.filesToMake.flatMap(({ path: into, copiedInto: format }, index): CopyStep[] => {
    const from = newFiles[index]?.path;
    if (format === undefined || from === undefined) return [];
    return [{ kind: "sync", from, files: [from], into, format }];
  });
  const watched = watch(plan);
  const redo = nameLogs(work, plan.redo ?? []);
  const record: PlanRecord = {
    type: "plan",
    statement: number,
    kind: request.kind,
    devices: plan.devices,
    reports: plan.reports,
    newFiles,
    changes: plan.changes,
    allowPaths: plan.allowPaths,
    watched,
    renewable: plan.renewable ?? false,
    renews: plan.renewable ? findRenewed(work, watched) : [],
    redo,
    copies: [...synced, ...nameLateLogs(work, plan, redo.length)],
    removes: plan.removes ?? [],
    ...(plan.snapshot && { snapshot: plan.snapshot }),
    folders: await markFolders(work.workspace.storage, [
      ...newFiles.map(({ path }) => path),
      ...fencesToRaise(plan.changes).map(({ image }) => image),
      ...redo.map(({ image }) => image),
      ...(plan.copies ?? []).flatMap(({ into, files }) => [into, ...files]),
    ]),
  };
  return { plan, record };
}

/** E_REFUSED where an earlier statement copies into a device's chain: what that leaves is there only after the commit. */
function assertNotClosed({ devices }: Plan, earlier: readonly PlanRecord[]): void {
  const closing = earlier.find(
    (one) =>
      one.copies.some(({ kind }) => kind !== "sync") &&
      one.devices.some((device) => devices.includes(device)),
  );
  if (!closing) return;
  throw new ImgtxError("E_REFUSED", `the transaction has still to ${closing.kind} it, when it is committed`, {
    device: devices.find((device) => closing.devices.includes(device)) ?? "",
    hint: "commit the transaction first",
  });
}

/** Each change with its log: the one that the image has already in this transaction, else a new one. */
function nameLogs({ id, staged, journal }: Work, changes: readonly ImageChange[]): PlanRecord["redo"] {
  const taken = countLogs(journal);
  return changes.map(({ link: { path, stat }, isLast }, index) => ({
    ...(isLast && { isLast }),
    image: path,
    log: staged.logOf(stat) ?? redoLogPath(path, id, taken + index),
  }));
}

/** Those of copies, which are made after the mark: numbered as the others are. */
function nameLateLogs({ id, journal }: Work, { copies = [] }: Plan, planned: number): CopyStep[] {
  const taken = countLogs(journal) + planned;
  return copies.map(({ up, ...copy }, index) => ({
    ...copy,
    ...(up && { up: { ...up, log: redoLogPath(copy.into, id, taken + index) } }),
  }));
}

function countLogs(journal: Work["journal"]): number {
  return journal?.state.statements.flatMap(({ plan }) => logsOf(plan)).length ?? 0;
}

/** Existing images that the statement changes, now or at the commit. */
export function changedImages({ changes, redo, copies }: PlanRecord): ReadonlySet<string> {
  const targets = copies.map(({ into }) => into);
  return new Set([...[...fencesToRaise(changes), ...redo].map(({ image }) => image), ...targets]);
}

function contextOf(work: Work, { table, earlier }: StatementToPlan): PlanContext {
  const { workspace, options, images } = work;
  const made = new Set(earlier.flatMap(({ newFiles }) => newFiles.map(({ path }) => path)));
  // As it is now: this statement joins it before its files are filled.
  const before = work.journal?.state;
  const generations = new Map<number, Promise<DeviceTable | undefined>>();
  // Of chains that were opened before by the device's own gate: all that any of them trusts.
  const gate = images.gateWith([...trustOfAll(table), ...options.allowPaths]);
  return {
    storage: work.staged,
    transaction: work.id,
    root: workspace.root,
    table,
    madeHere: new Set([...made, ...(before ? liveStatements(before) : []).flatMap(pathsMade)]),
    copiedInto: new Set([
      ...(before ? imagesCopiedInto(before) : []),
      ...earlier.flatMap(({ copies }) => copies.map(({ into }) => into)),
    ]),
    readUnfinished: async () => new Set(unfinishedAmong(await readJournals(workspace)).keys()),
    async readGeneration(generation) {
      const known = generations.get(generation) ?? readGeneration(workspace, generation);
      generations.set(generation, known);
      return await known;
    },
    gate,
    async openContent(image, format) {
      const from = before && copiesOf(before).find(({ kind, into }) => into === image && kind !== "up")?.from;
      return from === undefined
        ? await openImage(work.staged, image, { format, gate })
        : await openImage(work.staged, from, { format: "qcow2", gate });
    },
    async canonicalPath(path, device) {
      return await withPlace({ device }, async () => {
        const canonical = await canonicalPath(workspace.storage, path);
        assertNotOfWorkspace(canonical);
        return canonical;
      });
    },
    async openChain(path, format, device, allowPaths = [], how) {
      if (made.has(path)) {
        throw new ImgtxError(
          "E_UNSUPPORTED",
          "a dry run can't look into an image that an earlier action would make",
          {
            device,
            image: path,
            hint: "run it in a transaction without --dry-run, look, and abort the transaction",
          },
        );
      }
      return await images.openChain(path, format, device, trustOf(table, device, options, allowPaths), how);
    },
  };
}

function pathsMade({ plan: { newFiles } }: { readonly plan: PlanRecord }): string[] {
  return newFiles.map(({ path }) => path);
}

/** For the chains of one device: the workspace's word, the command's, and the device's own. */
function trustOf(
  table: DeviceTable,
  device: string,
  options: Work["options"],
  further: readonly string[],
): Pick<GateOptions, "allowPaths" | "device"> {
  const present = findDevice(table, device);
  const allowPaths = [...table.allowPaths, ...options.allowPaths, ...further];
  return present ? { allowPaths: [...allowPaths, ...trustedBy(present)], device } : { allowPaths };
}

function trustOfAll({ allowPaths, devices }: DeviceTable): readonly string[] {
  return [...allowPaths, ...devices.flatMap((entry) => trustedBy(entry))];
}

/**
 * E_REFUSED for a path in the own folder of any workspace, `devices/…` among them: a view is taken away
 * two generations later, and a device that was named by it, or an image that was put there, is lost to it.
 */
function assertNotOfWorkspace(path: string): void {
  if (!path.split("/").includes(".imgtx")) return;
  throw new ImgtxError("E_REFUSED", "it is in a folder that imgtx keeps its own files in, and replaces", {
    image: path,
    hint: "name the image by a path of its own, not through `devices` or `.imgtx`",
  });
}

/** Images that only copies have looked at before: those count as they are now. */
function findRenewed({ journal }: Work, watched: readonly WatchedImage[]): string[] {
  const earlier = journal ? liveStatements(journal.state) : [];
  return watched.flatMap(({ image }) => {
    const users = earlier.filter(({ plan }) => plan.watched.some((one) => one.image === image));
    return users.length > 0 && users.every(({ plan }) => plan.renewable) ? [image] : [];
  });
}

function watch(plan: Plan): WatchedImage[] {
  const watched = new Map<string, WatchedImage>();
  for (const { device, chain } of plan.chains) {
    for (const one of watchChain(device, chain)) {
      if (!watched.has(one.image)) watched.set(one.image, one);
    }
  }
  return [...watched.values()];
}
