// What images look like that a commit has left, once their fences are lifted: lifting moves the change time, by
// which alone a later rollback can tell that somebody wrote to one and put its time of modification back.
//
// Invariants
// - The history has a generation without these change times first, before the commit mark. Who dies in between leaves
//   them unknown, and a rollback asks.
// - Only an image that looks as the generation has it is remembered.
// - The caller holds the workspace lock.

import { type ChainEntry, type DeviceTable, renewGeneration, type Workspace } from "../../device/index.ts";
import { describeChanges, describeDoubt, type Fingerprint, takeFingerprint } from "../../format/index.ts";
import type { TransactionState } from "../journal/index.ts";
import { openUnlessGone } from "../images/open-free.ts";
import type { KeptFile } from "../requests/request.ts";

/**
 * The closing generation once more, with the change times of the images whose fences the commit has lifted, and with
 * those that it has changed as they were left. Unsure: images of which nobody can tell what they are since.
 */
export async function rememberLeft(
  workspace: Workspace,
  state: TransactionState,
  closing: DeviceTable,
  redone: ReadonlyMap<string, Fingerprint>,
  unsure: readonly KeptFile[],
): Promise<void> {
  const lifted = new Set(state.fences.map(({ image }) => image));
  for (const { path } of unsure) lifted.delete(path);
  const looks = new Map<string, Fingerprint>();
  for (const { image, fingerprint } of closing.devices.flatMap(({ chain }) => chain)) {
    if (redone.has(image) || !lifted.has(image) || fingerprint.changedNs !== undefined) continue;
    const now = await lookAt(workspace, image, fingerprint);
    if (now) looks.set(image, now);
  }
  const renewed = closing.devices.map((device) => ({
    ...device,
    chain: device.chain.map((entry) => {
      const fingerprint = redone.get(entry.image);
      return fingerprint ? { ...entry, fingerprint } : withTimes(entry, looks.get(entry.image));
    }),
  }));
  if (looks.size + redone.size > 0) await renewGeneration(workspace, { ...closing, devices: renewed });
}

function withTimes(entry: ChainEntry, now: Fingerprint | undefined): ChainEntry {
  const { fingerprint } = entry;
  if (fingerprint.changedNs !== undefined || now?.changedNs === undefined) return entry;
  if (describeChanges(fingerprint, now).length > 0) return entry;
  // After another start of the host, or another mount, its times say nothing of what was written meanwhile.
  const before = { ...fingerprint, changedNs: now.changedNs, settled: true };
  if (describeDoubt(before, now) !== undefined) return entry;
  return { ...entry, fingerprint: now };
}

/** Undefined where it is not there. */
export async function lookAt(
  { storage }: Workspace,
  image: string,
  { headerSha256 }: Fingerprint,
): Promise<Fingerprint | undefined> {
  const file = await openUnlessGone(storage, image);
  if (!file) return undefined;
  try {
    return await takeFingerprint(file, headerSha256 !== null);
  } finally {
    await file.close();
  }
}
