// Reading what can be read of a damaged image: a sector that can't be read becomes zeros, and is told of.

import { ImgtxError } from "../../errors/index.ts";
import { alignUp, type GuestOffset, offsetBy, SECTOR_BYTES } from "../../units/index.ts";
import type { Image } from "../image.ts";

export interface Salvage {
  /** Told of each sector that was lost, with its guest offset. */
  onLost(offset: GuestOffset, error: ImgtxError): void;
}

/** Fills target in any case. A failed read is repeated in halves, down to one sector. */
export async function readSalvaging(
  image: Image,
  target: Uint8Array,
  offset: GuestOffset,
  salvage: Salvage,
): Promise<void> {
  try {
    await image.read(target, offset);
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
    if (target.length <= SECTOR_BYTES) {
      target.fill(0);
      salvage.onLost(offset, error);
      return;
    }
    const half = alignUp(target.length / 2, SECTOR_BYTES);
    await readSalvaging(image, target.subarray(0, half), offset, salvage);
    await readSalvaging(image, target.subarray(half), offsetBy(offset, half), salvage);
  }
}
