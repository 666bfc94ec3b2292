// A copy of a device in a new image: settled, planned, and filled.
//
// Invariants
// - Nobody finds the image before it is whole: it is made under a staging name.
// - A copy that was cut off goes on only after what is known to be durable in it, and in sound tables.

import { posix } from "node:path";
import type { MirrorEntry } from "../../../device/index.ts";
import { ImgtxError, placed, withPlace } from "../../../errors/index.ts";
import {
  type Chain,
  CHAIN_DEPTH_MAX,
  type ChainLink,
  cloneInto,
  countBytesToCopy,
  type CopyRequest,
  fillImage,
  flushAlong,
  type Image,
  imageOf,
  type ImageFormat,
  type ImagePlan,
  makeRelativeName,
  parseImageFormat,
  planImage,
  tidyPartial,
  writeImage,
} from "../../../format/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { accessLike } from "../../images/access.ts";
import { isDeviceAt } from "../../images/devices.ts";
import { type FileToMake, type FillTools, type PlanContext, progressOf } from "./action.ts";
import { activeLayer, chainEntriesOf } from "./chain-entry.ts";
import { NOT_MADE_YET } from "../../journal/index.ts";
import { verifyCopy } from "./mirroring.ts";
import { targetExists } from "./new-overlay.ts";
import { type FreshCopy, planOnVolume } from "./volume-copy.ts";
import type { MirrorTarget } from "../../requests/request.ts";

/** A copy that is not there yet, on what it will stand on. */
export interface NewCopy {
  readonly path: string;
  readonly format: ImageFormat;
  readonly sync: MirrorEntry["sync"];
  readonly backing: { readonly depth: number; readonly link: ChainLink; readonly name: string } | undefined;
  readonly plan: ImagePlan;
  readonly dataFile: string | undefined;
}

/** Files that nobody has yet, and the chain of what they will be. */
export async function planFresh(
  copy: NewCopy,
  target: MirrorTarget,
  source: Chain,
  context: PlanContext,
): Promise<FreshCopy> {
  const { path, format, dataFile } = copy;
  if (await isDeviceAt(context.storage, path)) {
    const begun = await withPlace({ device: target.device, image: path }, async () =>
      planOnVolume(copy, target, source, context),
    );
    return { ...begun, entries: [...begun.entries, ...entriesBelow(copy, source)] };
  }
  for (const file of dataFile === undefined ? [path] : [path, dataFile]) {
    const there = await context.storage.statLink(file);
    if (!there) continue;
    throw targetExists(
      target.device,
      file,
      there,
      "; with --reuse an image of the right size is compared and brought in sync",
    );
  }
  const made = { image: path, format, name: null, fingerprint: NOT_MADE_YET };
  const access = await accessLike(activeLayer(source));
  const files: FileToMake[] = [{ ...access, path, hasHeader: format === "qcow2" }];
  if (dataFile !== undefined) files.push({ ...access, path: dataFile, hasHeader: false });
  return {
    entries: [
      { ...made, dataFile: dataFile === undefined ? null : { image: dataFile, fingerprint: NOT_MADE_YET } },
      ...entriesBelow(copy, source),
    ],
    filesToMake: files,
    fillFiles: async (own, tools) => {
      await fillCopy(copy, target, { present: source, context, files: own, tools });
    },
    redo: [],
    chains: [],
    notes: [],
  };
}

function entriesBelow({ backing }: NewCopy, present: Chain): MirrorEntry["chain"] {
  if (!backing) return [];
  return chainEntriesOf(present)
    .slice(backing.depth)
    .map((below, index) => (index === 0 ? { ...below, name: backing.name } : below));
}

export async function chooseCopy(
  target: MirrorTarget,
  path: string,
  present: Chain,
  context: PlanContext,
): Promise<NewCopy> {
  const { device } = target;
  const top = activeLayer(present);
  const wanted = target.sync ?? "full";
  const depth = wanted === "top" ? 1 : 0;
  const link = wanted === "full" ? undefined : present.links[depth];
  if (link) assertRoomForCopy(device, path, present.links.length - depth);
  // The active layer of a chain of one is the whole content.
  const sync = link ? wanted : "full";
  const asked = target.format ?? (link ? "qcow2" : top.format);
  const format = placed({ device, image: path }, () => parseImageFormat(asked));
  if (link && format === "raw") {
    throw new ImgtxError("E_UNSUPPORTED", `a raw image can't stand on another one, as --sync ${sync} needs`, {
      device,
      image: path,
      hint: "leave --format out, or copy everything with --sync full",
    });
  }
  if (target.compressed && format === "raw") {
    throw new ImgtxError("E_UNSUPPORTED", "a raw image can't be compressed", {
      device,
      image: path,
      hint: "leave --compress out, or say --format qcow2",
    });
  }
  const name =
    link &&
    (target.relative ? await makeRelativeName(context.storage, posix.dirname(path), link.path) : link.path);
  const { dataFileName } = target.options;
  const plan = await withPlace({ device, image: path }, async () =>
    planImage({
      format,
      virtualSizeBytes: top.virtualSizeBytes,
      options: {
        ...target.options,
        ...(link && { backingFileName: name, backingFormat: link.format }),
      },
    }),
  );
  return {
    path,
    format,
    sync,
    backing: link && name !== undefined ? { depth, link, name } : undefined,
    plan,
    dataFile: dataFileName === undefined ? undefined : await context.canonicalPath(dataFileName, device),
  };
}

