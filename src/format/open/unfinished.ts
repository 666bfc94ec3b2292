// An image that is being filled on a block device, where nothing can be made aside and get its name at the end.
//
// Invariants
// - It begins with the header of a qcow2 image that is fenced as one that is filled, whatever its own format is: nobody takes
//   it for whole, and the fence says whose it is.
// - What a raw one has in that sector comes last, when all else is durable.

import type { GuestOffset, GuestRange } from "../../units/index.ts";
import { endOf, guestOffset, rangeTo, SECTOR_BYTES } from "../../units/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import type { GateOptions } from "../chain/open-gate.ts";
import type { ImageFormat } from "../image-format.ts";
import type { Image, WritableImage } from "../image.ts";
import { isFencedHead } from "../qcow2/codec/fence.ts";
import { readHead, readOwnHeader } from "../read-header.ts";
import { RawTarget } from "../raw/raw-target.ts";
import { openForWriting } from "./open-for-writing.ts";

/** Whether the file holds such an image, of the transaction's or of any. */
export async function isUnfinishedBy(file: StorageFile, owner?: string): Promise<boolean> {
  if (!isFencedHead(await readHead(file))) return false;
  const { changer, isUnfinished } = await readOwnHeader(file, file.path, { mayLackRefcounts: true });
  return isUnfinished && (owner === undefined || changer === owner);
}

/** Opens it for writing all but that sector of a raw one. The caller closes it. */
export async function openUnfinished(
  storage: Storage,
  file: StorageFile,
  {
    format,
    virtualSizeBytes,
    gate,
  }: Pick<Image, "virtualSizeBytes"> & {
    readonly format: ImageFormat;
    readonly gate: GateOptions;
  },
): Promise<WritableImage> {
  if (format === "raw") return new HeadlessTarget(file.path, file, virtualSizeBytes);
  return await openForWriting(storage, file.path, { format, gate, file, isFenced: true, isExact: true });
}

/** Writes that sector, durably. */
export async function writeHeadLast(file: StorageFile, source: Image): Promise<void> {
  const head = new Uint8Array(Math.min(SECTOR_BYTES, source.virtualSizeBytes));
  await source.read(head, guestOffset(0));
  await file.write(head, 0);
  await file.flush("head of a filled volume");
}

class HeadlessTarget extends RawTarget {
  override async write(source: Uint8Array, offset: GuestOffset): Promise<void> {
    const skipped = Math.max(0, SECTOR_BYTES - offset);
    if (skipped < source.length) await super.write(source.subarray(skipped), guestOffset(offset + skipped));
  }

  override async writeZeroes(range: GuestRange, mayUnmap: boolean): Promise<void> {
    const rest = withoutHead(range);
    if (rest) await super.writeZeroes(rest, mayUnmap);
  }

  override async discard(range: GuestRange): Promise<void> {
    const rest = withoutHead(range);
    if (rest) await super.discard(rest);
  }
}

function withoutHead(range: GuestRange): GuestRange | undefined {
  const start = guestOffset(Math.max(SECTOR_BYTES, range.start));
  return start < endOf(range) ? rangeTo(start, endOf(range)) : undefined;
}
