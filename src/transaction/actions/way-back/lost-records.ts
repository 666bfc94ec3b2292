// Snapshots whose records can't be read: what the present chains, else those of the history, tell of what they have sealed,
// the newest first; else what the commit that took it has left. Enough to take them away, and to have those that stand on them
// know what they stand on.
//
// Invariant: nothing is guessed. What neither tells is missing, and the record's own error stands.

import {
  type ChainEntry,
  type DeviceTable,
  findDevice,
  readByNames,
  sealDevice,
  type SealedDevice,
  type Snapshot,
  type SnapshotReads,
  type SnapshotRef,
} from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import type { PlanContext } from "../plan/action.ts";
import type { ActionKind } from "../../requests/request.ts";

/** The same reads, where these snapshots are made up of what else is known when their records can't be read. */
export function despiteLostRecords(
  numbers: ReadonlySet<number>,
  context: Pick<PlanContext, "table" | "snapshots" | "readGeneration">,
): SnapshotReads {
  const { snapshots } = context;
  return {
    ...snapshots,
    async read(ref) {
      try {
        return await snapshots.read(ref);
      } catch (error) {
        if (!numbers.has(ref.number) || !(error instanceof ImgtxError) || !LOST.has(error.code)) throw error;
        const rebuilt = await rebuild(ref, context);
        if (rebuilt.devices.length === 0) throw error;
        return rebuilt;
      }
    },
  };
}

const LOST: ReadonlySet<string> = new Set(["E_CORRUPT", "E_NOT_FOUND"]);

async function rebuild(
  { number, name, record, without = [], later = [] }: SnapshotRef,
  { table, readGeneration }: Pick<PlanContext, "table" | "readGeneration">,
): Promise<Snapshot> {
  const snapshot = { number, name, message: null, created: table.committed };
  const found = new Map(sealedIn(table, number, table).map((one) => [one.device, one]));
  // Before its images changed their places they were others.
  const standsSince = (device: string): number =>
    Math.max(...later.flatMap((one) => (one.devices.includes(device) ? one.record : [])), record);
  // The newest first, in which the device stood on it: it may be on another branch by now.
  for (let generation = table.generation - 1; generation >= record; generation -= 1) {
    const then = await readGeneration(generation).catch(orNothing);
    const sealed = then ? sealedIn(then, number, table) : [];
    for (const one of readByNames({ ...snapshot, devices: sealed }, generation, table.renames).devices)
      if (!found.has(one.device) && generation >= standsSince(one.device)) found.set(one.device, one);
  }
  for (const one of await leftBy({ number, record }, table, readGeneration))
    if (!found.has(one.device) && record >= standsSince(one.device)) found.set(one.device, one);
  return { ...snapshot, devices: [...found.values()].filter(({ device }) => !without.includes(device)) };
}

/**
 * What devices were on right before the commit, of one that took this snapshot and none beside: where no device came back to
 * what it keeps, no chain has that below another layer.
 */
async function leftBy(
  { number, record }: Pick<SnapshotRef, "number" | "record">,
  table: DeviceTable,
  readGeneration: PlanContext["readGeneration"],
): Promise<readonly SealedDevice[]> {
  const isNow = record === table.generation;
  const after = isNow ? table : await readGeneration(record).catch(orNothing);
  const before = await readGeneration(record - 1).catch(orNothing);
  const actions = after?.operation?.actions ?? [];
  const [taking, ...others] = actions.filter(({ kind }) => SEALING.has(kind));
  if (!before || !after || !taking || others.length > 0) return [];
  const alone = taking.devices.filter(
    (device) => actions.filter(({ devices }) => devices.includes(device)).length === 1,
  );
  const left = before.devices.filter(({ name, image }) => {
    const then = findDevice(after, name);
    return alone.includes(name) && then !== undefined && then.image !== image;
  });
  const standing = new Set(table.snapshots.map((ref) => ref.number));
  const devices = left.map((entry) => sealDevice({ ...entry, chain: withStanding(entry.chain, standing) }));
  const snapshot = { number, name: null, message: null, created: table.committed, devices };
  return readByNames(snapshot, record, table.renames).devices;
}

/** Actions that take a snapshot of what their devices were on. */
const SEALING: ReadonlySet<string> = new Set<ActionKind>(["snapshot", "snapshot-group", "rollback"]);

/** Without seals of snapshots that have gone since. */
function withStanding(chain: readonly ChainEntry[], standing: ReadonlySet<number>): readonly ChainEntry[] {
  return chain.map((one, at) => {
    const { sealedBy, ...bare } = one;
    return at === 0 || sealedBy === undefined || !standing.has(sealedBy) ? bare : one;
  });
}

function orNothing(error: unknown): undefined {
  if (error instanceof ImgtxError && error.code === "E_CORRUPT") return undefined;
  throw error;
}

function sealedIn(known: DeviceTable, number: number, { snapshots }: DeviceTable): SealedDevice[] {
  const standing = new Set(snapshots.map((ref) => ref.number));
  return known.devices.flatMap((entry) => {
    const depth = entry.chain.findIndex(({ sealedBy }, at) => at > 0 && sealedBy === number);
    if (depth === -1) return [];
    const chain = withStanding(entry.chain.slice(depth), standing);
    const [top] = chain;
    const made = top?.isMade === true ? { made: top.image } : {};
    const { made: _made, ...rest } = entry;
    return top ? [sealDevice({ ...rest, ...made, image: top.image, format: top.format, chain })] : [];
  });
}
