// The table as it goes into the history when a commit supersedes it: what a rollback must find again.

import type { ChainEntry, DeviceEntry, DeviceTable, FenceEntry } from "../../device/index.ts";
import { beforeItsName, describeChanges, type Fingerprint } from "../../format/index.ts";
import { changesOf, liveStatements, type TransactionState, type WatchedImage } from "../journal/index.ts";

/**
 * The present table as it goes into the history: the chains that the transaction leaves carry the
 * fingerprints that they had last, since that is what a rollback must find again. redone: what the transaction has
 * changed in place. written: what others have written to since the mark.
 */
export function closingTable(
  table: DeviceTable,
  state: TransactionState,
  redone: ReadonlyMap<string, Fingerprint> = new Map(),
  written: ReadonlyMap<string, Fingerprint> = new Map(),
): DeviceTable {
  const last = new Map<string, WatchedImage>();
  for (const { plan } of liveStatements(state)) {
    for (const watched of plan.watched) {
      if (!last.has(watched.image) || plan.renews.includes(watched.image)) last.set(watched.image, watched);
    }
  }
  const changed = [...written, ...withoutFences(redone, state)];
  for (const [image, fingerprint] of changed) last.set(image, { device: null, image, fingerprint });
  const left = new Set(changesOf(state).map((change) => change.device));
  const fenced = new Set(state.fences.map(({ image }) => image));
  return {
    ...table,
    devices: table.devices.map((device) =>
      left.has(device.name)
        ? {
            ...device,
            chain: device.chain.map((entry) => ({
              ...entry,
              fingerprint: keptFingerprint(
                device,
                entry,
                last.get(entry.image)?.fingerprint ?? entry.fingerprint,
                fenced.has(entry.image),
              ),
              dataFile: entry.dataFile && {
                ...entry.dataFile,
                fingerprint: last.get(entry.dataFile.image)?.fingerprint ?? entry.dataFile.fingerprint,
              },
            })),
          }
        : device,
    ),
  };
}

/**
 * What of an image goes into the history. Of one that is fenced for the device, and that nobody wrote to since:
 * what it is without its fence, since a rollback finds it when the fence has been lifted.
 */
function keptFingerprint(
  device: DeviceEntry,
  entry: ChainEntry,
  last: Fingerprint,
  isLeftFenced: boolean,
): Fingerprint {
  const fence = device.frozen?.fences.find(({ image }) => image === entry.image);
  if (fence && describeChanges(entry.fingerprint, last).length === 0) {
    return unfenced(last, fence);
  }
  // A fence that is up until the table has moved is lifted with the time put back, which moves the change time.
  return isLeftFenced ? beforeItsName(last) : last;
}

/** What a fenced image looks like once its fence is lifted. */
function unfenced(
  look: Fingerprint,
  { modifiedNs, unfencedSha256 }: Pick<FenceEntry, "modifiedNs" | "unfencedSha256">,
): Fingerprint {
  return { ...beforeItsName(look), modifiedNs, headerSha256: unfencedSha256 };
}

/** What a rollback finds of them, once the fences are lifted that they keep. */
function withoutFences(
  looks: ReadonlyMap<string, Fingerprint>,
  { fences }: TransactionState,
): ReadonlyMap<string, Fingerprint> {
  const kept = new Map(fences.map((fence) => [fence.image, fence]));
  return new Map(
    [...looks].map(([image, look]) => {
      const fence = kept.get(image);
      if (!fence?.kept) return [image, look];
      const { unfencedSha256 } = fence.kept;
      return [image, unfenced(look, { unfencedSha256, modifiedNs: fence.modifiedNs ?? look.modifiedNs })];
    }),
  );
}
