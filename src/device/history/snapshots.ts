// The snapshots that a table counts: found by name or number, with what they keep.

import { type ErrorCode, ImgtxError, settleAll } from "../../errors/index.ts";
import type { ChainEntry, DeviceEntry, Renamed } from "../table/device-entry.ts";
import type { DeviceTable } from "../table/device-table.ts";
import { clearTheWay } from "../workspace/in-the-way.ts";
import { type NewMode, readWholeFile, renameOver, writeBeside } from "../workspace/replace-file.ts";
import { readByNames } from "../table/renames.ts";
import {
  decodeSnapshot,
  encodeSnapshot,
  howToGoOn,
  type Snapshot,
  type SnapshotRef,
} from "../table/snapshot-record.ts";
import { pathsOf, TABLE_LIMIT_BYTES, type Workspace } from "../workspace/workspace.ts";

const FOLDER_MODE = 0o755;

const RECORD_NAME = /^\d{6,15}-(\d{1,15})\.json(?:\.new)?$/;

function recordPath(workspace: Workspace, number: number, record: number): string {
  return `${pathsOf(workspace).snapshots}/${String(number).padStart(6, "0")}-${record}.json`;
}

type ReadRecord = (number: number, record: number) => Promise<Snapshot>;

/** What it keeps still, of each device as the last record of it says. */
async function readKept(
  { number, without = [], later = [], ...first }: SnapshotRef,
  renames: readonly Renamed[] | undefined,
  readStored: ReadRecord,
): Promise<Snapshot> {
  const read: ReadRecord = async (of, record) => readByNames(await readStored(of, record), record, renames);
  const snapshot = first.unwritten ?? (await read(number, first.record));
  const kept = new Map(snapshot.devices.map((one) => [one.device, one]));
  for (const { record, unwritten, devices } of later) {
    const renewed = unwritten ?? (await read(number, record));
    for (const one of renewed.devices) if (devices.includes(one.device)) kept.set(one.device, one);
  }
  return { ...snapshot, devices: [...kept.values()].filter(({ device }) => !without.includes(device)) };
}

/** What it keeps still. E_CORRUPT or E_NOT_FOUND where its record can't be read. */
export async function readSnapshot(
  workspace: Workspace,
  { renames }: DeviceTable,
  ref: SnapshotRef,
): Promise<Snapshot> {
  return await readKept(ref, renames, async (number, record) => await readRecord(workspace, number, record));
}

/** The one of this number or name. E_NOT_FOUND, with what there is. */
export function requireSnapshot({ snapshots }: DeviceTable, wanted: string): SnapshotRef {
  const number = /^\d{1,15}$/.test(wanted) ? Number(wanted) : undefined;
  const found =
    snapshots.find((ref) => ref.name === wanted) ?? snapshots.find((ref) => ref.number === number);
  if (found) return found;
  const newest = snapshots.slice(-8).map((ref) => ref.name ?? String(ref.number));
  throw new ImgtxError("E_NOT_FOUND", `there is no snapshot '${wanted}'`, {
    hint:
      newest.length === 0
        ? "`imgtx snapshot-group --all` takes one"
        : `the newest are ${newest.toReversed().join(", ")}; \`imgtx snapshot-list\` lists all`,
  });
}

/** What the snapshots of a table keep. Errors are those of readSnapshot. */
export interface SnapshotReads {
  read(ref: SnapshotRef): Promise<Snapshot>;
  /** The whole chain of a device in one of them, the sealed image first, each image with who has sealed it. */
  chainOf(snapshot: Snapshot, device: string): Promise<readonly ChainEntry[]>;
  /** The same as each snapshot's own part of it, as its record has it: who asks stops where the rest is known. */
  partsOf(snapshot: Snapshot, device: string): AsyncIterable<ChainPart>;
}

interface ChainPart {
  readonly number: number;
  readonly chain: readonly ChainEntry[];
}

/** Reads each record once, however many chains go through it. */
export function readingSnapshots(workspace: Workspace, table: DeviceTable): SnapshotReads {
  const records = new Map<string, Promise<Snapshot>>();
  const readOnce: ReadRecord = async (number, record) => {
    const key = `${number} ${record}`;
    const known = records.get(key) ?? readRecord(workspace, number, record);
    records.set(key, known);
    return await known;
  };
  const read = async (ref: SnapshotRef): Promise<Snapshot> => await readKept(ref, table.renames, readOnce);
  return {
    read,
    chainOf: async (snapshot, device) => await joinParts(followChain(read, table, snapshot, device)),
    partsOf: (snapshot, device) => followChain(read, table, snapshot, device),
  };
}

/** What is no file is none of imgtx's. */
const GONE: ReadonlySet<ErrorCode> = new Set(["E_NOT_FOUND", "E_NOT_A_FILE"]);

async function readRecord(workspace: Workspace, number: number, record: number): Promise<Snapshot> {
  const path = recordPath(workspace, number, record);
  const bytes = await readWholeFile(workspace.storage, path, TABLE_LIMIT_BYTES).catch((error: unknown) => {
    if (!(error instanceof ImgtxError) || !GONE.has(error.code)) throw error;
    const hint = howToGoOn(path, number);
    throw new ImgtxError("E_NOT_FOUND", `the record of snapshot ${number} is gone`, {
      image: path,
      hint,
      cause: error,
    });
  });
  return decodeSnapshot(workspace.root, bytes, path, number);
}

