// imgtx img info

import { ImgtxError } from "../../errors/index.ts";
import {
  CHAIN_DEPTH_MAX,
  type ChainLink,
  describeImage,
  explainPlainPaths,
  holdImages,
  identityOf,
  type ImageInfo,
  isProtocolName,
  openForInfo,
  type Qcow2Info,
  stripFilePrefix,
} from "../../format/index.ts";
import { formatBytes } from "../../units/index.ts";
import { printable } from "../render/printable.ts";
import type { ImgCommand, ImgInvocation } from "./command.ts";
import { openSettled } from "./beside.ts";
import { assertWhole, parseImageName } from "./image-name.ts";
import { explained, parseDriver, sourceOptions } from "./images.ts";
import { lockWaiting } from "./lock-waiting.ts";
import { nameBackingFile, resolveBackingName } from "./layer-names.ts";
import { failure, usageError } from "./messages.ts";
import {
  cacheOption,
  forceShareOption,
  imageOptsOption,
  longFormatOption,
  objectOption,
  outputOption,
} from "./options.ts";
import { drawSnapshotList, snapshotData } from "./snapshot-list.ts";
import { warnOfStaleBitmaps } from "./stale-bitmaps.ts";

export const info: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the image", completes: "file" }],
    options: [
      longFormatOption,
      outputOption,
      { ...cacheOption, about: "taken, and without effect" },
      { long: "backing-chain", about: "tell of each image below, too" },
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

interface Described {
  readonly name: string;
  readonly info: ImageInfo;
}

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input, console } = invocation;
  const form = input.form;
  const [operand] = input.operands;
  if (operand === undefined || input.operands.length !== 1) throw usageError("Expecting one image file name");
  const wholeChain = input.flag("--backing-chain");
  const described = await describeImages(invocation, operand, wholeChain);
  warnOfStaleBitmaps(
    invocation,
    described.map(({ info: { qcow2 } }) => qcow2?.header),
  );
  if (form === "human") console.print(described.map(drawInfo).join("\n"));
  else console.printJson(wholeChain ? described.map(infoData) : described.map(infoData)[0]);
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
  assertWhole(name, operand);
  const locks = !options.forceShare && !name.forceShare;
  const described: Described[] = [];
  const seen = new Set<string>();
  let next: ImageToDescribe | undefined = {
    name: name.file,
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
    described.push({ name: image.name, info });
    next = wholeChain ? findBacking(invocation, image, info) : undefined;
  }
  return described;
}

interface ImageToDescribe {
  /** As it is printed. */
  readonly name: string;
  readonly path: string;
  /** As it was said; undefined to be recognised. */
  readonly driver: string | undefined;
  /** The image that names it, and how. */
  readonly overlay: { readonly path: string; readonly storedName: string } | undefined;
}

