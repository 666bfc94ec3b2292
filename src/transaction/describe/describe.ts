// Devices, transactions and generations as data for results. Reads only, and takes no lock: an image that
// a guest is running on is described as well.

import {
  canonicalPathsOf,
  type DeviceEntry,
  type DeviceTable,
  findDevice,
  pathsOf,
  parseJson,
  planView,
  readTable,
  requireDevice,
  withDevices,
  type Workspace,
  gateOf,
  trustedBy,
} from "../../device/index.ts";
import { elseClosed, ImgtxError, unlessItFails, whileOpen } from "../../errors/index.ts";
import { type Chain, openChain } from "../../format/index.ts";
import { sayCutOff } from "../actions/plan/lost-device.ts";
import { isPending, measureBehind } from "../actions/plan/mirror-scope.ts";
import {
  areReports,
  type BeginRecord,
  heldDevices,
  type JournalSnapshot,
  liveStatements,
  type PlannedReport,
  type PlanRecord,
  readJournals,
  parkedAmong,
} from "../journal/index.ts";
import { sayNote } from "../notes/notes.ts";
import { isFromHere } from "./origin.ts";
import { judgeDevice, type Seen } from "./device-state.ts";
import type { ActionReport, Obstacle, RecoveryNote, Session } from "../requests/request.ts";
import type { DeviceDescription, MirrorStanding, Outcome, TransactionDescription } from "./results.ts";

/** One whose journal can't be read is told by what is left of that. */
export function describeTransaction(
  { storage }: Workspace,
  { id, state, busy, held }: Pick<JournalSnapshot, "id" | "state" | "busy"> & Partial<JournalSnapshot>,
  obstacle: Obstacle | undefined,
): TransactionDescription {
  const problem = obstacle === undefined ? null : `${obstacle.why}; ${obstacle.hint}`;
  if (state instanceof ImgtxError) {
    const nobody = { name: null, started: null, user: null, here: null, owned: false };
    const nothing = { ...nobody, onError: "keep" as const, actions: [], savepoints: [] };
    const told = state.code === "E_NO_PERMISSION" ? "hidden" : "damaged";
    return { id, state: told, devices: held ?? [], busy, ...nothing, problem: problem ?? state.message };
  }
  const { begin, commit, savepoints, aborting } = state;
  return {
    id,
    name: begin.name,
    state: commit ? "committed" : aborting ? "aborted" : "open",
    started: begin.started,
    user: sayUser(begin),
    here: isFromHere(begin, storage.host),
    owned: begin.owned,
    onError: begin.onError,
    devices: heldDevices(state),
    actions: liveStatements(state).flatMap(({ plan }) => plan.reports.map(sayReport)),
    savepoints: savepoints.map(({ name }) => name),
    busy,
    problem,
  };
}

/** As whom it was begun, and who had logged in where that is somebody else: `root (alice)`. */
function sayUser({ user, origin }: Pick<BeginRecord, "user" | "origin">): string {
  const login = origin?.loginUser ?? user;
  return login === user ? user : `${user} (${login})`;
}

/** The devices of the present generation, all or the named ones. E_NO_DEVICE for a name that is not there. */
export async function describeDevices(
  session: Session,
  names: readonly string[] | undefined,
): Promise<{ generation: number; devices: DeviceDescription[] }> {
  const table = await readTable(session.workspace);
  return { generation: table.generation, devices: await describeDevicesOf(session, table, names) };
}

/** The same of a table that was read. */
export async function describeDevicesOf(
  session: Session,
  table: DeviceTable,
  names: readonly string[] | undefined,
): Promise<DeviceDescription[]> {
  const { workspace, currentFolder } = session;
  const entries = names?.map((name) => requireDevice(table, name)) ?? table.devices;
  const journals = await readJournals(workspace);
  const scene = setScene(workspace, table, holdersAmong(journals));
  const unfinished = unfinishedAmong(journals);
  const devices: DeviceDescription[] = [];
  for (const entry of entries) {
    const unfinishedCopy = unfinished.get(entry.name) ?? null;
    const described = await describeAsItIs(scene, entry, { currentFolder, notes: session.recovered });
    devices.push({ ...described, unfinishedCopy });
  }
  return devices;
}

