// A copy of a device on a block device, which is there already, and has no name that could wait for the copy: planned as an
// empty image that a redo log begins, and as what fills it after the commit mark (images/fill-volume.ts).
//
// Invariant: what would not fit the volume, and what is on it that must not be lost, is refused before anything is written.

import type { ChainEntry, DeviceEntry, MirrorEntry } from "../../../device/index.ts";
import { ImgtxError, whileOpen } from "../../../errors/index.ts";
import {
  beginUnfinished,
  type Chain,
  findRangesAbove,
  type ImageFormat,
  imageOf,
  type ImagePlan,
  isDeviceIdentity,
  isSameFile,
  isUnfinishedBy,
  measureQcow2,
  pathsOfLink,
  type Qcow2ImagePlan,
  shellQuote,
  uniteRanges,
  writeImage,
} from "../../../format/index.ts";
import { alignUp } from "../../../units/index.ts";
import { AS_IMAGE, isDeviceAt } from "../../images/devices.ts";
import { NOT_MADE_YET } from "../../journal/index.ts";
import type { MirrorTarget } from "../../requests/request.ts";
import type { PlanContext } from "./action.ts";
import { activeLayer } from "./chain-entry.ts";
import { takeVolume } from "./new-overlay.ts";
import type { PlannedCopy } from "./mirroring.ts";

/** A copy as it is settled. */
interface CopyToBegin {
  readonly path: string;
  readonly format: ImageFormat;
  readonly sync: MirrorEntry["sync"];
  readonly plan: ImagePlan;
  readonly dataFile: string | undefined;
}

/** A copy in an image that is not there yet: what it takes, and its chain. */
export interface FreshCopy
  extends Pick<PlannedCopy, "filesToMake" | "fillFiles" | "redo" | "copies" | "chains" | "notes"> {
  readonly entries: readonly ChainEntry[];
}

/** On a block device the image is begun by a redo log, and filled after the commit mark. */
export async function planOnVolume(
  copy: CopyToBegin,
  target: Pick<MirrorTarget, "device" | "compressed" | "overwrite">,
  source: Chain,
  context: PlanContext,
): Promise<FreshCopy> {
  const { path, format, plan, sync } = copy;
  const { device, overwrite = false } = target;
  assertCanBeFilled(copy, target);
  const how = { below: source, device, isOverwriting: overwrite };
  const { volume, link, notes } = await takeVolume(path, how, context);
  await assertFitsVolume(copy, source, link.stat.sizeBytes);
  const top = activeLayer(source);
  const step = {
    kind: "fill" as const,
    from: top.path,
    fromFormat: top.format,
    files: source.links.flatMap(pathsOfLink),
    into: path,
    format,
  };
  return {
    entries: [{ image: path, format, name: null, fingerprint: link.fingerprint, dataFile: null }],
    filesToMake: [],
    fillFiles: async () => await Promise.resolve(),
    redo: [
      {
        link,
        makesImage: true,
        // Begun once more before the commit, it is filled after that all the same.
        precedesCopies: true,
        async write(file, transaction) {
          if (sync === "none") await writeImage({ file }, plan);
          else await beginUnfinished(file, plan, transaction);
        },
      },
    ],
    copies: sync === "none" ? [] : [step],
    chains: [volume],
    notes,
  };
}

/** E_UNSUPPORTED for what is not made in place. */
function assertCanBeFilled(
  { path, format, plan, dataFile }: CopyToBegin,
  { device, compressed }: Pick<MirrorTarget, "device" | "compressed">,
): void {
  const what = compressed
    ? "a copy on a block device can't be compressed yet"
    : dataFile !== undefined
      ? "a copy on a block device can't have a data file yet"
      : plan.format === "qcow2" && plan.choices.version < 3
        ? "a copy on a block device can't have version 2: it has no place for a fence while it is filled"
        : undefined;
  if (what === undefined) return;
  throw new ImgtxError("E_UNSUPPORTED", what, {
    device,
    image: path,
    hint: `make it with \`imgtx img convert -O ${format} IMAGE ${shellQuote(path)}\`, and take it with --reuse`,
  });
}

/** Written as what is copied is: shorter runs of zeros are data. */
const FILL_UNIT_BYTES = 65_536;

/** E_NO_SPACE where the copy would not fit the volume; E_REFUSED for a raw one of another size. */
async function assertFitsVolume(
  { path, format, plan, sync }: CopyToBegin,
  source: Chain,
  volumeBytes: number,
): Promise<void> {
  const { virtualSizeBytes } = plan;
  if (format === "raw" && virtualSizeBytes === volumeBytes) return;
  const neededBytes = plan.format === "raw" ? virtualSizeBytes : await measureCopy(plan, source, sync);
  if (neededBytes > volumeBytes) {
    throw new ImgtxError(
      "E_NO_SPACE",
      `the volume has ${volumeBytes} bytes, and the copy may need ${neededBytes}`,
      {
        image: path,
        hint: "make the volume larger (`lvextend` for LVM), then run the command again",
      },
    );
  }
  if (format === "qcow2") return;
  throw new ImgtxError(
    "E_REFUSED",
    `a raw image is as large as its block device, ${volumeBytes} bytes, and the disk has ${virtualSizeBytes}`,
    { image: path, hint: `give the volume ${virtualSizeBytes} bytes, or say --format qcow2` },
  );
}

/** All tables in full, and the data that the copy gets: an upper bound, as `img measure` gives it. */
async function measureCopy(
  { virtualSizeBytes, choices }: Qcow2ImagePlan,
  source: Chain,
  sync: MirrorEntry["sync"],
): Promise<number> {
  const clusterBytes = 2 ** choices.clusterBits;
  const { extendedL2, refcountOrder } = choices;
  const options = { clusterSizeBytes: clusterBytes, extendedL2, refcountBits: 2 ** refcountOrder };
  const { fullyAllocatedBytes } = await measureQcow2({ virtualSizeBytes }, options);
  const tableBytes = fullyAllocatedBytes - alignUp(virtualSizeBytes, clusterBytes);
  if (sync === "none") return tableBytes;
  const image = imageOf(source);
  const depth = sync === "top" ? 1 : source.links.length;
  const unitBytes = Math.max(clusterBytes, FILL_UNIT_BYTES);
  const ranges = uniteRanges([await findRangesAbove(image, depth)], unitBytes, virtualSizeBytes);
  return tableBytes + ranges.reduce((sum, { lengthBytes }) => sum + alignUp(lengthBytes, clusterBytes), 0);
}

/** Whether the device's mirror is one on a block device that was begun, and never was whole. */
export async function isUnfinished(
  { mirror }: Pick<DeviceEntry, "mirror">,
  { storage }: Pick<PlanContext, "storage">,
): Promise<boolean> {
  const [top] = mirror?.chain ?? [];
  if (top === undefined || !isSameFile(top.fingerprint, NOT_MADE_YET)) return false;
  if (!(await isDeviceAt(storage, top.image))) return false;
  return await whileOpen(await storage.openFile(top.image, "read", AS_IMAGE), isUnfinishedBy);
}

/** Whether this transaction makes the mirror on a block device, with nothing copied into it. */
export function isMadeOfNothing({ sync, format, chain: [top] }: MirrorEntry): boolean {
  const isRawYet = format === "qcow2" && top?.fingerprint.headerSha256 === null;
  return sync === "none" && isRawYet && isDeviceIdentity(top.fingerprint);
}
