// From a request to the record that goes into the journal. Changes nothing.

import { posix } from "node:path";
import {
  assertFolder,
  assertOutsideOwnFolder,
  canonicalPathsOf,
  type DeviceTable,
  findDevice,
  findInherited,
  type HistoryReads,
  pathsOf,
  readTable,
  readingHistory,
  readingSnapshots,
  RoomForNames,
  trustedBy,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError, withPlace } from "../../errors/index.ts";
import { type Chain, type GateOptions, openImage } from "../../format/index.ts";
import type { Plan, PlanContext } from "../actions/plan/action.ts";
import { planAction } from "../actions/index.ts";
import { watchChain } from "../actions/plan/chain-entry.ts";
import {
  fencesToRaise,
  type CopyStep,
  joinCopies,
  type NewFile,
  type PlanRecord,
  readJournals,
  stagingPath,
  type WatchedImage,
  liveStatements,
} from "../journal/index.ts";
import { unfinishedAmong } from "../describe/describe.ts";
import {
  assertFitsDevices,
  assertMayBeDevice,
  assertNotBegun,
  assertSameDevices,
  isDeviceAt,
  withVolumesLetGo,
} from "../images/devices.ts";
import { activateChain } from "../images/volumes.ts";
import { OverlaySearch } from "../images/overlay-search.ts";
import { markFolders } from "../images/planned-folders.ts";
import type { ActionRequest } from "../requests/request.ts";
import type { FileStat } from "../../storage/index.ts";
import { assertMayFollow, doneBy } from "./done-before.ts";
import { assertOwnToWrite, type Shared } from "./keep-sealed.ts";
import { nameLogs } from "./name-logs.ts";
import { throwIfInterrupted, type Work } from "./work.ts";

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
  const { request, number } = statement;
  const context = contextOf(work, statement);
  const plan = await planAction(request, context);
  assertMayFollow(plan, context, work.journal?.state);
  const newFiles: NewFile[] = [];
  for (const [index, { path, copiedInto }] of plan.filesToMake.entries()) {
    // What is used up by the commit has no name in /dev, where nothing lasts.
    const isForDevice = copiedInto !== undefined && (await isDeviceAt(work.workspace.storage, path));
    const place = isForDevice ? posix.join(pathsOf(work.workspace).journals, posix.basename(path)) : path;
    const staging = stagingPath(place, work.id, number, index);
    newFiles.push({ path: copiedInto === undefined ? path : staging, staging });
  }
  const synced = plan.filesToMake.flatMap(({ path: into, copiedInto: format }, index): CopyStep[] => {
    const from = newFiles[index]?.path;
    if (format === undefined || from === undefined) return [];
    return [{ kind: "sync", from, files: [from], into, format }];
  });
  const watched = watch(plan);
  const { redo, copies, late } = await nameLogs(work, plan);
  const record: PlanRecord = {
    type: "plan",
    statement: number,
    kind: request.kind,
    devices: plan.devices,
    reports: await withVolumesLetGo(work.workspace, statement.table, withOtherNames(plan)),
    newFiles,
    changes: plan.changes,
    allowPaths: plan.allowPaths,
    watched,
    renewable: plan.renewable ?? false,
    renews: plan.renewable ? findRenewed(work, watched) : [],
    redo,
    copies: [...synced, ...copies],
    late,
    removes: plan.removes ?? [],
    ...(plan.snapshot && { snapshot: plan.snapshot }),
    ...(plan.givesUp && { givesUp: plan.givesUp }),
    ...(plan.renames && { renames: plan.renames }),
    ...(plan.standing && { standing: plan.standing }),
    currentFolder: context.gate.currentFolder,
    folders: await markFolders(work.workspace.storage, [
      ...newFiles.map(({ path }) => path),
      ...fencesToRaise(plan.changes).map(({ image }) => image),
      ...redo.map(({ image }) => image),
      ...(plan.copies ?? []).flatMap(({ into, files }) => [into, ...files]),
      ...(plan.removes ?? []),
    ]),
  };
  const made = newFiles.map(({ path }) => path);
  const { removes } = record;
  await assertFitsDevices(work.workspace.storage, { redo: plan.redo ?? [], removes, watched, made });
  const before = work.journal ? liveStatements(work.journal.state).map((one) => one.plan) : [];
  assertNotBegun(record, [...before, ...statement.earlier]);
  assertSameDevices(plan, statement.table);
  const changing = changedImages(record);
  const shared = await assertOwnToWrite(work.workspace, context.snapshots, statement.table, record, changing);
  await assertInheritedStay(record, context);
  return { plan, record: { ...record, reports: withShared(record.reports, shared) } };
}

