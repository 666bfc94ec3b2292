// imgtx img info

import { describeImage, type ImageInfo, type Qcow2Info } from "../../format/index.ts";
import { formatBytes } from "../../units/index.ts";
import { printable } from "../render/printable.ts";
import type { ImgCommand, ImgInvocation } from "./command.ts";
import { openSource, sourceOptions } from "./images.ts";
import { nameLayers, nameOfOperand, resolveBackingName } from "./layer-names.ts";
import { usageError } from "./messages.ts";
import {
  forceShareOption,
  imageOptsOption,
  longFormatOption,
  objectOption,
  outputOption,
} from "./options.ts";
import { drawSnapshotList, snapshotData } from "./snapshot-list.ts";

export const info: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the image", completes: "file" }],
    options: [
      longFormatOption,
      outputOption,
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
  const options = sourceOptions(invocation);
  const image = await openSource(invocation, operand, { ...options, backing: wholeChain });
  try {
    const { links } = image.chain;
    const names = nameLayers(nameOfOperand(operand, options.imageOpts), links);
    const described: Described[] = [];
    for (const [depth, link] of links.entries()) {
      described.push({ name: names[depth] ?? link.path, info: await describeImage(link) });
    }
    if (described.some(({ info: { qcow2 } }) => qcow2?.hasStaleBitmaps === true)) {
      console.warning(
        "a program lacking bitmap support modified this file, so all bitmaps are now considered inconsistent",
      );
    }
    if (form === "human") console.print(described.map(drawInfo).join("\n"));
    else console.printJson(wholeChain ? described.map(infoData) : described.map(infoData)[0]);
  } finally {
    await image.close();
  }
  return 0;
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
function formatData({ header, bitmaps }: Qcow2Info): Data {
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
    "data-file": header.dataFileName,
    "data-file-raw": header.hasExternalDataFile ? header.hasRawExternalData : undefined,
    corrupt: isVersion3 ? header.isCorrupt : undefined,
    "extended-l2": isVersion3 ? header.hasExtendedL2 : undefined,
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