async function describeOne(
  invocation: ImgInvocation,
  { path, driver, overlay }: ImageToDescribe,
  locks: boolean,
): Promise<{ info: ImageInfo; identity: string }> {
  const { context, allowPaths } = invocation;
  const { storage, cwd } = context;
  const gate = { allowPaths, currentFolder: cwd };
  const reference = overlay && { gate, overlayPath: overlay.path, storedName: overlay.storedName };
  const open = async (): Promise<ChainLink> => {
    const opened = await openForInfo(storage, path, parseDriver(driver), reference);
    try {
      if (locks && opened.format !== "raw") await holdImages(storage, [opened], lockWaiting(invocation));
      return opened;
    } catch (error) {
      await opened.file.close();
      throw error;
    }
  };
  const link = await openSettled(invocation, open, {
    filesOf: (opened) => [opened.path],
    close: async ({ file }) => await file.close(),
    isForced: !locks,
  });
  try {
    return { info: await describeImage(link), identity: identityOf(link.stat) };
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
  if (isProtocolName(storedName) && stripFilePrefix(storedName) === undefined) {
    throw new ImgtxError(
      "E_FAILED",
      `Could not open '${ownName}': imgtx opens files only, and this is a protocol's name`,
      { hint: explainPlainPaths(storedName, path, "backing_file_name") },
    );
  }
  return {
    name: ownName,
    path: invocation.resolve(ownName),
    driver: qcow2?.header.backingFormat,
    overlay: { path, storedName },
  };
}

/** One image under the keys of qemu-img's JSON. */
function infoData({ name, info: { format, virtualSizeBytes, allocatedBytes, qcow2 } }: Described): unknown {
  const common = {
    filename: name,
    format,
    "actual-size": allocatedBytes,
    "virtual-size": virtualSizeBytes,
    "dirty-flag": qcow2?.header.isDirty ?? false,
  };
  if (qcow2 === undefined) return common;
  const { header, snapshots } = qcow2;
  const { backingFileName } = header;
  return {
    ...common,
    encrypted: qcow2.encryption === undefined ? undefined : true,
    "cluster-size": header.clusterSizeBytes,
    "backing-filename": backingFileName,
    "full-backing-filename":
      backingFileName === undefined ? undefined : resolveBackingName(name, backingFileName),
    "backing-filename-format": backingFileName === undefined ? undefined : header.backingFormat,
    snapshots: snapshots.length === 0 ? undefined : snapshots.map(snapshotData),
    "format-specific": { type: "qcow2", data: formatData(qcow2) },
  };
}

type Data = {
  readonly [key: string]: string | number | boolean | undefined | Data | readonly (string | Data)[];
};

/** In the order that qemu-img prints it in. */
function formatData({ header, bitmaps, encryption }: Qcow2Info): Data {
  const compressionType = header.compressionType === 0 ? "zlib" : "zstd";
  const isVersion3 = header.version === 3;
  return {
    compat: isVersion3 ? "1.1" : "0.10",
    "compression-type": compressionType,
    "lazy-refcounts": isVersion3 ? header.hasLazyRefcounts : undefined,
    bitmaps:
      bitmaps.length === 0
        ? undefined
        : bitmaps.map(({ name, granularityBits, isInUse, isAuto }) => ({
            flags: [...(isInUse ? ["in-use"] : []), ...(isAuto ? ["auto"] : [])],
            name,
            granularity: 2 ** granularityBits,
          })),
    "refcount-bits": header.refcountBits,
    encrypt: encryptionData(encryption),
    "data-file": header.dataFileName,
    "data-file-raw": header.hasExternalDataFile ? header.hasRawExternalData : undefined,
    corrupt: isVersion3 ? header.isCorrupt : undefined,
    "extended-l2": isVersion3 ? header.hasExtendedL2 : undefined,
  };
}

function encryptionData(encryption: Qcow2Info["encryption"]): Data | undefined {
  if (encryption?.kind !== "luks") return encryption && { format: encryption.kind };
  const { header } = encryption;
  return {
    "ivgen-alg": header.ivGenerator,
    "hash-alg": header.hash,
    "cipher-alg": header.cipherAlgorithm,
    uuid: header.uuid,
    "ivgen-hash-alg": header.ivHash,
    format: "luks",
    "cipher-mode": header.cipherMode,
    slots: header.slots.map(({ isActive, iterations, keyOffset, stripes }) => ({
      active: isActive,
      iters: isActive ? iterations : undefined,
      "key-offset": keyOffset,
      stripes: isActive ? stripes : undefined,
    })),
    "payload-offset": header.payloadOffset,
    "master-key-iters": header.masterKeyIterations,
  };
}

function drawInfo({ name, info: { format, virtualSizeBytes, allocatedBytes, qcow2 } }: Described): string {
  const lines = [
    `image: ${printable(name)}`,
    `file format: ${format}`,
    `virtual size: ${formatBytes(virtualSizeBytes)} (${virtualSizeBytes} bytes)`,
    `disk size: ${formatBytes(allocatedBytes)}`,
  ];
  if (qcow2 === undefined) return `${lines.join("\n")}\n`;
  const { header, snapshots } = qcow2;
  if (qcow2.encryption !== undefined) lines.push("encrypted: yes");
  lines.push(`cluster_size: ${header.clusterSizeBytes}`);
  if (header.isDirty) lines.push("cleanly shut down: no");
  lines.push(...drawBacking(name, qcow2));
  const list = snapshots.length === 0 ? "" : `Snapshot list:\n${drawSnapshotList(snapshots)}`;
  const specific = ["Format specific information:", ...drawData(formatData(qcow2), 1)];
  return `${lines.join("\n")}\n${list}${specific.join("\n")}\n`;
}

function drawBacking(name: string, { header: { backingFileName, backingFormat } }: Qcow2Info): string[] {
  if (backingFileName === undefined) return [];
  const full = resolveBackingName(name, backingFileName);
  const actual = full === backingFileName ? "" : ` (actual path: ${printable(full)})`;
  return [
    `backing file: ${printable(backingFileName)}${actual}`,
    ...(backingFormat === undefined ? [] : [`backing file format: ${printable(backingFormat)}`]),
  ];
}

const INDENT = "    ";

function drawData(data: Data, level: number): string[] {
  return Object.entries(data).flatMap(([key, value]) =>
    value === undefined ? [] : drawMember(key.replaceAll("-", " "), value, level),
  );
}

function drawMember(label: string, value: NonNullable<Data[string]>, level: number): string[] {
  const start = `${INDENT.repeat(level)}${label}:`;
  if (typeof value !== "object") return [`${start} ${printable(String(value))}`];
  if (!isList(value)) return [start, ...drawData(value, level + 1)];
  return [start, ...value.flatMap((each, index) => drawMember(`[${index}]`, each, level + 1))];
}

function isList(value: Data | readonly (string | Data)[]): value is readonly (string | Data)[] {
  return Array.isArray(value);
}
