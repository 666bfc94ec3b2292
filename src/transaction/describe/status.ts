// How a workspace stands, for a look and for monitoring: its devices with who has them open, what is not finished, the
// space that is left, and the snapshots. Reads only, and takes no lock.

import { posix } from "node:path";
import { type DeviceTable, readTable } from "../../device/index.ts";
import { unlessItFails } from "../../errors/index.ts";
import { measureImageEnd } from "../../format/index.ts";
import type { FileStat, Holder, Space, Storage } from "../../storage/index.ts";
import { describeDevicesOf } from "./describe.ts";
import { listSnapshotsOf } from "./describe-snapshots.ts";
import type { RecoveryNote, Session } from "../requests/request.ts";
import type {
  DeviceDescription,
  HolderDescription,
  SnapshotDescription,
  TransactionDescription,
} from "./results.ts";

/** A file system that has images, or a block device that is one, and what they take there. */
interface SpaceDescription extends Space {
  /** The folder of the first of them; the device itself. */
  readonly folder: string;
  readonly allocatedBytes: number;
  /** So full that a snapshot may be made, and the guest that writes to it stands still. */
  readonly isLow: boolean;
}

interface SnapshotProblem {
  readonly number: number;
  readonly count: number;
  readonly text: string;
}

interface SnapshotSummary {
  readonly count: number;
  readonly newest: Pick<SnapshotDescription, "number" | "name" | "created"> | null;
  /** What of them is not what it was, a sentence each: the newest that it is said of, and of how many. */
  readonly problems: readonly SnapshotProblem[];
  /** What the latest ones came to, in a day; null: they are too few, or taken within an hour. */
  readonly bytesPerDay: number | null;
}

export interface StatusDescription {
  readonly root: string;
  readonly generation: number;
  /** ISO 8601, UTC. */
  readonly now: string;
  readonly devices: readonly DeviceDescription[];
  readonly transactions: readonly TransactionDescription[];
  /** Ids of those that are open, and that nobody has worked on for long. */
  readonly stale: readonly string[];
  readonly spaces: readonly SpaceDescription[];
  readonly snapshots: SnapshotSummary;
  readonly notes: readonly RecoveryNote[];
}

/** The given transactions are those of the session, and snapshots, where they are known already, those of the table. */
export async function describeStatus(
  session: Session,
  transactions: readonly TransactionDescription[],
  known?: readonly SnapshotDescription[],
): Promise<StatusDescription> {
  const table = await readTable(session.workspace);
  const devices = await describeDevicesOf(session, table, undefined);
  const files = await findFiles(session, devices);
  const now = new Date(session.workspace.storage.host.now()).toISOString();
  // The first takes the kernel longest.
  const [held, spaces, volumes, snapshots] = await Promise.all([
    addHolders(session, devices, files),
    measureSpaces(session.workspace.storage, files),
    measureVolumes(session.workspace.storage, growingOf(devices, files)),
    summariseSnapshots(session, table, known),
  ]);
  return {
    root: session.root,
    generation: table.generation,
    now,
    devices: held,
    transactions,
    stale: transactions.flatMap((one) => (isStale(one, now) ? [one.id] : [])),
    spaces: [...spaces, ...volumes],
    snapshots,
    notes: session.recovered,
  };
}

function imagesOf({ chain, mirror }: DeviceDescription): string[] {
  return [...chain.map(({ image }) => image), ...(mirror ? [mirror.image] : [])];
}

/** Those that are there, each once. What can't be looked at is told as its device's problem. */
async function findFiles(
  { workspace: { storage } }: Session,
  devices: readonly DeviceDescription[],
): Promise<ReadonlyMap<string, FileStat>> {
  const files = new Map<string, FileStat>();
  for (const image of new Set(devices.flatMap(imagesOf))) {
    const stat = await unlessItFails(async () => await storage.stat(image));
    if (stat) files.set(image, stat);
  }
  return files;
}

/** The devices with who has their images open, by one look at all processes. */
export async function withHolders(
  session: Session,
  devices: readonly DeviceDescription[],
): Promise<DeviceDescription[]> {
  return await addHolders(session, devices, await findFiles(session, devices));
}

async function addHolders(
  { workspace: { storage } }: Session,
  devices: readonly DeviceDescription[],
  files: ReadonlyMap<string, FileStat>,
): Promise<DeviceDescription[]> {
  const found = await storage.findAllHolders([...files.values()]);
  const holders = new Map([...files.keys()].map((image, index) => [image, found[index] ?? []] as const));
  return devices.map((device) => ({
    ...device,
    holders: imagesOf(device).flatMap((image) =>
      (holders.get(image) ?? []).map((holder) => describeHolder(image, holder)),
    ),
  }));
}

