// Snapshots whose records can't be read: what the present chains, else the history, tell of what they have sealed. Enough to
// take them away, and to have those that stand on them know what they stand on.
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
  { number, name, record, without = [] }: SnapshotRef,
  { table, readGeneration }: Pick<PlanContext, "table" | "readGeneration">,
): Promise<Snapshot> {
  const then = record === table.generation ? undefined : await readGeneration(record).catch(orNothing);
  const snapshot = { number, name, message: null, created: table.committed };
  const before = { ...snapshot, devices: then ? sealedIn(then, number, table) : [] };
  const earlier = readByNames(before, record, table.renames).devices;
  // The present last: what has been merged since is in its chains alone.
  const found = new Map([...earlier, ...sealedIn(table, number, table)].map((one) => [one.device, one]));
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
