// Whether a file that stands where content was to be copied into an image is that image, by what it holds: a copy on another
// disk, or the same file by an inode number that a mount has made up, has no other proof.

import { type DeviceEntry, type DeviceTable, findDevice } from "../../device/index.ts";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import {
  compareImages,
  describeChanges,
  describeDoubt,
  type Fingerprint,
  fingerprintAt,
  type GateOptions,
  openImage,
  takeFingerprint,
} from "../../format/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import { type FillTools, progressOf } from "../actions/plan/action.ts";
import { assertBrief, assertRemovalBrief } from "./late-sync.ts";

interface PendingCopy {
  readonly image: string;
  /** What is to be copied; it stands on the image. */
  readonly overlay: string;
  /** As the transaction makes it. */
  readonly table: DeviceTable;
  /** As it is. */
  readonly present: DeviceTable;
}

/**
 * A device that goes over to its mirror keeps its content. So where the overlay on top of the file reads as the device
 * does now, byte by byte, the file lacks nothing, however far a copy had come.
 */
export async function isProvedByContent(
  storage: Storage,
  gate: GateOptions,
  { image, overlay, table, present }: PendingCopy,
  tools: Pick<FillTools, "onProgress"> & { readonly isBrief?: boolean | undefined },
): Promise<boolean> {
  const device = table.devices.find(({ chain }) => chain.some((entry) => entry.image === image));
  const now = device && findDevice(present, device.name);
  if (!now) return false;
  if (tools.isBrief === true) await assertBrief(storage, now, image);
  const what = `comparing ${now.name}`;
  return (
    (await showTheSame(storage, gate, [now, { image: overlay, format: "qcow2" }], { ...tools, what })) ===
    true
  );
}

type Shown = Pick<DeviceEntry, "image" | "format">;

/**
 * Whether the image that a device has left shows what the device does: merged, or copied to another folder. A guest that has
 * written to either since then makes a difference. Undefined where one can't be read.
 */
export async function showsTheDevice(
  storage: Storage,
  gate: GateOptions,
  { left, device }: { readonly left: Shown; readonly device: Shown },
  tools: Pick<FillTools, "onProgress"> & { readonly isBrief: boolean | undefined },
): Promise<boolean | undefined> {
  if (tools.isBrief === true) await assertRemovalBrief(storage, left.image, device.image);
  return await showTheSame(storage, gate, [left, device], { ...tools, what: `comparing ${left.image}` });
}

async function showTheSame(
  storage: Storage,
  gate: GateOptions,
  [one, other]: readonly [Shown, Shown],
  { onProgress, what }: Pick<FillTools, "onProgress"> & { readonly what: string },
): Promise<boolean | undefined> {
  const open = async ({ image, format }: Shown) => await openImage(storage, image, { format, gate });
  const how = { strict: false, signal: undefined, onProgress: progressOf({ onProgress }, what) };
  try {
    return await whileOpen(
      await open(one),
      async (first) =>
        await whileOpen(await open(other), async (second) => {
          const { kind } = await compareImages(first, second, how);
          return kind === "identical";
        }),
    );
  } catch (error) {
    // What can't be read proves nothing.
    if (error instanceof ImgtxError) return undefined;
    throw error;
  }
}

interface TouchedImage {
  readonly image: string;
  readonly file: StorageFile;
  readonly dataFile: string | undefined;
  readonly seen: ReadonlyMap<string, { readonly fingerprint: Fingerprint }>;
}

/** Whether the image, or its data file, is not as the transaction saw it last, or may not be. */
export async function mayBeTouched(
  storage: Storage,
  { image, file, dataFile, seen }: TouchedImage,
): Promise<boolean> {
  const expected = seen.get(image)?.fingerprint;
  if (!expected || isOther(expected, await takeFingerprint(file, expected.headerSha256 !== null)))
    return true;
  if (dataFile === undefined) return false;
  const before = seen.get(dataFile)?.fingerprint;
  const now = await fingerprintAt(storage, dataFile, undefined);
  return !before || !now || isOther(before, now);
}

function isOther(before: Fingerprint, now: Fingerprint): boolean {
  return describeChanges(before, now).length > 0 || describeDoubt(before, now) !== undefined;
}
