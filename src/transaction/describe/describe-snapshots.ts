// Snapshots as data for results: what each keeps, how large, and whether it is what it was. Reads only.

import {
  type ChainEntry,
  type DeviceTable,
  type FileBeside,
  fileBesidePath,
  filesOfEntry,
  readingSnapshots,
  readTable,
  requireDevice,
  requireSnapshot,
  type Snapshot,
  type SnapshotReads,
  type SnapshotRef,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError, unlessItFails } from "../../errors/index.ts";
import { describeStatChanges } from "../../format/index.ts";
import type { FileStat } from "../../storage/index.ts";
import type { Session } from "../requests/request.ts";
import type {
  BesideDescription,
  DeviceDescription,
  SealedDescription,
  SnapshotDescription,
} from "./results.ts";

interface Wanted {
  /** Default: all. */
  readonly device?: string | undefined;
  /** Default: as many as there are. */
  readonly count?: number | undefined;
}

/** Newest first. */
export async function listSnapshots({ workspace }: Session, wanted: Wanted): Promise<SnapshotDescription[]> {
  return await listSnapshotsOf(workspace, await readTable(workspace), wanted);
}

/** The same of a table that was read. */
export async function listSnapshotsOf(
  workspace: Workspace,
  table: DeviceTable,
  { device, count }: Wanted,
): Promise<SnapshotDescription[]> {
  const look = new Look(workspace, table);
  const found: SnapshotDescription[] = [];
  for (const { ref } of await choose(look.snapshots, table, { device, count }))
    found.push(await describeOne(look, ref));
  return found;
}

/** What they are called, newest first: no image is looked at. */
export async function nameSnapshots(
  { workspace }: Session,
  wanted: Wanted,
): Promise<Pick<SnapshotRef, "number" | "name">[]> {
  const table = await readTable(workspace);
  return (await choose(readingSnapshots(workspace, table), table, wanted)).map(({ ref }) => ref);
}

/** Those that keep a device, as far as their records can be read, newest first: no image is looked at. */
export async function listKept(
  { workspace }: Session,
  device: string,
): Promise<NonNullable<DeviceDescription["snapshots"]>> {
  const table = await readTable(workspace);
  const chosen = await choose(readingSnapshots(workspace, table), table, { device });
  return chosen.flatMap(({ ref: { number, name }, record }) =>
    record ? { number, name, created: record.created } : [],
  );
}

/** By the records alone, and by those only where a device is asked for. One that can't be read may be of any device. */
async function choose(
  snapshots: SnapshotReads,
  table: DeviceTable,
  { device, count = Infinity }: Wanted,
): Promise<{ readonly ref: SnapshotRef; readonly record: Snapshot | undefined }[]> {
  if (device !== undefined) requireDevice(table, device);
  const chosen: { readonly ref: SnapshotRef; readonly record: Snapshot | undefined }[] = [];
  for (const ref of table.snapshots.toReversed()) {
    if (chosen.length >= count) break;
    const record = device === undefined ? undefined : await unlessItFails(() => snapshots.read(ref));
    if (record?.devices.every((one) => one.device !== device) !== true) chosen.push({ ref, record });
  }
  return chosen;
}

/** The one of this name or number. */
export async function showSnapshot({ workspace }: Session, wanted: string): Promise<SnapshotDescription> {
  const table = await readTable(workspace);
  return await describeOne(new Look(workspace, table), requireSnapshot(table, wanted));
}

/** One whose record can't be read hides no other. */
async function describeOne(look: Look, ref: SnapshotRef): Promise<SnapshotDescription> {
  const { number, name } = ref;
  try {
    const snapshot = await look.snapshots.read(ref);
    const { message, created } = snapshot;
    const devices: SealedDescription[] = [];
    for (const { device } of snapshot.devices) devices.push(await describeSealed(look, snapshot, device));
    const files: BesideDescription[] = [];
    for (const one of snapshot.files ?? []) files.push(await look.atBeside(one));
    return { number, name, message, created, devices, files, problem: null };
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    return { number, name, message: null, created: null, devices: [], files: [], problem: error.message };
  }
}

