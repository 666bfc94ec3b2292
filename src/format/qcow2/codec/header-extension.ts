// Header extensions: what follows the fixed header in cluster 0 (qcow2 specification, "Header extensions").
//
// Invariants
// - Pure. Order is kept, and so is every extension of a type that imgtx does not know, byte for byte.
// - encode(decode(bytes)) gives the same bytes, for an area whose padding is zeros, as QEMU writes it.
// - A known type appears at most once: with two, tools would disagree on which one holds.
// - Feature names and backing formats are Latin-1, so that any bytes survive. File names must be UTF-8: others could not be
//   opened unchanged.
// - There may be no end mark only where the backing file name ends the area, as the first versions of qemu-img wrote it.

import { ImgtxError } from "../../../errors/index.ts";
import { alignUp, decodeLatin1, type HostOffset } from "../../../units/index.ts";
import { hostOffset, safeNumber } from "../../../units/index.ts";
import { FEATURE_TYPES, type FeatureName } from "./features.ts";
import { BACKING_FORMAT_BYTES_MAX } from "./limits.ts";

export const EXTENSION_TYPE = {
  end: 0x00000000,
  backingFormat: 0xe2792aca,
  featureNames: 0x6803f857,
  bitmaps: 0x23852875,
  fullDiskEncryption: 0x0537be77,
  dataFile: 0x44415441,
} as const;

export type HeaderExtension =
  | { readonly kind: "backingFormat"; readonly format: string }
  | { readonly kind: "featureNames"; readonly names: readonly FeatureName[] }
  | {
      readonly kind: "bitmaps";
      readonly nbBitmaps: number;
      readonly bitmapDirectorySize: number;
      readonly bitmapDirectoryOffset: HostOffset;
    }
  | { readonly kind: "fullDiskEncryption"; readonly offset: HostOffset; readonly length: number }
  | { readonly kind: "dataFile"; readonly name: string }
  | { readonly kind: "unknown"; readonly type: number; readonly data: Uint8Array };

/** The extension of one kind, if the list has it. */
export function findExtension<K extends Exclude<HeaderExtension["kind"], "unknown">>(
  extensions: readonly HeaderExtension[],
  kind: K,
): Extract<HeaderExtension, { kind: K }> | undefined {
  return extensions.find(
    (extension): extension is Extract<HeaderExtension, { kind: K }> => extension.kind === kind,
  );
}

export const EXTENSION_HEADER_BYTES = 8;
export const FEATURE_NAME_BYTES = 48;
const FEATURE_TEXT_BYTES = 46;
const BITMAPS_BYTES = 24;
const FULL_DISK_ENCRYPTION_BYTES = 16;

/** Where the area must end, and what ends it there. */
export interface ExtensionLimit {
  readonly end: number;
  readonly endedBy: "cluster" | "backing file name";
}

export interface ExtensionArea {
  readonly extensions: readonly HeaderExtension[];
  /** Where the area ends: past its end mark, or at its limit where it has none. */
  readonly end: number;
}

/**
 * Decodes the extensions of cluster 0 from start up to their end mark. Only the backing file name may end
 * them without one, as the first versions of qemu-img wrote it. Bytes past the buffer count as missing:
 * E_CORRUPT.
 */
export function decodeExtensions(cluster: Uint8Array, start: number, limit: ExtensionLimit): ExtensionArea {
  const view = new DataView(cluster.buffer, cluster.byteOffset, cluster.byteLength);
  const extensions: HeaderExtension[] = [];
  let offset = start;
  while (offset < limit.end) {
    const dataStart = offset + EXTENSION_HEADER_BYTES;
    if (dataStart > limit.end || dataStart > cluster.length) throw tooLarge(offset);
    const type = view.getUint32(offset);
    const length = view.getUint32(offset + 4);
    if (length > limit.end - dataStart || dataStart + length > cluster.length) throw tooLarge(offset);
    if (type === EXTENSION_TYPE.end) {
      if (length !== 0) throw corrupt("the end mark of the header extensions has a length", "end", offset);
      return { extensions, end: dataStart };
    }
    const extension = decodeExtension(type, cluster.subarray(dataStart, dataStart + length), dataStart);
    if (extension.kind !== "unknown" && findExtension(extensions, extension.kind)) {
      throw corrupt("a header extension appears twice", extension.kind, offset);
    }
    extensions.push(extension);
    offset = dataStart + roundUpTo8(length);
  }
  if (extensions.length > 0 && limit.endedBy === "cluster") {
    throw corrupt("the header extensions have no end mark", "end", limit.end);
  }
  return { extensions, end: Math.min(offset, limit.end) };
}

