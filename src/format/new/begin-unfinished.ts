// Begins an image that is filled in place: empty, and with a fence from its first byte on. See open/unfinished.ts.

import { ImgtxError } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import { FENCE_ROOM_BYTES, planFence } from "../qcow2/codec/fence.ts";
import { measureHeaderCluster } from "../qcow2/codec/header-cluster.ts";
import { readBytes, readHead } from "../read-header.ts";
import { type ImagePlan, planImage, writeImage } from "./create.ts";

/** What stands at the head of a raw disk until all else is there: smaller than any volume. */
const PLACEHOLDER = { virtualSizeBytes: 4096, options: { clusterSizeBytes: 4096 } } as const;

/** Writes the image over what the file has. owner: the transaction that goes on with it. Flushes nothing. */
export async function beginUnfinished(file: StorageFile, plan: ImagePlan, owner: string): Promise<void> {
  const begun = plan.format === "raw" ? await planImage({ format: "qcow2", ...PLACEHOLDER }) : plan;
  if (begun.format !== "qcow2") throw new Error("a qcow2 image was planned");
  await writeImage({ file }, begun);
  const lengthBytes = measureHeaderCluster(await readHead(file)) + FENCE_ROOM_BYTES;
  const header = await readBytes(file, 0, Math.min(lengthBytes, 2 ** begun.choices.clusterBits));
  const { offset, after, isNamed } = planFence(header, owner, "filling");
  if (!isNamed) {
    throw new ImgtxError("E_UNSUPPORTED", "its header has no room to say that it is not whole yet", {
      image: file.path,
      hint: "give it larger clusters, with `-o cluster_size=64k`",
    });
  }
  await file.write(after, offset);
}