async function describeSealed(look: Look, snapshot: Snapshot, device: string): Promise<SealedDescription> {
  const [own] = snapshot.devices.find((one) => one.device === device)?.chain ?? [];
  if (!own) throw new Error("a sealed device has an image");
  const { image, format } = own;
  const { found } = await look.at(own);
  const known = { device, image, format, allocatedSizeBytes: found?.allocatedBytes ?? null };
  try {
    const { depth, problems } = await look.atChain(snapshot, device);
    return { ...known, depth, intact: problems.length === 0, problems };
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    return { ...known, depth: null, intact: false, problems: [error.message] };
  }
}

interface Found {
  readonly found: FileStat | undefined;
  /** What is not as it was, a sentence each. */
  readonly problems: readonly string[];
}

interface FoundChain {
  readonly depth: number;
  readonly problems: readonly string[];
}

/** Each image once, and each chain, however many snapshots stand on it. */
class Look {
  readonly snapshots: SnapshotReads;
  readonly #workspace: Workspace;
  readonly #seen = new Map<string, Promise<Found>>();
  readonly #chains = new Map<string, FoundChain>();

  constructor(workspace: Workspace, table: DeviceTable) {
    this.snapshots = readingSnapshots(workspace, table);
    this.#workspace = workspace;
  }

  async at(entry: ChainEntry): Promise<Found> {
    const { modifiedNs, sizeBytes } = entry.fingerprint;
    const key = `${entry.image} ${modifiedNs} ${sizeBytes}`;
    const known = this.#seen.get(key) ?? this.#look(entry);
    this.#seen.set(key, known);
    return await known;
  }

  /** The whole chain of a device in a snapshot, the sealed image first. */
  async atChain(snapshot: Snapshot, device: string): Promise<FoundChain> {
    const parts: { readonly key: string; readonly chain: readonly ChainEntry[] }[] = [];
    let known: FoundChain | undefined;
    for await (const part of this.snapshots.partsOf(snapshot, device)) {
      const key = `${part.number} ${device}`;
      known = this.#chains.get(key);
      if (known) break;
      parts.push({ key, chain: part.chain });
    }
    let found = known ?? { depth: 0, problems: [] };
    for (const { key, chain } of parts.toReversed()) {
      const looks = await Promise.all(chain.map(async (entry) => (await this.at(entry)).problems));
      const problems = looks.some((one) => one.length > 0)
        ? [...looks.flat(), ...found.problems]
        : found.problems;
      found = { depth: found.depth + chain.length, problems };
      this.#chains.set(key, found);
    }
    return found;
  }

  async atBeside({ name, copy, sizeBytes, sha256 }: FileBeside): Promise<BesideDescription> {
    const { storage, root } = this.#workspace;
    const path = fileBesidePath(root, copy);
    const found = await storage.statLink(path);
    const isWhole = found?.kind === "file" && found.sizeBytes === sizeBytes;
    return {
      name,
      sizeBytes,
      sha256,
      problem: isWhole ? null : `${path} is ${found ? "not what it was" : "not there"}`,
    };
  }

  async #look(entry: ChainEntry): Promise<Found> {
    const { storage } = this.#workspace;
    const files = filesOfEntry(entry);
    const [found, ...others] = await Promise.all(files.map(async ({ image }) => await storage.stat(image)));
    const problems = files.flatMap(({ image, fingerprint }, index) => {
      const now = index === 0 ? found : others[index - 1];
      if (!now) return [`${image} is not there`];
      const changes = describeStatChanges(fingerprint, now);
      return changes.length === 0 ? [] : [`${image} has changed: ${changes.join(", ")}`];
    });
    return { found, problems };
  }
}