function describeHolder(image: string, { pid, program, writes }: Holder): HolderDescription {
  return { image, pid, program, role: writes === undefined ? "unknown" : writes ? "writer" : "reader" };
}

function isStale({ state, busy, started }: TransactionDescription, now: string): boolean {
  return state === "open" && !busy && isForgotten(started, now);
}

/** Whether nobody may know any more of what was begun then, and is there still. */
export function isForgotten(since: string | null, now: string): boolean {
  return since !== null && Date.parse(now) - Date.parse(since) > FORGOTTEN_MS;
}

const FORGOTTEN_MS = 24 * 3_600_000;
const LOW_SHARE = 0.05;

/** Of the file systems that the files lie on. */
export async function measureSpaces(
  storage: Storage,
  files: ReadonlyMap<string, FileStat>,
): Promise<SpaceDescription[]> {
  const byDisk = new Map<string, { folder: string; allocatedBytes: number }>();
  for (const [image, { kind, fileSystem, allocatedBytes }] of files) {
    if (kind === "device") continue;
    const disk = byDisk.get(fileSystem);
    if (disk) disk.allocatedBytes += allocatedBytes;
    else byDisk.set(fileSystem, { folder: posix.dirname(image), allocatedBytes });
  }
  const spaces: SpaceDescription[] = [];
  for (const disk of byDisk.values()) {
    const space = await unlessItFails(async () => await storage.measureSpace(disk.folder));
    if (space) spaces.push({ ...disk, ...space, isLow: space.freeBytes < space.totalBytes * LOW_SHARE });
  }
  return spaces;
}

/** What a guest's writes fill: active layers, and mirrors, in the format qcow2. */
function growingOf(
  devices: readonly DeviceDescription[],
  files: ReadonlyMap<string, FileStat>,
): ReadonlyMap<string, FileStat> {
  const growing = devices.flatMap(({ chain, mirror }) => [chain[0] ?? [], mirror ?? []].flat());
  return new Map(
    growing.flatMap(({ image, format }) => {
      const stat = files.get(image);
      return stat && format === "qcow2" ? [[image, stat] as const] : [];
    }),
  );
}

/** Of those of the qcow2 images that are block devices. What can't be read is told as its device's problem, or its own. */
export async function measureVolumes(
  storage: Storage,
  images: ReadonlyMap<string, FileStat>,
): Promise<SpaceDescription[]> {
  const volumes: SpaceDescription[] = [];
  for (const [image, { kind, sizeBytes: totalBytes }] of images) {
    if (kind !== "device") continue;
    const end = await unlessItFails(async () => await measureImageEnd(storage, image));
    if (end === undefined) continue;
    const freeBytes = Math.max(0, totalBytes - end);
    const isLow = freeBytes < totalBytes * LOW_SHARE;
    volumes.push({ folder: image, totalBytes, freeBytes, allocatedBytes: end, isLow });
  }
  return volumes;
}

/** As many of the latest as tell how fast a disk fills up. */
const LATEST = 8;
const HOUR_MS = 3_600_000;

async function summariseSnapshots(
  { workspace }: Session,
  table: DeviceTable,
  known: readonly SnapshotDescription[] | undefined,
): Promise<SnapshotSummary> {
  const all = known ?? (await listSnapshotsOf(workspace, table, {}));
  const latest = all.slice(0, LATEST);
  const [newest] = latest;
  const oldest = latest.at(-1);
  const times = [newest, oldest].map((one) => Date.parse(one?.created ?? ""));
  const spanMs = (times[0] ?? Number.NaN) - (times[1] ?? Number.NaN);
  // What the oldest keeps was written before it was taken.
  const bytes = latest
    .slice(0, -1)
    .flatMap(({ devices }) => devices.map((one) => one.allocatedSizeBytes ?? 0));
  const total = bytes.reduce((sum, size) => sum + size, 0);
  return {
    count: table.snapshots.length,
    newest: newest ? { number: newest.number, name: newest.name, created: newest.created } : null,
    problems: gatherProblems(all),
    bytesPerDay: spanMs >= HOUR_MS ? Math.round((total / spanMs) * 24 * HOUR_MS) : null,
  };
}

/** Each once: what a hundred snapshots stand on is not told a hundred times. */
function gatherProblems(snapshots: readonly SnapshotDescription[]): SnapshotProblem[] {
  const found = new Map<string, SnapshotProblem>();
  for (const { number, problem, devices } of snapshots) {
    const own = new Set([...(problem === null ? [] : [problem]), ...devices.flatMap((one) => one.problems)]);
    for (const text of own) {
      const known = found.get(text);
      found.set(text, { number: known?.number ?? number, count: (known?.count ?? 0) + 1, text });
    }
  }
  return [...found.values()];
}
