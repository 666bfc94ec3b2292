// Opening the images that a command line of `imgtx img` names: by name or options, with QEMU's locks, and
// with qemu-img's words where that fails.

import { type GuestRange, guestRange, SECTOR_BYTES } from "../../../units/index.ts";
import { elseClosed, ImgtxError } from "../../../errors/index.ts";
import {
  assertNotHalfChanged,
  filesOf,
  holdImages,
  type ImageFormat,
  type OpenedImage,
  openImage,
  SliceImage,
  type SnapshotChoice,
  stackImages,
} from "../../../format/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import type { ImgInvocation } from "../command.ts";
import { type ImageName, parseImageName } from "../grammar/image-name.ts";
import { filesBelow, openSettled } from "./beside.ts";
import { lockWaiting } from "./lock-waiting.ts";
import { failure, GIVEN_NAME, inFinalWords, wordsOf } from "../grammar/messages.ts";
import { warnOfStaleBitmaps } from "./stale-bitmaps.ts";

export interface SourceOptions {
  /** Of -f, as it was said. */
  readonly format: string | undefined;
  /** --image-opts: the operand is a list of options. */
  readonly imageOpts: boolean;
  /** -U: no locks. */
  readonly forceShare: boolean;
  /** False: the image alone. Default: its whole chain. */
  readonly backing?: boolean;
  /** Id or name of an internal snapshot. */
  readonly snapshot?: SnapshotChoice | undefined;
  /** False: what is odd about the image is said at another time. */
  readonly warns?: boolean;
  /** It is only looked at, before it is locked to be changed. */
  readonly isToChange?: boolean;
  /** It is to be repaired: its header may lead to no refcount table. */
  readonly mayLackRefcounts?: boolean;
}

type OpenOptions = Pick<SourceOptions, "backing" | "snapshot" | "mayLackRefcounts">;

/** The options that most commands have: -f, --image-opts, -U. */
export function sourceOptions({ input }: Pick<ImgInvocation, "input">): SourceOptions {
  return {
    format: input.text("--format") ?? input.text("-f"),
    imageOpts: input.flag("--image-opts"),
    forceShare: input.flag("--force-share"),
  };
}

/**
 * Opens an image for reading, and holds it and what it stands on against writers. The caller closes it, which
 * gives the locks back. Errors begin with `Could not open 'NAME': `.
 */
export async function openSource(
  invocation: ImgInvocation,
  operand: string,
  options: SourceOptions,
): Promise<OpenedImage> {
  const name = parseImageName(operand, options.imageOpts);
  const image = await explained(invocation, operand, () => openNamed(invocation, name, options));
  if (options.warns !== false) {
    warnOfStaleBitmaps(
      invocation,
      image.chain.links.map(({ header }) => header),
    );
  }
  return image;
}

/** The words of an error after `Could not open 'NAME': `, as every command has them. */
export async function explained<T>(
  { names }: Pick<ImgInvocation, "names">,
  operand: string,
  open: () => Promise<T>,
): Promise<T> {
  try {
    return await open();
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL" || isInterrupt(error)) throw error;
    const { image, hint } = error;
    // What is wrong with the name itself is said with it.
    const isSaid = error.field === GIVEN_NAME;
    // The place is in the words already.
    throw new ImgtxError(
      error.code,
      `${isSaid ? "" : `Could not open '${operand}': `}${wordsOf(error, names)}`,
      {
        cause: error,
        ...(image !== undefined && { image }),
        ...(hint !== undefined && { hint }),
      },
    );
  }
}

function isInterrupt({ code }: ImgtxError): boolean {
  return code === "E_INTERRUPTED" || code === "E_TERMINATED";
}

async function openNamed(
  invocation: ImgInvocation,
  name: ImageName,
  options: SourceOptions,
): Promise<OpenedImage> {
  const isForced = options.forceShare || name.forceShare;
  const opened = await openSettled(
    invocation,
    async () => await openHeld(invocation, name, { ...options, isForced }),
    {
      filesOf: filesBelow,
      close: async (image) => await image.close(),
      isForced,
    },
  );
  return await elseClosed(opened, () => {
    if (!isForced) assertNotHalfChanged(opened.chain);
    return opened;
  });
}

async function openHeld(
  invocation: ImgInvocation,
  name: ImageName,
  options: SourceOptions & { readonly isForced: boolean },
): Promise<OpenedImage> {
  const given = name.format ?? options.format;
  return await elseClosed(await openPart(invocation, name, given, options), async (own) => {
    const image =
      name.backing === undefined || name.backing === null
        ? own
        : stackImages(own, await openPart(invocation, name.backing, name.backing.format, { backing: true }));
    if (!options.isForced && !options.isToChange)
      await holdByDepth(invocation, image.chain.links.map(filesOf));
    return image;
  });
}

/** The same, or the part of it that the name means. */
async function openPart(
  invocation: ImgInvocation,
  name: ImageName,
  given: string | undefined,
  options: OpenOptions,
): Promise<OpenedImage> {
  const whole = await openAlone(invocation, name, given, options);
  if (name.part === undefined) return whole;
  return await elseClosed(whole, () => {
    const range = partOf(name.part, whole.virtualSizeBytes);
    const { layers, chain } = whole;
    return Object.assign(new SliceImage(whole, range), {
      layers,
      chain,
      close: async () => await whole.close(),
    });
  });
}