/** The copy, and the changes that are laid over it whenever it is brought in sync, have to be opened. */
function assertRoomForCopy(device: string, image: string, imagesBelow: number): void {
  if (imagesBelow + 2 <= CHAIN_DEPTH_MAX) return;
  throw new ImgtxError("E_REFUSED", `it would stand on ${imagesBelow} images, and could not be opened`, {
    device,
    image,
    hint: `a chain can have ${CHAIN_DEPTH_MAX} images: copy everything with --sync full`,
  });
}

interface Copying extends Filling {
  readonly file: StorageFile;
  readonly dataFile: StorageFile | undefined;
  readonly startBytes: number;
}

interface Filling {
  readonly present: Chain;
  readonly context: PlanContext;
  readonly files: readonly StorageFile[];
  readonly tools: FillTools;
}

async function fillCopy(copy: NewCopy, target: MirrorTarget, filling: Filling): Promise<void> {
  const { present, context, files, tools } = filling;
  const [file, dataFile] = files;
  if (!file) throw new Error("a file for the copy was planned");
  const image = imageOf(present);
  const startBytes = await findStart(copy, { ...filling, file, dataFile });
  if (startBytes === undefined) {
    // What a copy that was cut off has left here is of no use; nor is its mark, for what comes instead.
    if (tools.resumeAt(0) !== undefined) await tools.keepMark(0, 0);
    for (const one of files) if ((await one.stat()).sizeBytes > 0) await one.truncate(0);
    await writeImage({ file, dataFile }, copy.plan);
  }
  if (copy.sync !== "none") {
    await copyContent(copy, target, image, { ...filling, file, dataFile, startBytes: startBytes ?? 0 });
  }
  if (!target.verify) return;
  const made = { device: target.device, path: file.path, format: copy.format, dataFileAt: dataFile?.path };
  await verifyCopy(image, made, context, tools);
}

/** Where a copy that was cut off goes on; undefined where it begins anew. */
async function findStart(
  { format }: NewCopy,
  { context, tools, file, dataFile }: Filling & { file: StorageFile; dataFile: StorageFile | undefined },
): Promise<number | undefined> {
  const mark = tools.resumeAt(0);
  if (mark === undefined || (dataFile !== undefined && tools.isFresh(1))) return undefined;
  if (format === "raw") return mark;
  const around = { gate: context.gate, signal: tools.signal };
  const isSound = await tidyPartial(context.storage, file.path, { file, dataFile }, around);
  return isSound ? mark : undefined;
}

async function copyContent(
  copy: NewCopy,
  { device, compressed }: MirrorTarget,
  image: Image,
  { context, tools, file, dataFile, startBytes }: Copying,
): Promise<void> {
  if (startBytes === 0 && (await cloneInto([image], copy.plan, file))) {
    tools.note(device, { code: "copied", lengthBytes: 0 });
    return;
  }
  const request: CopyRequest = {
    compressed,
    sparseBytes: SPARSE_BYTES,
    backingBytes: copy.backing?.link.virtualSizeBytes,
    atOnce: 8,
    inOrder: true,
    inKernel: false,
    signal: tools.signal,
    startBytes,
    throttle: flushAlong(dataFile ?? file, tools.throttle),
    checkpoint: {
      isDue: () => tools.isMarkDue(0),
      async reach(offset, target) {
        await target.flush("copied-so-far");
        await tools.keepMark(0, offset);
      },
    },
  };
  const tell = await progressOfCopy(device, image, request, tools);
  let copiedBytes = 0;
  const onProgress = (doneBytes: number): void => {
    copiedBytes = doneBytes;
    tell?.(doneBytes);
  };
  await fillImage(
    [image],
    { plan: copy.plan, path: file.path },
    { file, dataFile: dataFile && { path: dataFile.path, file: dataFile } },
    { ...request, onProgress },
    { storage: context.storage, gate: context.gate },
  );
  tools.note(device, { code: "copied", lengthBytes: copiedBytes });
}

async function progressOfCopy(
  device: string,
  image: Image,
  request: CopyRequest,
  tools: FillTools,
): Promise<CopyRequest["onProgress"]> {
  const tell = progressOf(tools, `copying ${device}`);
  if (tell === undefined) return undefined;
  const totalBytes = await countBytesToCopy([image], {
    ...request,
    clusterBytes: undefined,
    targetIsZero: true,
  });
  tell(0, totalBytes);
  return (doneBytes) => {
    tell(doneBytes, totalBytes);
  };
}

/** Shorter runs of zeros in data are copied as they are, as qemu-img does. */
const SPARSE_BYTES = 4096;
