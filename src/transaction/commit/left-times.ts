// What images look like that a commit has left, once their fences are lifted: lifting moves the change time, by
// which alone a later rollback can tell that somebody wrote to one and put its time of modification back. And what those
// will look like that redo logs change then, as the records of snapshots have it, which are written before.
//
// Invariants
// - The history has a generation without these change times first, before the commit mark. Who dies in between leaves
//   them unknown, and a rollback asks.
// - Only an image that looks as the generation has it is remembered.
// - An image that a log changes when the table has moved gets the time of the commit mark, which its record has: whoever
//   writes to it afterwards moves that, and it is not taken for what the snapshot keeps. Where a command dies between the
//   last write and the time, recovery gives it that, and says so.
// - The caller holds the workspace lock.

import { type ChainEntry, type DeviceTable, renewGeneration, type Workspace } from "../../device/index.ts";
import { whileOpen } from "../../errors/index.ts";
import {
  beforeItsName,
  describeChanges,
  describeDoubt,
  digestHead,
  type Fingerprint,
  hasCoarseTimes,
  isDeviceIdentity,
  takeFingerprint,
} from "../../format/index.ts";
import { lastSeen, redoOf, type TransactionState } from "../journal/index.ts";
import { imagesCopiedInto } from "./copies.ts";
import { imagesUsed } from "./leaving.ts";
import { AS_IMAGE } from "../images/devices.ts";
import { openUnlessGone } from "../images/open-free.ts";
import { openStaged } from "../images/redo.ts";
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

/**
 * The times of modification that images get which the commit changes when the table has moved, by their paths: of what no
 * device writes to then.
 */
export function timesOfLeft(state: TransactionState, table: DeviceTable): ReadonlyMap<string, string> {
  const { commit } = state;
  if (!commit) throw new Error("what a commit leaves is changed after its mark");
  const seen = lastSeen(state);
  const kept = state.fences.flatMap((one) => (one.kept ? [one.image] : []));
  const written = table.devices.flatMap(({ image, mirror }) => [image, ...(mirror ? [mirror.image] : [])]);
  const others = new Set([...imagesUsed(table, state), ...imagesCopiedInto(state), ...kept, ...written]);
  const ms = Date.parse(commit.committed);
  return new Map(
    [...redoOf(state).values()].flatMap(({ image, modifiedNs }) => {
      const look = seen.get(image)?.fingerprint;
      if (!look || others.has(image)) return [];
      if (isDeviceIdentity(look)) return [[image, look.modifiedNs] as const];
      const { bornNs, fileSystemId = "" } = look;
      const fitting = hasCoarseTimes({ bornNs, fileSystemId }) ? ms - (ms % COARSEST_MS) : ms;
      return [[image, modifiedNs ?? String(BigInt(fitting) * NS_PER_MS)] as const];
    }),
  );
}

const NS_PER_MS = 1_000_000n;
/** FAT keeps even seconds. */
const COARSEST_MS = 2000;

/** What those of them will look like that are `kept`, while they are as before the mark. */
export async function looksOfLeft(
  { storage }: Workspace,
  state: TransactionState,
  table: DeviceTable,
  kept: ReadonlySet<string>,
): Promise<ReadonlyMap<string, Fingerprint>> {
  const times = timesOfLeft(state, table);
  const only = new Set([...times.keys()].filter((image) => kept.has(image)));
  const looks = new Map<string, Fingerprint>();
  if (only.size === 0) return looks;
  const staged = await openStaged(storage, state, "read", { only });
  return await whileOpen(staged, async () => {
    for (const { image, sizeAfter } of redoOf(state).values()) {
      const [modifiedNs, seen] = [times.get(image), lastSeen(state).get(image)?.fingerprint];
      // Of one whose disk is away the record stays as it was planned.
      const stat = only.has(image) ? await storage.stat(image) : undefined;
      if (modifiedNs === undefined || !seen || !stat || staged.logOf(stat) === undefined) continue;
      const file = await staged.openFile(image, "read", AS_IMAGE);
      const headerSha256 =
        seen.headerSha256 === null ? null : await whileOpen(file, async () => await digestHead(file));
      const sizeBytes = isDeviceIdentity(seen) ? seen.sizeBytes : sizeAfter;
      looks.set(image, beforeItsName({ ...seen, sizeBytes, modifiedNs, headerSha256 }));
    }
    return looks;
  });
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
