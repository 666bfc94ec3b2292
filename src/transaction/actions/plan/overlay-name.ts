// The name of an overlay that nobody named: after the image and the snapshot, beside the image. What is written after the
// snapshot `mon` of disk.qcow2 goes to disk-after-mon.qcow2.
//
// Invariant: no file that is there, and none that the command makes besides, has that name.

import { posix } from "node:path";
import type { DeviceEntry } from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import type { PlanContext } from "./action.ts";

/** In bytes: names are ASCII but for what the image's own has. Room for a number and the extension stays. */
const LONGEST = 200;

/** Nothing there stays over a start of the host. In /dev/shm are files, as anywhere. */
const DEVICE_NODES = /^\/dev\/(?!shm\/)/;

const EXTENSION = /\.(?:qcow2?|raw|img|qed)$/i;

/** `after`: what the overlay is named after, a snapshot's name; null: the time. */
export async function nameOverlay(
  { name: device, image }: Pick<DeviceEntry, "name" | "image">,
  after: string | null,
  taken: ReadonlySet<string>,
  { storage, madeHere }: Pick<PlanContext, "storage" | "madeHere">,
): Promise<string> {
  const folder = posix.dirname(image);
  if (DEVICE_NODES.test(image)) {
    throw new ImgtxError("E_REFUSED", "beside a device node there is no place for an overlay", {
      device,
      image,
      hint: `name its file: \`imgtx snapshot ${device} FILE\``,
    });
  }
  const time = new Date(storage.host.now()).toISOString().replaceAll(/[-:]|\..*/g, "");
  const suffix = (after ?? time).replaceAll(/[^A-Za-z0-9_.+@-]+/g, "-");
  // An overlay of an overlay is named after the image that both began with.
  const stem = posix
    .basename(image)
    .replace(EXTENSION, "")
    .replace(/-after-.*$/, "");
  const start = `${cut(stem === "" ? device : stem, LONGEST - suffix.length)}-after-${suffix}`;
  for (let number = 1; ; number += 1) {
    const path = posix.join(folder, `${start}${number === 1 ? "" : `-${number}`}.qcow2`);
    if (taken.has(path) || madeHere.has(path) || (await storage.statLink(path))) continue;
    return path;
  }
}

function cut(text: string, mostBytes: number): string {
  let end = text;
  while (Buffer.byteLength(end) > mostBytes) end = end.replace(/.$/su, "");
  return end;
}