function withShared(reports: Plan["reports"], shared: readonly Shared[]): Plan["reports"] {
  return reports.map((report, index) => {
    const own = shared.filter(({ device }) =>
      reports.some((one) => one.device === device) ? device === report.device : index === 0,
    );
    return own.length === 0
      ? report
      : { ...report, notes: [...report.notes, ...own.map(({ note }) => note)] };
  });
}

/** Reports that say it where an image is changed in place, and by other names as well. */
function withOtherNames({ reports, chains, redo = [], copies = [], late = [] }: Plan): Plan["reports"] {
  const changed = new Set([
    ...redo.map(({ link }) => link.path),
    ...copies.map(({ into }) => into),
    ...late.map(({ image }) => image),
  ]);
  if (changed.size === 0) return reports;
  const told = new Set<string>();
  return reports.map((report) => {
    const links = chains.flatMap(({ device, chain }) => (device === report.device ? chain.links : []));
    const linked = links.filter(({ path, stat }) => {
      return changed.has(path) && stat.kind === "file" && stat.names > 1 && !told.has(path);
    });
    if (linked.length === 0) return report;
    const notes = linked.map(({ path, stat }) => {
      told.add(path);
      return { code: "other names", image: path, names: stat.names } as const;
    });
    return { ...report, notes: [...report.notes, ...notes] };
  });
}

/** E_REFUSED where it would remove what the workspace, once a copy, has from its original. */
async function assertInheritedStay({ removes }: PlanRecord, context: PlanContext): Promise<void> {
  const inherited = removes.length === 0 ? NONE : await context.readInherited();
  const image = removes.find((one) => inherited.has(one));
  if (image === undefined) return;
  throw new ImgtxError(
    "E_REFUSED",
    "the workspace was copied, and the one that it was copied from may need it",
    {
      image,
      hint: "`--keep` leaves it where it is; remove it yourself where that workspace is gone",
    },
  );
}

const NONE: ReadonlySet<string> = new Set();

/** Existing images that the statement changes, now or at the commit. */
export function changedImages({ changes, redo, copies, late }: PlanRecord): ReadonlySet<string> {
  const targets = copies.map(({ into }) => into);
  return new Set([...[...fencesToRaise(changes), ...redo, ...late].map(({ image }) => image), ...targets]);
}

export function contextOf(work: Work, { table, earlier }: StatementToPlan): PlanContext {
  const { workspace, options, images } = work;
  const made = new Set(earlier.flatMap(({ newFiles }) => newFiles.map(({ path }) => path)));
  // As it is now: this statement joins it before its files are filled.
  const before = work.journal?.state;
  const statements = [...(before ? liveStatements(before) : []), ...earlier.map((plan) => ({ plan }))];
  const copiedInto = joinCopies(statements);
  // Of chains that were opened before by the device's own gate: all that any of them trusts.
  const gate = images.gateWith({ allowPaths: [...trustOfAll(table), ...options.allowPaths] });
  // A plan looks at each folder once, however many devices have their images there.
  const canonicalPathIn = canonicalPathsOf(workspace.storage);
  const statFolder = lookingOnce(workspace.storage);
  return {
    storage: work.staged,
    transaction: work.id,
    root: workspace.root,
    isRehearsal: work.dryRun !== undefined,
    table,
    statFolder,
    room: new RoomForNames(table),
    copiedInto,
    ...doneBy(statements),
    readUnfinished: async () => new Set(unfinishedAmong(await readJournals(workspace)).keys()),
    readGeneration: readingOnce(workspace),
    readInherited: inheritedOnce(workspace, table),
    snapshots: readingSnapshots(workspace, table),
    searchOverlays: () => searchAfter(work, statements),
    gate,
    gateOf: (device) => ({ ...gate, ...trustOf(table, device, options, []) }),
    async openContent(image, format) {
      const copy = copiedInto.get(image);
      return copy === undefined || copy.kind === "up"
        ? await openImage(work.staged, image, { format, gate })
        : await openImage(work.staged, copy.from, { format: "qcow2", gate });
    },
    async canonicalPath(path, device, isFree = false) {
      return await withPlace({ device }, async () => {
        const canonical = await canonicalPathIn(path);
        // What can't be made there could not be taken back from there either.
        await assertFolder({ stat: statFolder }, posix.dirname(canonical));
        assertOutsideOwnFolder(canonical);
        const isAllowed = isFree || options.allowsDevices === true;
        await assertMayBeDevice(workspace.storage, canonical, table, isAllowed);
        return canonical;
      });
    },
    async openChain(path, format, device, allowPaths = [], how) {
      throwIfInterrupted(options.signal);
      if (made.has(path)) throw wouldBeMade(device, path);
      const trust = trustOf(table, device, options, allowPaths);
      const entry = findDevice(table, device);
      if (entry && !work.dryRun) await activateChain(workspace, entry);
      const open = async (image: string, as: string | undefined): Promise<Chain> =>
        await images.openChain(image, as, device, trust, how);
      return await onNewBacking(await open(path, format), copiedInto, open);
    },
  };
}