/** The area with its end mark; each extension is padded with zeros to a multiple of 8. */
export function encodeExtensions(extensions: readonly HeaderExtension[]): Uint8Array {
  const encoded = extensions.map((extension) => encodeExtension(extension));
  const lengthBytes = encoded.reduce(
    (sum, { data }) => sum + EXTENSION_HEADER_BYTES + roundUpTo8(data.length),
    EXTENSION_HEADER_BYTES,
  );
  const area = new Uint8Array(lengthBytes);
  const view = new DataView(area.buffer);
  let offset = 0;
  for (const { type, data } of encoded) {
    view.setUint32(offset, type);
    view.setUint32(offset + 4, data.length);
    area.set(data, offset + EXTENSION_HEADER_BYTES);
    offset += EXTENSION_HEADER_BYTES + roundUpTo8(data.length);
  }
  return area;
}

function decodeExtension(type: number, data: Uint8Array, offset: number): HeaderExtension {
  switch (type) {
    case EXTENSION_TYPE.backingFormat:
      return decodeBackingFormat(data, offset);
    case EXTENSION_TYPE.featureNames:
      return decodeFeatureNames(data, offset);
    case EXTENSION_TYPE.bitmaps:
      return decodeBitmaps(data, offset);
    case EXTENSION_TYPE.fullDiskEncryption:
      return decodeFullDiskEncryption(data, offset);
    case EXTENSION_TYPE.dataFile:
      return { kind: "dataFile", name: decodeName(data, "data file name", offset) };
    default:
      return { kind: "unknown", type, data: data.slice() };
  }
}

function encodeExtension(extension: HeaderExtension): { type: number; data: Uint8Array } {
  switch (extension.kind) {
    case "backingFormat":
      return { type: EXTENSION_TYPE.backingFormat, data: encodeLatin1(extension.format) };
    case "featureNames":
      return { type: EXTENSION_TYPE.featureNames, data: encodeFeatureNames(extension.names) };
    case "bitmaps": {
      const data = new Uint8Array(BITMAPS_BYTES);
      const view = new DataView(data.buffer);
      view.setUint32(0, extension.nbBitmaps);
      view.setBigUint64(8, BigInt(extension.bitmapDirectorySize));
      view.setBigUint64(16, BigInt(extension.bitmapDirectoryOffset));
      return { type: EXTENSION_TYPE.bitmaps, data };
    }
    case "fullDiskEncryption": {
      const data = new Uint8Array(FULL_DISK_ENCRYPTION_BYTES);
      const view = new DataView(data.buffer);
      view.setBigUint64(0, BigInt(extension.offset));
      view.setBigUint64(8, BigInt(extension.length));
      return { type: EXTENSION_TYPE.fullDiskEncryption, data };
    }
    case "dataFile":
      return { type: EXTENSION_TYPE.dataFile, data: encodeName(extension.name) };
    case "unknown":
      break;
  }
  return { type: extension.type, data: extension.data };
}

function decodeBackingFormat(data: Uint8Array, offset: number): HeaderExtension {
  if (data.length > BACKING_FORMAT_BYTES_MAX) {
    throw corrupt(
      `the backing format has ${data.length} bytes; at most ${BACKING_FORMAT_BYTES_MAX} are allowed`,
      "backing_format",
      offset,
    );
  }
  return { kind: "backingFormat", format: decodeLatin1(data) };
}

/** The table decoded last. The images of a group nearly always carry the same one. */
let lastTable: { readonly data: Uint8Array; readonly extension: HeaderExtension } | undefined;

function decodeFeatureNames(data: Uint8Array, offset: number): HeaderExtension {
  if (lastTable && Buffer.compare(lastTable.data, data) === 0) return lastTable.extension;
  const extension = decodeFeatureTable(data, offset);
  lastTable = { data: data.slice(), extension };
  return extension;
}

