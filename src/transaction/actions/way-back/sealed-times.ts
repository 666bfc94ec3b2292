// When sealed images were changed last, where their snapshot's record does not say: it was written before the fence of an image
// that its device left was lifted, which moves the change time. The history has that time, of the generation that closed then.
//
// Invariant: a time counts only of an image that looks in all else as the record has it.

import type { ChainEntry, SnapshotRef } from "../../../device/index.ts";
import { describeChanges } from "../../../format/index.ts";
import type { PlanContext } from "../plan/action.ts";

/** A snapshot's chain, with the times that the history has of its sealed images. */
export async function withTimesLeft(
  kept: readonly ChainEntry[],
  { table, readGeneration }: Pick<PlanContext, "table" | "readGeneration">,
): Promise<readonly ChainEntry[]> {
  const chain: ChainEntry[] = [];
  for (const entry of kept) {
    const { sealedBy, fingerprint } = entry;
    const sealer = table.snapshots.find(({ number }) => number === sealedBy);
    if (!sealer || fingerprint.changedNs !== undefined) {
      chain.push(entry);
      continue;
    }
    const left = await lookLeft(entry, sealer, readGeneration);
    chain.push(left ? { ...entry, fingerprint: left } : entry);
  }
  return chain;
}

/** As it was left last: a redo leaves once more what an undo went back to, and has a record for that. */
async function lookLeft(
  { image, fingerprint }: ChainEntry,
  { record, later = [] }: SnapshotRef,
  readGeneration: PlanContext["readGeneration"],
): Promise<ChainEntry["fingerprint"] | undefined> {
  for (const each of [record, ...later.map((one) => one.record)].toReversed()) {
    const closed = await readGeneration(each - 1);
    const left = closed?.devices.flatMap((device) => device.chain).find((one) => one.image === image);
    if (left?.fingerprint.changedNs === undefined) continue;
    if (describeChanges(fingerprint, left.fingerprint).length === 0) return left.fingerprint;
  }
  return undefined;
}
