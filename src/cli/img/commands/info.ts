// imgtx img info

import { elseClosed, ImgtxError } from "../../../errors/index.ts";
import {
  CHAIN_DEPTH_MAX,
  type ChainLink,
  describeImage,
  explainPlainPaths,
  holdImages,
  identityOf,
  type ImageInfo,
  formatInName,
  isProtocolName,
  localFileOf,
  openForInfo,
} from "../../../format/index.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { openSettled } from "../images/beside.ts";
import { type ImageName, parseImageName } from "../grammar/image-name.ts";
import { explained, parseDriver, partOf, sourceOptions } from "../images/images.ts";
import { drawInfo, infoData, type Described } from "../output/info-form.ts";
import { lockWaiting } from "../images/lock-waiting.ts";
import { nameBackingFile } from "../output/layer-names.ts";
import { failure } from "../grammar/messages.ts";
import {
  cacheOption,
  forceShareOption,
  imageOptsOption,
  isCacheMode,
  longFormatOption,
  objectOption,
  outputOption,
} from "../grammar/options.ts";
import { warnOfStaleBitmaps } from "../images/stale-bitmaps.ts";

export const info: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the image", completes: "file" }],
    options: [
      longFormatOption,
      outputOption,
      { ...cacheOption, long: "cache", newer: [], about: "taken, and without effect" },
      { long: "limits", about: "tell of what sizes are best read and written, too" },
      { long: "backing-chain", newer: ["b"], about: "tell of each image below, too" },
      objectOption,
      imageOptsOption,
      forceShareOption,
    ],
    about:
      "Tells an image's format, sizes, backing image, internal snapshots, bitmaps and features. Guest data is " +
      "not read.",
    examples: [
      { command: "imgtx img info disk.qcow2", about: "what the image is" },
      {
        command: "imgtx img info --backing-chain --output=json vm.qcow2",
        about: "all images below, as JSON",
      },
    ],
    exits: [0, 1],
  },
  execute,
};

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input, console, qemuVersion } = invocation;
  const output = input.form;
  const cache = input.text("--cache");
  const operand = input.soleImage();
  if (cache !== undefined && !isCacheMode(cache)) throw failure(`Invalid cache option: ${cache}`);
  const wholeChain = input.flag("--backing-chain");
  const described = await describeImages(invocation, operand, wholeChain);
  warnOfStaleBitmaps(
    invocation,
    described.map(({ info: { qcow2 } }) => qcow2?.header),
  );
  const form = { qemuVersion, limits: input.flag("--limits") };
  if (output === "human") {
    console.print(described.map((each) => drawInfo(each, form)).join("\n"));
    return 0;
  }
  const data = described.map((each) => infoData(each, form));
  console.printJson(wholeChain ? data : data[0]);
  return 0;
}

/** One image after the other, each opened by itself, so that only its own file has to be sound. */
async function describeImages(
  invocation: ImgInvocation,
  operand: string,
  wholeChain: boolean,
): Promise<Described[]> {
  const options = sourceOptions(invocation);
  const name = parseImageName(operand, options.imageOpts);
  const locks = !options.forceShare && !name.forceShare;
  const described: Described[] = [];
  const seen = new Set<string>();
  let next: ImageToDescribe | undefined = {
    name: name.canonical ?? name.file,
    file: name.file,
    part: name.part,
    path: invocation.resolve(name.file),
    driver: name.format ?? options.format,
    overlay: undefined,
  };
  while (next !== undefined) {
    const image: ImageToDescribe = next;
    const message = image.overlay === undefined ? operand : image.name;
    const { info, identity } = await explained(invocation, message, () =>
      describeOne(invocation, image, locks),
    );
    if (seen.has(identity) || seen.size === CHAIN_DEPTH_MAX) {
      throw failure(`Backing file '${image.name}' creates an infinite loop.`);
    }
    seen.add(identity);
    const { name: ownName, file, driver } = image;
    described.push({ name: ownName, file, isFile: driver === "file", isGuessed: driver === undefined, info });
    next = wholeChain ? findBacking(invocation, image, info) : undefined;
  }
  return described;
}

interface ImageToDescribe {
  /** As it is printed, and its file's. */
  readonly name: string;
  readonly file: string;
  readonly part: ImageName["part"];
  readonly path: string;
  /** As it was said; undefined to be recognised. */
  readonly driver: string | undefined;
  /** The image that names it, and how. */
  readonly overlay: { readonly path: string; readonly storedName: string } | undefined;
}

async function describeOne(
  invocation: ImgInvocation,
  { path, driver, overlay, part }: ImageToDescribe,
  locks: boolean,
): Promise<{ info: ImageInfo; identity: string }> {
  const { context, gate } = invocation;
  const { storage } = context;
  const reference = overlay && { overlayPath: overlay.path, storedName: overlay.storedName };
  const open = async (): Promise<ChainLink> => {
    const opened = await openForInfo(storage, path, parseDriver(driver), gate, reference);
    return await elseClosed(opened.file, async () => {
      if (locks && opened.format !== "raw") await holdImages(storage, [opened], lockWaiting(invocation));
      return opened;
    });
  };
  const link = await openSettled(invocation, open, {
    filesOf: (opened) => [opened.path],
    close: async ({ file }) => await file.close(),
    isForced: !locks,
  });
  try {
    const info = await describeImage(link);
    const whole = info.virtualSizeBytes;
    const virtualSizeBytes = part === undefined ? whole : partOf(part, whole).lengthBytes;
    return { info: { ...info, virtualSizeBytes }, identity: identityOf(link.stat) };
  } finally {
    await link.file.close();
  }
}

function findBacking(
  invocation: ImgInvocation,
  { name, path }: ImageToDescribe,
  { qcow2 }: ImageInfo,
): ImageToDescribe | undefined {
  const storedName = qcow2?.header.backingFileName;
  if (storedName === undefined) return undefined;
  const ownName = nameBackingFile(name, storedName);
  if (isProtocolName(storedName) && localFileOf(storedName) === undefined) {
    throw new ImgtxError(
      "E_FAILED",
      `Could not open '${ownName}': imgtx opens files only, and this is a protocol's name`,
      { hint: explainPlainPaths(path) },
    );
  }
  return {
    name: ownName,
    file: ownName,
    part: undefined,
    path: invocation.resolve(ownName),
    driver: qcow2?.header.backingFormat ?? formatInName(storedName),
    overlay: { path, storedName },
  };
}