function decodeFeatureTable(data: Uint8Array, offset: number): HeaderExtension {
  if (data.length % FEATURE_NAME_BYTES !== 0) {
    throw corrupt("the feature name table ends inside an entry", "feature_name_table", offset);
  }
  const names: FeatureName[] = [];
  for (let at = 0; at < data.length; at += FEATURE_NAME_BYTES) {
    const type = FEATURE_TYPES[data[at] ?? 0xff];
    const bit = data[at + 1] ?? 0xff;
    if (type === undefined || bit > 63) {
      throw corrupt("an entry of the feature name table names no feature", "feature_name_table", offset + at);
    }
    let end = at + FEATURE_NAME_BYTES;
    while (end > at + 2 && data[end - 1] === 0) end -= 1;
    names.push({ type, bit, name: decodeLatin1(data.subarray(at + 2, end)) });
  }
  return { kind: "featureNames", names };
}

/** By the list itself: nearly always it is the table that goes into every new image. */
const encodedTables = new WeakMap<readonly FeatureName[], Uint8Array>();

function encodeFeatureNames(names: readonly FeatureName[]): Uint8Array {
  const known = encodedTables.get(names) ?? encodeFeatureTable(names);
  encodedTables.set(names, known);
  return known;
}

function encodeFeatureTable(names: readonly FeatureName[]): Uint8Array {
  const data = new Uint8Array(names.length * FEATURE_NAME_BYTES);
  names.forEach((entry, index) => {
    const at = index * FEATURE_NAME_BYTES;
    const text = encodeLatin1(entry.name);
    if (text.length > FEATURE_TEXT_BYTES) throw new RangeError("a feature name has at most 46 bytes");
    data[at] = FEATURE_TYPES.indexOf(entry.type);
    data[at + 1] = entry.bit;
    data.set(text, at + 2);
  });
  return data;
}

function decodeBitmaps(data: Uint8Array, offset: number): HeaderExtension {
  requireLength(data, BITMAPS_BYTES, "bitmaps", offset);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  if (view.getUint32(4) !== 0) throw corrupt("a reserved field is not zero", "bitmaps", offset + 4);
  return {
    kind: "bitmaps",
    nbBitmaps: view.getUint32(0),
    bitmapDirectorySize: readNumber(view, 8, "bitmap_directory_size", offset),
    bitmapDirectoryOffset: hostOffset(readNumber(view, 16, "bitmap_directory_offset", offset)),
  };
}

function decodeFullDiskEncryption(data: Uint8Array, offset: number): HeaderExtension {
  requireLength(data, FULL_DISK_ENCRYPTION_BYTES, "full_disk_encryption", offset);
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  return {
    kind: "fullDiskEncryption",
    offset: hostOffset(readNumber(view, 0, "full_disk_encryption", offset)),
    length: readNumber(view, 8, "full_disk_encryption", offset),
  };
}

const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/**
 * A file name stored in an image. E_CORRUPT where it holds a NUL; E_UNSUPPORTED where it is not UTF-8,
 * because it could not be handed to the system unchanged.
 */
export function decodeName(bytes: Uint8Array, what: string, offset: number): string {
  if (bytes.includes(0)) throw corrupt(`the ${what} holds a NUL byte`, what.replaceAll(" ", "_"), offset);
  try {
    return UTF8.decode(bytes);
  } catch (cause) {
    throw new ImgtxError("E_UNSUPPORTED", `the ${what} is not UTF-8`, {
      field: what.replaceAll(" ", "_"),
      offset,
      hint: "rename the file, then store its new name with `qemu-img rebase -u`",
      cause,
    });
  }
}

export function encodeName(name: string): Uint8Array {
  return new TextEncoder().encode(name);
}

function encodeLatin1(text: string): Uint8Array {
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at += 1) {
    const code = text.charCodeAt(at);
    if (code > 0xff) throw new RangeError("not Latin-1");
    bytes[at] = code;
  }
  return bytes;
}

function readNumber(view: DataView, at: number, field: string, offset: number): number {
  const value = safeNumber(view.getBigUint64(at));
  if (value === undefined) throw corrupt(`${field} points past the end of any file`, field, offset + at);
  return value;
}

function requireLength(data: Uint8Array, lengthBytes: number, field: string, offset: number): void {
  if (data.length === lengthBytes) return;
  throw corrupt(`the extension has ${data.length} bytes instead of ${lengthBytes}`, field, offset);
}

function tooLarge(offset: number): ImgtxError {
  return corrupt("Header extension too large: it does not fit the header cluster", "extension", offset);
}

function corrupt(message: string, field: string, offset: number): ImgtxError {
  return new ImgtxError("E_CORRUPT", message, { field, offset });
}

export function roundUpTo8(length: number): number {
  return alignUp(length, 8);
}