async function* followChain(
  read: SnapshotReads["read"],
  table: DeviceTable,
  snapshot: Snapshot,
  device: string,
): AsyncIterable<ChainPart> {
  for (let at: Snapshot = snapshot; ; ) {
    const sealed = at.devices.find((one) => one.device === device);
    if (!sealed) throw lost(snapshot, at, device);
    yield { number: at.number, chain: sealed.chain };
    const { below } = sealed;
    if (below === null) return;
    const ref = table.snapshots.find((one) => one.number === below);
    if (!ref) throw lost(snapshot, at, device);
    at = await read(ref);
  }
}

async function joinParts(parts: AsyncIterable<ChainPart>): Promise<readonly ChainEntry[]> {
  const links: ChainEntry[] = [];
  for await (const { number, chain } of parts) {
    // What stands on it stores a name for it.
    const name = links.at(-1)?.name ?? null;
    links.push(...chain.map((entry, depth) => (depth === 0 ? { ...entry, name, sealedBy: number } : entry)));
  }
  return links;
}

function lost({ number }: Snapshot, at: Snapshot, device: string): ImgtxError {
  return new ImgtxError(
    "E_CORRUPT",
    `what '${device}' stood on at snapshot ${number} is not known: the record of snapshot ${at.number} leads to none`,
    { device, hint: "put `.imgtx/snapshots` back from a copy" },
  );
}

/** Records that are written, and flushed, side by side. */
const AT_ONCE = 64;

/** What no record of the table has yet, durable beside its names. The caller holds the workspace lock. */
export async function stageSnapshots(workspace: Workspace, table: DeviceTable, mode: NewMode): Promise<void> {
  const { storage, root } = workspace;
  const { snapshots, own } = pathsOf(workspace);
  const fresh = unwrittenIn(table);
  if (fresh.length > 0 && table.snapshots.every(({ unwritten }) => unwritten)) {
    // Also where it is there: whoever made it may have died before it was durable, and no record is in it yet.
    if (!(await storage.statLink(snapshots))) await storage.makeFolder(snapshots, FOLDER_MODE);
    await storage.flushFolder(own, "folder of snapshots");
  }
  for (let from = 0; from < fresh.length; from += AT_ONCE) {
    await settleAll(
      fresh.slice(from, from + AT_ONCE).map(async ({ path, snapshot }) => {
        await writeBeside(storage, path(workspace), encodeSnapshot(root, snapshot), mode, "snapshot");
      }),
    );
  }
}

/** Gives them their names, durably. They count when the table says so. */
export async function keepSnapshots(workspace: Workspace, table: DeviceTable): Promise<void> {
  const fresh = unwrittenIn(table);
  if (fresh.length === 0) return;
  for (const { path } of fresh) await renameOver(workspace.storage, path(workspace));
  await workspace.storage.flushFolder(pathsOf(workspace).snapshots, "snapshot's name");
}

/** Takes back what the two made for this table, which nobody has yet. */
export async function discardRecords(workspace: Workspace, table: DeviceTable): Promise<void> {
  for (const { path } of unwrittenIn(table)) await clearTheWay(workspace.storage, path(workspace));
}

/** Takes back what the two made of generations after this one, and the folder where it holds nothing else. */
export async function discardSnapshots(workspace: Workspace, present: DeviceTable): Promise<void> {
  const { storage } = workspace;
  const { snapshots } = pathsOf(workspace);
  if ((await storage.statLink(snapshots))?.kind !== "folder") return;
  let others = 0;
  for (const name of await storage.readFolder(snapshots)) {
    const record = RECORD_NAME.exec(name)?.[1];
    if (record === undefined || Number(record) <= present.generation) others += 1;
    else await clearTheWay(storage, `${snapshots}/${name}`);
  }
  if (others === 0) await storage.removeFolder(snapshots, { onlyEmpty: true });
}

function unwrittenIn({ snapshots }: DeviceTable) {
  return snapshots.flatMap(({ number, later = [], ...first }) =>
    [first, ...later].flatMap(({ record, unwritten }) =>
      unwritten
        ? [{ snapshot: unwritten, path: (workspace: Workspace) => recordPath(workspace, number, record) }]
        : [],
    ),
  );
}

/** The table with one more snapshot, of these devices as they were. */
export function withSnapshot(
  table: DeviceTable,
  snapshot: Omit<Snapshot, "number">,
): { readonly table: DeviceTable; readonly number: number } {
  const number = table.nextSnapshot;
  const { name } = snapshot;
  const ref: SnapshotRef = { number, name, record: table.generation, unwritten: { ...snapshot, number } };
  const sealed = new Map(snapshot.devices.map(({ device, chain: [top] }) => [device, top?.image]));
  return {
    number,
    table: {
      ...table,
      snapshots: [...table.snapshots, ref],
      nextSnapshot: number + 1,
      devices: table.devices.map((entry) => withSeal(entry, sealed.get(entry.name), number)),
    },
  };
}

/** The device's entry, with the image that it stands on marked as sealed. */
function withSeal(entry: DeviceEntry, image: string | undefined, sealedBy: number): DeviceEntry {
  if (image === undefined || entry.chain.every((one) => one.image !== image)) return entry;
  return {
    ...entry,
    chain: entry.chain.map((one, depth) => (depth > 0 && one.image === image ? { ...one, sealedBy } : one)),
  };
}
