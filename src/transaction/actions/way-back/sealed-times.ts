// When sealed images were changed last, where their snapshot's record does not say: it was written before the fence of an image
// that its device left was lifted, which moves the change time. The history has that time, of the generation that closed then.
//
// Invariant: a time counts only of an image that looks in all else as the record has it.

import type { ChainEntry } from "../../../device/index.ts";
import { describeChanges } from "../../../format/index.ts";
import type { PlanContext } from "../plan/action.ts";

/** A snapshot's chain, with the times that the history has of its sealed images. */
export async function withTimesLeft(
  kept: readonly ChainEntry[],
  { table, readGeneration }: Pick<PlanContext, "table" | "readGeneration">,
): Promise<readonly ChainEntry[]> {
  const chain: ChainEntry[] = [];
  for (const entry of kept) {
    const { image, sealedBy, fingerprint } = entry;
    const sealer = table.snapshots.find(({ number }) => number === sealedBy);
    if (!sealer || fingerprint.changedNs !== undefined) {
      chain.push(entry);
      continue;
    }
    const closed = await readGeneration(sealer.record - 1);
    const left = closed?.devices.flatMap((device) => device.chain).find((one) => one.image === image);
    const isKnown = left?.fingerprint.changedNs !== undefined;
    const isSame = isKnown && describeChanges(fingerprint, left.fingerprint).length === 0;
    chain.push(isSame ? { ...entry, fingerprint: left.fingerprint } : entry);
  }
  return chain;
}