/** Of the present generation, all of them: no image is looked at. */
export async function listDeviceNames({ workspace }: Session): Promise<string[]> {
  return (await readTable(workspace)).devices.map(({ name }) => name);
}

/** The unfinished copy of each device that has one. */
export function unfinishedAmong(
  journals: readonly JournalSnapshot[],
): ReadonlyMap<string, NonNullable<DeviceDescription["unfinishedCopy"]>> {
  const copies = parkedAmong(journals).flatMap(({ plan, marks }) =>
    plan.reports.flatMap(({ device, files: [file] }) =>
      device === null || !file
        ? []
        : [[device, { image: file.path, copiedBytes: marks.get(file.path) ?? 0 }] as const],
    ),
  );
  return new Map(copies);
}

export interface OutcomeParts extends Pick<Outcome, "changed" | "dryRun" | "pending" | "kept"> {
  /** Null for a dry run that joined none. */
  readonly transaction: string | null;
  /** The one that was joined, or that stays open, as its journal says. */
  readonly joined?: BeginRecord | undefined;
  /** The plans are taken back: the devices stay what they are without them. */
  readonly undoes?: true;
  readonly plans: readonly PlanRecord[];
  /** The table after the command. For a dry run and a pending transaction the plans go on top of it. */
  readonly table: DeviceTable;
}

/** Reads nothing after a command that changed something: what it did stands, and must be told. */
export async function describeOutcome(workspace: Workspace, parts: OutcomeParts): Promise<Outcome> {
  const { plans, changed, dryRun, transaction, pending, joined, kept } = parts;
  const changes = plans.flatMap((plan) => plan.changes);
  const isAhead = (dryRun || pending) && parts.undoes !== true;
  const table = isAhead ? withDevices(parts.table, changes) : parts.table;
  const touched = [...new Set(plans.flatMap((plan) => plan.devices))].sort();
  const holder = pending ? transaction : null;
  const holders = dryRun
    ? holdersAmong(await readJournals(workspace))
    : new Map(touched.flatMap((device) => (holder === null ? [] : [[device, holder] as const])));
  const scene = setScene(workspace, table, holders);
  const devices = touched.flatMap((name) => {
    const entry = findDevice(table, name);
    return entry ? [describeAsRecorded(scene, entry)] : [];
  });
  const actions = plans
    .flatMap(({ reports }) => reports.map(sayReport))
    .map((report) => withViewNote(report, scene));
  const label = joined ? { name: joined.name, started: joined.started } : null;
  const { generation } = parts.table;
  const snapshots = parts.table.snapshots
    .filter(({ record }) => record === generation && parts.table.transaction === transaction && !pending)
    .map(({ number, name }) => ({ number, name }));
  return {
    changed,
    dryRun,
    transaction,
    joined: label,
    pending,
    generation,
    snapshots,
    actions,
    devices,
    kept,
  };
}

/** The outcome of a commit once more, for whoever asks for the same by its id: nothing is done. */
export async function describeApplied(
  workspace: Workspace,
  table: DeviceTable,
  {
    transaction,
    generation,
    committed,
    once,
  }: Pick<DeviceTable, "transaction" | "generation" | "committed" | "once">,
  dryRun: boolean,
): Promise<Outcome> {
  const reports = parseJson(once?.result ?? "[]");
  if (!areReports(reports)) {
    throw new ImgtxError(
      "E_CORRUPT",
      `what generation ${generation} says of its own commit is none of imgtx's`,
    );
  }
  const scene = setScene(workspace, table, new Map());
  const touched = [...new Set(reports.flatMap(({ device }) => device ?? []))].sort();
  const entries = touched.flatMap((name) => findDevice(table, name) ?? []);
  return {
    changed: false,
    dryRun,
    transaction,
    joined: null,
    pending: false,
    generation,
    snapshots: table.snapshots
      .filter(({ record }) => record === generation)
      .map(({ number, name }) => ({ number, name })),
    actions: reports.map(sayReport),
    devices: entries.map((entry) => describeAsRecorded(scene, entry)),
    kept: [],
    applied: committed,
  };
}

