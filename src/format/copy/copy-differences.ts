// Has an existing image hold what another one holds, by reading both: only what differs is written.
//
// Invariant: it may be cut off at any instant and begun again. What was written by then does not differ any more. A fence
// that is up stays.

import { ImgtxError } from "../../errors/index.ts";
import type { Storage } from "../../storage/index.ts";
import { CHANGE_UNIT_BYTES, COPY_OF_CHANGES } from "./changes-overlay.ts";
import { copyImages } from "./copy.ts";
import { lookAtFiles, openTarget, type PlaceToCopyTo } from "./copy-layers.ts";
import { type DifferenceOptions, findDifferences } from "./find-differences.ts";
import type { Fingerprint } from "../fingerprint.ts";
import type { Image } from "../image.ts";
import { MaskedImage } from "../read/masked-image.ts";
import type { GateOptions } from "../chain/open-gate.ts";

export interface Differences {
  /** In guest bytes, of whole units: none where the two were equal, and nothing was written. */
  readonly lengthBytes: number;
  /** What the image's file, and its data file where it has one, look like afterwards. */
  readonly looks: ReadonlyMap<string, Fingerprint>;
}

export interface CopyDifferencesOptions extends Pick<DifferenceOptions, "onProgress"> {
  readonly gate: GateOptions;
  /** Called where they differ, before anything is written: may throw. */
  readonly onDiffer?: (() => Promise<void>) | undefined;
}

/** Durable when it returns. The caller holds the locks of both. E_REFUSED where their sizes differ. */
export async function copyDifferences(
  storage: Storage,
  source: Image,
  image: PlaceToCopyTo,
  { gate, onProgress, onDiffer }: CopyDifferencesOptions,
): Promise<Differences> {
  const target = await openTarget(storage, image, gate);
  let lengthBytes = 0;
  try {
    if (target.virtualSizeBytes !== source.virtualSizeBytes) throw haveOtherSizes(source, target);
    const ranges = await findDifferences(source, target, { unitBytes: CHANGE_UNIT_BYTES, onProgress });
    lengthBytes = ranges.reduce((sum, range) => sum + range.lengthBytes, 0);
    if (lengthBytes > 0) {
      await onDiffer?.();
      await copyImages([new MaskedImage(source, ranges)], target, {
        ...COPY_OF_CHANGES,
        clusterBytes: undefined,
        backingBytes: source.virtualSizeBytes,
      });
    }
    // Also where nothing differed: it may have been written by one that was cut off before its flush.
    await target.flush("differences copied");
  } finally {
    await target.close();
  }
  return { lengthBytes, looks: await lookAtFiles(storage, image, gate) };
}

function haveOtherSizes(source: Image, target: Image): ImgtxError {
  return new ImgtxError(
    "E_REFUSED",
    `it has ${target.virtualSizeBytes} bytes, and ${source.path} has ${source.virtualSizeBytes} by now`,
    { image: target.path, hint: "give both one size" },
  );
}
