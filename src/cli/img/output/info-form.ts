// What `imgtx img info` prints of an image, for people and as data, in the form of the version that is asked for.

import type { ImageInfo, Qcow2Info } from "../../../format/index.ts";
import { alignUp, formatBytes, SECTOR_BYTES } from "../../../units/index.ts";
import { printable } from "../../render/printable.ts";
import { resolveBackingName } from "./layer-names.ts";
import type { QemuVersion } from "../grammar/qemu-version.ts";
import { drawSnapshotList, snapshotData } from "./snapshot-list.ts";

export interface Described {
  /** The image's, as it is printed. */
  readonly name: string;
  /** The file's, likewise: another one where the image is a part of it. */
  readonly file: string;
  /** The driver "file" was said: the bytes of the file, as no format. */
  readonly isFile: boolean;
  /** Nobody said that it is raw. */
  readonly isGuessed: boolean;
  readonly info: ImageInfo;
}

export interface InfoForm {
  readonly qemuVersion: QemuVersion;
  /** What the image is best read and written in is told, too. */
  readonly limits: boolean;
}

const SUBCLUSTERS = 32;

/** One image under the keys of qemu-img's JSON. */
export function infoData(described: Described, form: InfoForm): unknown {
  const { name, isFile, info } = described;
  const { format, virtualSizeBytes, allocatedBytes, qcow2 } = info;
  if (isFile) return fileData(described, form);
  const common = {
    filename: name,
    format,
    "actual-size": allocatedBytes,
    "virtual-size": virtualSizeBytes,
    "dirty-flag": qcow2?.header.isDirty ?? false,
  };
  const own = {
    limits: form.limits ? limitsOf(described) : undefined,
    children: hasChildren(form) ? [{ name: "file", info: fileData(described, form) }] : undefined,
  };
  return qcow2 === undefined ? { ...common, ...own } : { ...common, ...qcow2Data(name, qcow2), ...own };
}

function qcow2Data(name: string, qcow2: Qcow2Info) {
  const { header, snapshots } = qcow2;
  const { backingFileName } = header;
  return {
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

/** The file alone, as QEMU takes it: in whole sectors, and with a format of its own. */
function fileData({ file, info }: Described, form: InfoForm): unknown {
  const { allocatedBytes, fileBytes, protocol } = info;
  const isFile = protocol === "file";
  return {
    filename: file,
    format: protocol,
    "actual-size": allocatedBytes,
    "virtual-size": inSectors(fileBytes),
    "format-specific": hasChildren(form) && isFile ? { type: "file", data: fileFormatData(info) } : undefined,
    "dirty-flag": false,
    limits: form.limits ? FILE_LIMITS : undefined,
    children: hasChildren(form) ? [] : undefined,
  };
}

function fileFormatData({ extentSizeHintBytes }: ImageInfo): Data {
  return { "extent-size-hint": extentSizeHintBytes === 0 ? undefined : extentSizeHintBytes };
}

function hasChildren({ qemuVersion }: InfoForm): boolean {
  return qemuVersion >= 8;
}

function inSectors(bytes: number): number {
  return alignUp(bytes, SECTOR_BYTES);
}

/** imgtx reads and writes through the kernel's cache, whatever mode is said: any byte will do. */
const FILE_LIMITS = {
  "request-alignment": 1,
  "min-mem-alignment": 1,
  "opt-mem-alignment": 4096,
  "max-iov": 1024,
} as const;

/** What is best written as a whole. A raw format that nobody stated keeps to sectors, as in QEMU. */
function limitsOf({ isGuessed, info: { qcow2 } }: Described): Data {
  if (qcow2 === undefined) {
    return { ...FILE_LIMITS, "request-alignment": isGuessed ? SECTOR_BYTES : 1 };
  }
  const { clusterSizeBytes, hasExtendedL2 } = qcow2.header;
  return {
    "write-zeroes-alignment": hasExtendedL2 ? clusterSizeBytes / SUBCLUSTERS : clusterSizeBytes,
    "request-alignment": 1,
    "min-mem-alignment": 1,
    "discard-alignment": clusterSizeBytes,
    "opt-mem-alignment": 4096,
    "max-iov": 1024,
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

export function drawInfo(described: Described, form: InfoForm): string {
  const { name, isFile, info } = described;
  const { qcow2, allocatedBytes } = info;
  const sizeBytes = isFile ? inSectors(info.fileBytes) : info.virtualSizeBytes;
  const lines = [
    `image: ${printable(name)}`,
    `file format: ${isFile ? "file" : info.format}`,
    `virtual size: ${formatBytes(sizeBytes)} (${sizeBytes} bytes)`,
    `disk size: ${formatBytes(allocatedBytes)}`,
    ...(qcow2 === undefined || isFile ? [] : drawHeader(name, qcow2)),
    ...(form.limits ? drawLimits(isFile ? FILE_LIMITS : limitsOf(described), 0) : []),
    ...(qcow2 === undefined || isFile ? [] : drawSpecific(qcow2, form)),
    ...(hasChildren(form) && isFile ? drawFileFormat(info, 0) : []),
    ...(hasChildren(form) && !isFile ? drawChild(described, form) : []),
  ];
  return `${lines.join("\n")}\n`;
}

function drawChild({ file, info }: Described, form: InfoForm): string[] {
  const { allocatedBytes, fileBytes, protocol } = info;
  const bytes = inSectors(fileBytes);
  return [
    "Child node '/file':",
    `${INDENT}filename: ${printable(file)}`,
    `${INDENT}protocol type: ${protocol}`,
    `${INDENT}file length: ${formatBytes(bytes)} (${bytes} bytes)`,
    `${INDENT}disk size: ${formatBytes(allocatedBytes)}`,
    ...(form.limits ? drawLimits(FILE_LIMITS, 1) : []),
    ...drawFileFormat(info, 1),
  ];
}

/** Nothing where there is nothing to say. */
function drawFileFormat(info: ImageInfo, level: number): string[] {
  const lines = drawData(fileFormatData(info), level + 1);
  return lines.length === 0 ? [] : [`${INDENT.repeat(level)}Format specific information:`, ...lines];
}

function drawLimits(limits: Data, level: number): string[] {
  return [`${INDENT.repeat(level)}Block limits:`, ...drawData(limits, level + 1)];
}

function drawHeader(name: string, qcow2: Qcow2Info): string[] {
  const { header, encryption } = qcow2;
  return [
    ...(encryption === undefined ? [] : ["encrypted: yes"]),
    `cluster_size: ${header.clusterSizeBytes}`,
    ...(header.isDirty ? ["cleanly shut down: no"] : []),
    ...drawBacking(name, qcow2),
  ];
}

function drawSpecific(qcow2: Qcow2Info, { qemuVersion }: InfoForm): string[] {
  const { snapshots } = qcow2;
  return [
    ...(snapshots.length === 0 ? [] : ["Snapshot list:", ...drawSnapshotList(snapshots, qemuVersion)]),
    "Format specific information:",
    ...drawData(formatData(qcow2), 1),
  ];
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
