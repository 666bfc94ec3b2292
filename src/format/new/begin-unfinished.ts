// Begins an image that is filled in place: empty, and with a fence from its first byte on. See open/unfinished.ts.

import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import { SECTOR_BYTES } from "../../units/index.ts";
import { COMPATIBLE_BIT } from "../qcow2/codec/features.ts";
import { FENCE_ROOM_BYTES, planFence } from "../qcow2/codec/fence.ts";
import { SegmentWriter } from "../qcow2/layout/segment-writer.ts";
import { encodeTables } from "../qcow2/layout/write-new-image.ts";
import { readOwnHeader } from "../read-header.ts";
import { type ImagePlan, planImage, type Qcow2ImagePlan, writeImage } from "./create.ts";

/** What stands at the head of a raw disk until all else is there: smaller than any volume. */
const PLACEHOLDER = { virtualSizeBytes: 4096, options: { clusterSizeBytes: 4096 } } as const;

/** Writes the image over what the file has. owner: the transaction that goes on with it. Flushes nothing. */
export async function beginUnfinished(file: StorageFile, plan: ImagePlan, owner: string): Promise<void> {
  const begun = plan.format === "raw" ? await planPlaceholder() : plan;
  const header = fencedHeader(file.path, begun, owner);
  await writeImage({ file }, begun);
  await file.write(header, 0);
}

/** What its first sector is until all else of a raw one is there. */
export async function beginningOfRaw(image: string, owner: string): Promise<Uint8Array> {
  const sector = new Uint8Array(SECTOR_BYTES);
  sector.set(fencedHeader(image, await planPlaceholder(), owner).subarray(0, SECTOR_BYTES));
  return sector;
}

async function planPlaceholder(): Promise<Qcow2ImagePlan> {
  const plan = await planImage({ format: "qcow2", ...PLACEHOLDER });
  if (plan.format !== "qcow2") throw new Error("a qcow2 image was planned");
  return plan;
}

/**
 * Empties an unfinished image of qcow2, durably, whatever a fill that was cut off, or failed, has left in it. All that counts
 * of it is its header, which has its fence all the time.
 */
export async function emptyUnfinished(file: StorageFile, owner: string): Promise<void> {
  const present = await readOwnHeader(file, file.path, { mayLackRefcounts: true });
  const plan = await planImage({
    format: "qcow2",
    virtualSizeBytes: present.size,
    options: {
      clusterSizeBytes: present.clusterSizeBytes,
      refcountBits: present.refcountBits,
      extendedL2: present.hasExtendedL2,
      lazyRefcounts: present.compatibleFeatures.includes(COMPATIBLE_BIT.lazyRefcounts),
      compressionType: present.compressionType === 0 ? "zlib" : "zstd",
      backingFileName: present.backingFileName,
      backingFormat: present.backingFormat,
    },
  });
  if (plan.format !== "qcow2") throw new Error("a qcow2 image was planned");
  const header = fencedHeader(file.path, plan, owner);
  const { fileSizeBytes } = plan.layout;
  await file.punchHole({ start: header.length, lengthBytes: fileSizeBytes - header.length });
  const segments = new SegmentWriter(file);
  for (const segment of encodeTables(plan.layout)) await segments.add(segment);
  await segments.finish();
  await file.flush("tables of an emptied volume");
  await file.write(header, 0);
  await file.flush("header of an emptied volume");
}

/** E_UNSUPPORTED where it has no room for the fence's name. */
function fencedHeader(image: string, { headerBytes, choices }: Qcow2ImagePlan, owner: string): Uint8Array {
  const lengthBytes = Math.min(headerBytes.length + FENCE_ROOM_BYTES, 2 ** choices.clusterBits);
  const header = new Uint8Array(lengthBytes);
  header.set(headerBytes);
  const { offset, after, isNamed } = planFence(header, owner, "filling");
  if (!isNamed) {
    throw new ImgtxError("E_UNSUPPORTED", "its header has no room to say that it is not whole yet", {
      image,
      hint: "give it larger clusters, with `-o cluster_size=64k`",
    });
  }
  header.set(after, offset);
  return header;
}