/** Of a file of so many bytes, in whole sectors as QEMU takes it. E_FAILED for a part that is not in it. */
export function partOf(part: ImageName["part"], lengthBytes: number): GuestRange {
  const fileBytes = Math.ceil(lengthBytes / SECTOR_BYTES) * SECTOR_BYTES;
  const { start, lengthBytes: size } = part ?? { start: 0, lengthBytes: undefined };
  if (start > fileBytes) {
    throw failure(`Offset (${start}) cannot be greater than size of the containing file (${fileBytes})`);
  }
  if (start + (size ?? 0) > fileBytes) {
    throw failure(
      `The sum of offset (${start}) and size (${size}) has to be smaller or equal to the  actual size of the containing file (${fileBytes})`,
    );
  }
  return guestRange(start, size ?? fileBytes - start);
}

/** Without locks; without its backing image where another one, or none, was asked for. */
async function openAlone(
  invocation: ImgInvocation,
  name: ImageName,
  given: string | undefined,
  { backing = true, snapshot, mayLackRefcounts }: OpenOptions,
): Promise<OpenedImage> {
  const { context, gate } = invocation;
  const path = invocation.resolve(name.file);
  const open = (format: ImageFormat | undefined): Promise<OpenedImage> =>
    openImage(context.storage, path, {
      format,
      gate,
      backing: backing && name.backing === undefined,
      snapshot,
      mayLackRefcounts,
    });
  const format = parseDriver(given);
  try {
    return await open(format);
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    // The user named this very file, so that no guest can have led here by what it wrote.
    if (error.code === "E_FORMAT_UNKNOWN" && error.image === path) return open("raw");
    throw belowTop(error, path);
  }
}

/** In qemu-img's words, where it is not the image itself that can't be opened. */
export function belowTop(error: ImgtxError, path: string): ImgtxError {
  if (error.code === "E_NOT_FOUND" && error.cause instanceof ImgtxError && error.field !== undefined) {
    const words = error.cause.message;
    const isBacking = error.field === "backing_file_name";
    return inFinalWords(error, isBacking ? `Could not open backing file: ${words}` : words);
  }
  if (error.image === undefined || error.image === path || error.code === "E_OUTSIDE") return error;
  return error.within("Could not open backing file: ");
}

/** Formats and protocols of QEMU that imgtx does not read. */
const OTHER_DRIVERS: ReadonlySet<string> = new Set([
  "blkdebug",
  "bochs",
  "cloop",
  "dmg",
  "host_cdrom",
  "host_device",
  "http",
  "https",
  "iscsi",
  "luks",
  "nbd",
  "null-aio",
  "null-co",
  "nvme",
  "parallels",
  "qcow",
  "qed",
  "quorum",
  "rbd",
  "ssh",
  "throttle",
  "vdi",
  "vhdx",
  "vmdk",
  "vpc",
  "vvfat",
]);

/** The format of a driver's name; undefined to be recognised. E_FAILED for other drivers. */
export function parseDriver(name: string | undefined): ImageFormat | undefined {
  if (name === undefined || name === "qcow2" || name === "raw") return name;
  if (name === "file") return "raw";
  if (isOtherDriver(name)) throw failure(`imgtx does not support the format '${name}'`);
  throw failure(`Unknown driver '${name}'`);
}

/** Whether QEMU knows a driver of this name, and imgtx does not. */
export function isOtherDriver(name: string): boolean {
  return OTHER_DRIVERS.has(name);
}

/** Holds the files of each image of a chain against writers; what is in the way is told with its depth. */
export async function holdByDepth(
  invocation: ImgInvocation,
  filesByDepth: readonly (readonly StorageFile[])[],
): Promise<void> {
  for (const [depth, files] of filesByDepth.entries()) {
    try {
      await holdFiles(invocation, files);
    } catch (error) {
      if (!(error instanceof ImgtxError) || depth === 0) throw error;
      throw error.within("Could not open backing file: ".repeat(depth));
    }
  }
}

/** Nobody may write below a new overlay: what it stands on, with all below, until it is closed. */
export async function holdBacking(invocation: ImgInvocation, image: OpenedImage): Promise<void> {
  await holdFiles(invocation, image.chain.links.flatMap(filesOf));
}

async function holdFiles(invocation: ImgInvocation, files: readonly StorageFile[]): Promise<void> {
  const images = files.map((file) => ({ file }));
  await holdImages(invocation.context.storage, images, lockWaiting(invocation));
}

/** Of an image to be made. sayOther: why one of another driver is refused. */
export function knownFormat(
  name: string,
  sayOther = (driver: string) => `imgtx does not make images in the format '${driver}'`,
): ImageFormat {
  if (name === "raw" || name === "qcow2") return name;
  if (name === "file") return "raw";
  if (isOtherDriver(name)) throw failure(sayOther(name));
  throw failure(`Unknown file format '${name}'`);
}
