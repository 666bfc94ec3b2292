// Whether a file that stands where content was to be copied into an image is that image, by what it holds: a copy on another
// disk, or the same file by an inode number that a mount has made up, has no other proof.

import { type DeviceTable, findDevice } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
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
import { assertBrief } from "./late-sync.ts";

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
  try {
    const source = await openImage(storage, now.image, { format: now.format, gate });
    try {
      const merged = await openImage(storage, overlay, { format: "qcow2", gate });
      try {
        const onProgress = progressOf(tools, `comparing ${now.name}`);
        const { kind } = await compareImages(source, merged, {
          strict: false,
          signal: undefined,
          onProgress,
        });
        return kind === "identical";
      } finally {
        await merged.close();
      }
    } finally {
      await source.close();
    }
  } catch (error) {
    // What can't be read proves nothing.
    if (error instanceof ImgtxError) return false;
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
