// Snapshots whose records can't be read: what the present chains, else those of the history, tell of what they have sealed,
// the newest first. Enough to take them away, and to have those that stand on them know what they stand on.
//
// Invariant: nothing is guessed. What neither tells is missing, and the record's own error stands.

import {
  type DeviceTable,
  readByNames,
  sealDevice,
  type SealedDevice,
  type Snapshot,
  type SnapshotReads,
  type SnapshotRef,
} from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import type { PlanContext } from "../plan/action.ts";

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
  return { ...snapshot, devices: [...found.values()].filter(({ device }) => !without.includes(device)) };
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
    const chain = entry.chain.slice(depth).map((one, at) => {
      const { sealedBy, ...bare } = one;
      return at === 0 || sealedBy === undefined || !standing.has(sealedBy) ? bare : one;
    });
    const [top] = chain;
    const made = top?.isMade === true ? { made: top.image } : {};
    const { made: _made, ...rest } = entry;
    return top ? [sealDevice({ ...rest, ...made, image: top.image, format: top.format, chain })] : [];
  });
}
