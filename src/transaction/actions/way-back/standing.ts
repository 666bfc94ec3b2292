// Which snapshots there are after an undo or a redo, and what these keep: one of what a device is on right before a redo keeps
// that as it is, as the commit that is done again would. A guest may have written to it since.

import {
  type ChainEntry,
  type DeviceTable,
  filesOfSnapshot,
  type SealedDevice,
  type Snapshot,
  type SnapshotReads,
  type SnapshotRef,
  withSealsOf,
} from "../../../device/index.ts";
import { beforeItsName, type Chain } from "../../../format/index.ts";
import type { PlannedStanding } from "../../journal/index.ts";
import type { Plan, PlanContext } from "../plan/action.ts";
import { chainEntriesOf } from "../plan/chain-entry.ts";
import { findOverlays, passingDamaged, somethingStandsOnIt } from "../plan/overlays-of.ts";
import type { UndoRequest } from "../../requests/way-back-requests.ts";

interface Way {
  /** The closed generation that is gone to. */
  readonly wanted: number;
  readonly target: DeviceTable;
  readonly undone: readonly number[];
}

interface Moved {
  readonly changes: readonly Plan["changes"][number][];
  /** What devices are on, and leave, by their names. */
  readonly present: ReadonlyMap<string, Chain>;
}

/**
 * A snapshot that needs an image that a device writes to again is none any more, with those that lead to it; one that was
 * taken back comes back with it.
 */
export async function findStandingSnapshots(
  { wanted, target, undone }: Way,
  isForward: boolean,
  { changes, present }: Moved,
  { table, snapshots }: PlanContext,
): Promise<PlannedStanding> {
  const active = new Set(changes.map(({ after }) => after?.image));
  const dropped: number[] = [];
  for (const ref of table.snapshots) {
    if (target.snapshots.some(({ number }) => number === ref.number)) continue;
    const { devices } = await snapshots.read(ref);
    const isOnActive = devices.some(({ chain, below }) => {
      return chain.some(({ image }) => active.has(image)) || (below !== null && dropped.includes(below));
    });
    if (isOnActive) dropped.push(ref.number);
  }
  const known = new Set(table.snapshots.map(({ number }) => number));
  // What an undo has taken away. That it finds more than there are now: those were given up, and their images are others.
  const restored = isForward ? target.snapshots.filter(({ number }) => !known.has(number)) : [];
  const renewed = await findRenewed(restored, present, snapshots);
  const standing = { position: target.position ?? wanted, undone, dropped, restored };
  return renewed.length === 0 ? standing : { ...standing, renewed };
}

/**
 * With who has sealed their images, as far as those snapshots stand: what was given up since, of the device or as a whole,
 * leads no later snapshot to what lies below.
 */
export async function withStandingSeals(
  changes: readonly Plan["changes"][number][],
  target: DeviceTable,
  { dropped, restored }: PlannedStanding,
  { table, snapshots }: PlanContext,
): Promise<Plan["changes"]> {
  const standing = [...table.snapshots.filter(({ number }) => !dropped.includes(number)), ...restored];
  const keeps = async ({ image, sealedBy }: ChainEntry, device: string): Promise<boolean> => {
    const ref = standing.find(({ number }) => number === sealedBy);
    const { devices } = ref ? await snapshots.read(ref) : { devices: [] };
    return devices.some((one) => one.device === device && one.chain[0]?.image === image);
  };
  const sealed: Plan["changes"][number][] = [];
  for (const { device, after } of changes) {
    const [known] = after ? withSealsOf({ ...target, devices: [after] }, target).devices : [];
    const chain: ChainEntry[] = [];
    for (const one of known?.chain ?? []) {
      const { sealedBy: _sealedBy, ...bare } = one;
      chain.push(one.sealedBy === undefined || (await keeps(one, device)) ? one : bare);
    }
    sealed.push({ device, after: known ? { ...known, chain } : null });
  }
  return sealed;
}

/**
 * What they keep of single devices now, by the names that these have then. Also where nobody wrote: leaving it once more moves its
 * change time, and the history tells that by the generation of a record.
 */
async function findRenewed(
  restored: readonly SnapshotRef[],
  present: ReadonlyMap<string, Chain>,
  snapshots: SnapshotReads,
): Promise<Snapshot[]> {
  const renewed: Snapshot[] = [];
  for (const ref of restored) {
    const snapshot = await snapshots.read(ref);
    const devices = snapshot.devices.flatMap((sealed) => {
      const [top] = sealed.chain;
      const [found] = [...present].filter(([, { links }]) => links[0]?.path === top?.image);
      if (!found || !top) return [];
      const [device, chain] = found;
      const [now] = chainEntriesOf(chain);
      return now ? [{ ...renew(sealed, now, chain), device }] : [];
    });
    if (devices.length > 0) renewed.push({ ...snapshot, devices });
  }
  return renewed;
}

function renew(sealed: SealedDevice, now: ChainEntry, { links: [top] }: Chain): SealedDevice {
  const [, ...below] = sealed.chain;
  const virtualSizeBytes = top?.virtualSizeBytes ?? sealed.virtualSizeBytes;
  // Lifting its fence moves its change time.
  const fingerprint = beforeItsName(now.fingerprint);
  return { ...sealed, virtualSizeBytes, chain: [{ ...now, fingerprint, name: null }, ...below] };
}

/**
 * E_IN_USE where a device would write again to what an image stands on that no record knows, such as a clone of it. What is none
 * any more by this very step knew its own.
 */
export async function assertNoStrangers(
  kind: UndoRequest["kind"],
  changes: readonly Plan["changes"][number][],
  { dropped }: Pick<PlannedStanding, "dropped">,
  context: PlanContext,
): Promise<void> {
  const known = new Set<string>();
  for (const ref of context.table.snapshots.filter(({ number }) => dropped.includes(number)))
    for (const { image } of filesOfSnapshot(await context.snapshots.read(ref))) known.add(image);
  const images = changes.flatMap(({ after }) => after?.image ?? []);
  const { overlays, strangers } = await findOverlays(images, passingDamaged(context));
  for (const { device, after } of changes) {
    const found = (overlays.get(after?.image ?? "") ?? []).filter(
      (path) => strangers.has(path) && !known.has(path),
    );
    if (!after || found.length === 0) continue;
    const hint =
      "`imgtx rollback` goes back to a snapshot on a new overlay, and writes to none of these; " +
      `\`imgtx ${kind} --force\` writes to it all the same`;
    const what = `would show another content once the guest of '${device}' writes`;
    throw somethingStandsOnIt(found, what, hint).with({ device, image: after.image });
  }
}