/** What describing devices needs to know beside the device itself. */
interface Scene {
  readonly workspace: Workspace;
  readonly table: DeviceTable;
  /** Device name to the id of the open transaction that holds it. */
  readonly holders: ReadonlyMap<string, string>;
  /** Devices that the view leaves out, with the reason as a clause. */
  readonly omitted: ReadonlyMap<string, string>;
}

function setScene(workspace: Workspace, table: DeviceTable, holders: Scene["holders"]): Scene {
  const omitted = new Map(planView(table).omitted.map(({ device, why }) => [device, why]));
  return { workspace, table, holders, omitted };
}

function holdersAmong(journals: readonly JournalSnapshot[]): Scene["holders"] {
  const holders = new Map<string, string>();
  for (const { id, state } of journals) {
    if (state instanceof ImgtxError) continue;
    for (const device of heldDevices(state)) holders.set(device, id);
  }
  return holders;
}

function sayReport(report: PlannedReport): ActionReport {
  const { notes } = report;
  const copied = notes.flatMap((note) => (note.code === "copied" ? note.lengthBytes : []));
  const rotted = notes.flatMap((note) =>
    note.code === "mended" && !note.isExpected ? note.lengthBytes : [],
  );
  const snapshotsGivenUp = notes.flatMap((note) =>
    note.code === "snapshot given up" ? { number: note.number, name: note.name } : [],
  );
  const layersMerged = notes.flatMap((note): ActionReport["layersMerged"] => {
    if (note.code !== "merged up" && note.code !== "merged down") return [];
    const direction = note.code === "merged up" ? "up" : "down";
    return [{ into: note.image, direction, lengthBytes: note.lengthBytes }];
  });
  return {
    ...report,
    snapshotsGivenUp,
    layersMerged,
    notes: notes.map((note) => sayNote(note)),
    copiedBytes: copied.length === 0 ? null : copied.reduce((sum, bytes) => sum + bytes),
    rottedBytes: rotted[0] ?? null,
  };
}

/** Says so where `devices` can't show a device, whose chain needs a name that means another file there. */
function withViewNote(report: ActionReport, { omitted }: Scene): ActionReport {
  const why = report.device === null ? undefined : omitted.get(report.device);
  if (why === undefined) return report;
  const note = `devices/${report.device} is left out: ${why}; open ${report.after} by its own path`;
  return { ...report, notes: [...report.notes, note] };
}

/** From the table alone: right after a command, which has just looked at the images. */
function describeAsRecorded({ workspace, holders, omitted }: Scene, entry: DeviceEntry): DeviceDescription {
  return {
    name: entry.name,
    image: entry.image,
    format: entry.format,
    virtualSizeBytes: entry.virtualSizeBytes,
    chain: entry.chain.map(({ image, format }) => ({ image, format })),
    frozen: entry.frozen !== null,
    frozenSince: entry.frozen?.since ?? null,
    frozenBy: entry.frozen?.by ?? null,
    fences: entry.frozen?.fences.map(({ image }) => image) ?? [],
    mirror: entry.mirror && {
      image: entry.mirror.image,
      format: entry.mirror.format,
      sync: entry.mirror.sync,
      syncedAt: isPending(entry.mirror) ? null : (entry.mirror.syncedAt ?? null),
    },
    ...(entry.provision && { provision: entry.provision }),
    view: omitted.has(entry.name) ? null : `${pathsOf(workspace).devices}/${entry.name}`,
    transaction: holders.get(entry.name) ?? null,
    problem: null,
    state: "ok",
    problems: [],
  };
}