function wouldBeMade(device: string, image: string): ImgtxError {
  return new ImgtxError(
    "E_UNSUPPORTED",
    "a dry run can't look into an image that an earlier action would make",
    { device, image, hint: "run it in a transaction without --dry-run, look, and abort the transaction" },
  );
}

/** Each folder is read once for many statements: a list of devices to add would else read all of them for each. */
function searchAfter(work: Work, statements: readonly { readonly plan: PlanRecord }[]): OverlaySearch {
  const changing = statements.filter(({ plan }) =>
    [plan.newFiles, plan.redo, plan.copies, plan.removes].some(({ length }) => length > 0),
  );
  if (work.search?.changesBefore !== changing.length) {
    const overlays = new OverlaySearch(work.staged, work.workspace.root);
    work.search = { overlays, changesBefore: changing.length };
  }
  return work.search.overlays;
}

/** The chain as it will be where one of its images is to stand on another one when all is copied up into it. */
async function onNewBacking(
  chain: Chain,
  copiedInto: PlanContext["copiedInto"],
  open: (image: string, format: string) => Promise<Chain>,
): Promise<Chain> {
  const backingOf = (path: string) => {
    const { up, late } = copiedInto.get(path) ?? {};
    return up ? up.onto : late?.backing;
  };
  const depth = chain.links.findIndex(({ path }) => backingOf(path) !== undefined);
  const link = chain.links[depth];
  const onto = link && backingOf(link.path);
  if (!link || onto === undefined || chain.links.length === 1) return chain;
  const below = onto && (await onNewBacking(await open(onto.path, onto.format), copiedInto, open));
  const [first, ...rest] = below?.links ?? [];
  const header = link.header && {
    ...link.header,
    backingFileName: onto?.name,
    backingFormat: onto?.format,
  };
  const links = [{ ...link, header }, ...(first && onto ? [{ ...first, name: onto.name }, ...rest] : [])];
  return { links: [...chain.links.slice(0, depth), ...links], close: async () => await chain.close() };
}

function lookingOnce(storage: Workspace["storage"]): PlanContext["statFolder"] {
  const folders = new Map<string, Promise<FileStat | undefined>>();
  return async (folder) => {
    const asked = folders.get(folder) ?? storage.stat(folder);
    folders.set(folder, asked);
    return await asked;
  };
}

/** Each generation once, however many devices ask. */
function readingOnce(workspace: Workspace): PlanContext["readGeneration"] {
  let history: HistoryReads | undefined;
  return async (generation) => {
    // The present one as it is, without what earlier statements have planned.
    history ??= readingHistory(workspace, await readTable(workspace));
    return await history.read(generation);
  };
}

/** Found when the first asks, by the present table and not by what earlier statements have planned. */
function inheritedOnce(workspace: Workspace, { adopted }: DeviceTable): PlanContext["readInherited"] {
  let inherited: ReturnType<PlanContext["readInherited"]> | undefined;
  return async () => {
    if (adopted === undefined) return NONE;
    inherited ??= readTable(workspace).then(async (present) => await findInherited(workspace, present));
    return await inherited;
  };
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
