// Which images a commit moves devices away from, and which of them stay below.

import {
  type ChainEntry,
  type DeviceEntry,
  type DeviceTable,
  filesOfDevice,
  filesOfEntry,
  filesOfSnapshot,
  findDevice,
  renamed,
} from "../../device/index.ts";
import {
  filesMade,
  heldDevices,
  liveStatements,
  renamesOf,
  type TransactionState,
} from "../journal/index.ts";

/** The active layer of a device, or its data file, where the device leaves it, gets a layer on it, or is frozen at it. */
export interface LeftImage {
  readonly device: string;
  readonly image: string;
  /** Whether nothing but new overlays lies above it afterwards, and what is written to it is the device's. */
  readonly stays: boolean;
  /** Whether it is the data file of a new layer: what is written to it by its own name is marked in no bitmap. */
  readonly isInShell: boolean;
  /** Whether the device stays on it, and is frozen. */
  readonly isFrozen: boolean;
}

/** Where the transaction's devices have their active layers now that they won't have, or not write to, afterwards. */
export function imagesLeft(present: DeviceTable, next: DeviceTable, state: TransactionState): LeftImage[] {
  const made = filesMade(state);
  return heldDevices(state).flatMap((device) => {
    const before = findDevice(present, device);
    const after = findDevice(next, renamed(device, renamesOf(state)));
    const [top] = before?.chain ?? [];
    if (!before || !after || !top) return [];
    const isFrozen = before.image === after.image;
    if (isFrozen && (after.frozen === null || before.frozen !== null)) return [];
    const kept = new Set(
      belowNewLayers(after, made)
        .flatMap(filesOfEntry)
        .map(({ image }) => image),
    );
    const inShells = new Set(
      after.chain.flatMap(({ image, dataFile }) => (made.has(image) && dataFile ? [dataFile.image] : [])),
    );
    return filesOfEntry(top).map(({ image }) => {
      return { device, image, stays: kept.has(image), isInShell: inShells.has(image), isFrozen };
    });
  });
}

/**
 * The device's chain down to the first layer that the transaction has not made. What lies below that one is left: the
 * layer holds what was written over it as it was, and would be over something else.
 */
function belowNewLayers({ chain }: DeviceEntry, made: ReadonlySet<string>): readonly ChainEntry[] {
  const end = chain.findIndex(({ image }) => !made.has(image));
  return chain.slice(0, end === -1 ? undefined : end + 1);
}

/** Whether one of them has no fence that keeps guests from it until the table has moved. */
export function leavesUnfenced(left: readonly LeftImage[], state: TransactionState): boolean {
  const fenced = new Set(state.fences.map(({ image }) => image));
  return left.some(({ image, stays, isFrozen }) => !stays && !isFrozen && !fenced.has(image));
}

/** Every image of the transaction's devices and of their mirrors, as the table has them, and of what it writes of their snapshots. */
export function imagesUsed({ devices }: DeviceTable, state: TransactionState): ReadonlySet<string> {
  const held = heldDevices(state);
  const files = devices.filter(({ name }) => held.includes(name)).flatMap(filesOfDevice);
  const givesUp = liveStatements(state).flatMap(({ plan }) => plan.givesUp ?? []);
  const kept = givesUp.flatMap((one) => one.renewed ?? []).flatMap(filesOfSnapshot);
  return new Set([...files, ...kept].map(({ image }) => image));
}