/** From the images, as they are at this moment; what can't be opened is shown as the table has it. */
async function describeAsItIs(
  scene: Scene,
  entry: DeviceEntry,
  { currentFolder, notes }: { readonly currentFolder: string; readonly notes: readonly RecoveryNote[] },
): Promise<DeviceDescription> {
  const recorded = describeAsRecorded(scene, entry);
  const isHeld = scene.holders.has(entry.name);
  const judge = (seen: Omit<Seen, "isHeld">) => judgeDevice(entry, scene.table, notes, { ...seen, isHeld });
  let top: Top;
  try {
    top = await lookAtTop(scene, entry, currentFolder);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    const text = sayFailure(error);
    return {
      ...recorded,
      virtualSizeBytes: null,
      problem: text,
      ...judge({ fences: [], cutOff: undefined, failure: { error, text }, mirror: undefined }),
    };
  }
  const { standing: mirror, cutOff, ...seen } = top;
  return {
    ...recorded,
    ...seen,
    mirror: recorded.mirror && mirror ? { ...recorded.mirror, standing: mirror } : recorded.mirror,
    ...judge({ fences: top.fences, cutOff, failure: undefined, mirror }),
  };
}

function sayFailure(error: ImgtxError): string {
  const isNamed = error.image === undefined || error.message.includes(error.image);
  return isNamed ? error.message : `${error.image}: ${error.message}`;
}

interface Top extends Pick<DeviceDescription, "virtualSizeBytes" | "chain" | "fences">, Pick<Seen, "cutOff"> {
  readonly standing: MirrorStanding | undefined;
}

async function lookAtTop(scene: Scene, entry: DeviceEntry, currentFolder: string): Promise<Top> {
  return await whileOpen(await openCanonical(scene, entry, entry, currentFolder), async (chain) => {
    return {
      cutOff: await sayCutOff(chain, entry.chain),
      virtualSizeBytes: chain.links[0]?.virtualSizeBytes ?? null,
      chain: await Promise.all(
        chain.links.map(async ({ path, format, virtualSizeBytes, stat, dataFile }) => {
          const data = await dataFile?.file.stat();
          const allocatedBytes = stat.allocatedBytes + (data?.allocatedBytes ?? 0);
          return { image: path, format, virtualSizeBytes, allocatedBytes };
        }),
      ),
      fences: chain.links.flatMap(({ path, header }) => (header?.isFenced === true ? [path] : [])),
      standing: await lookAtMirror(scene, entry, { present: chain, currentFolder }),
    };
  });
}

/** Undefined for a device that has none. */
async function lookAtMirror(
  scene: Scene,
  entry: DeviceEntry,
  { present, currentFolder }: { readonly present: Chain; readonly currentFolder: string },
): Promise<MirrorStanding | undefined> {
  const { mirror } = entry;
  if (!mirror) return undefined;
  let copy: Chain;
  try {
    copy = await openCanonical(scene, mirror, entry, currentFolder);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    return { behindBytes: null, problem: sayFailure(error), isMissing: error.code === "E_NOT_FOUND" };
  }
  try {
    // Null: only comparing tells; also where the device's tables can't be read, which its guest may be writing.
    const behindBytes = (await unlessItFails(() => measureBehind(mirror, { present, copy }))) ?? null;
    return { behindBytes, problem: null, isMissing: false };
  } finally {
    await copy.close();
  }
}

/** With its images by the names that the table has: one image has one name, whatever `..` it was reached by. */
async function openCanonical(
  { workspace, table }: Scene,
  { image, format }: Pick<DeviceEntry, "image" | "format">,
  entry: DeviceEntry,
  currentFolder: string,
): Promise<Chain> {
  const { storage } = workspace;
  const allowPaths = [...table.allowPaths, ...trustedBy(entry)];
  const gate = gateOf(workspace, { allowPaths, currentFolder, device: entry.name });
  const canonical = canonicalPathsOf(storage);
  return await elseClosed(await openChain(storage, image, { format, gate }), async (chain) => {
    const links = chain.links.map(async (link) => ({ ...link, path: await canonical(link.path) }));
    return { ...chain, links: await Promise.all(links) };
  });
}
