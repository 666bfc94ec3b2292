// Makes small qcow2 and raw images as bytes, without src and without qemu, for tests that need disks with
// something on them wherever they run.

import { type Random, seededRandom } from "./random.ts";
import { viewOf } from "./guest-content.ts";

export interface SampleImage {
  readonly virtualSizeBytes: number;
  /** Guest clusters that have data, drawn from the seed. */
  readonly dataClusters: readonly number[];
  readonly zeroClusters?: readonly number[];
  readonly seed: number;
  readonly version?: 2 | 3;
  readonly clusterBits?: number;
  readonly backing?: { readonly name: string; readonly format: string };
  readonly extendedL2?: boolean;
  /** Where its data lies: see sampleDataFile. */
  readonly dataFileName?: string;
}

const COPIED = 1n << 63n;
/** All subclusters of an extended entry. */
const ALL_ZERO = 0xffff_ffff_0000_0000n;

export function sampleQcow2(image: SampleImage): Uint8Array {
  const version = image.version ?? 3;
  const clusterBits = image.clusterBits ?? 12;
  const clusterBytes = 2 ** clusterBits;
  const entryBytes = image.extendedL2 ? 16 : 8;
  const perTable = clusterBytes / entryBytes;
  const l1Size = Math.ceil(image.virtualSizeBytes / clusterBytes / perTable);
  const l2Tables = [
    ...new Set(
      [...image.dataClusters, ...(image.zeroClusters ?? [])].map((cluster) => Math.floor(cluster / perTable)),
    ),
  ];
  const l1Clusters = Math.max(1, Math.ceil((l1Size * 8) / clusterBytes));
  const l1Start = 2;
  const l2Start = l1Start + l1Clusters;
  const dataStart = l2Start + l2Tables.length;
  const isExternal = image.dataFileName !== undefined;
  const before = dataStart + (isExternal ? 0 : image.dataClusters.length);
  const perBlock = clusterBytes / 2;
  const blocks = Math.ceil(before / (perBlock - 1));
  const total = before + blocks;
  const bytes = new Uint8Array(total * clusterBytes);
  const view = viewOf(bytes);
  writeHeader(view, image, { version, clusterBits, l1Size, l1Offset: l1Start * clusterBytes });
  for (let block = 0; block < blocks; block += 1) {
    view.setBigUint64(clusterBytes + block * 8, BigInt((before + block) * clusterBytes));
  }
  for (let cluster = 0; cluster < total; cluster += 1) {
    view.setUint16(before * clusterBytes + cluster * 2, 1);
  }
  const entryAt = (cluster: number) =>
    (l2Start + l2Tables.indexOf(Math.floor(cluster / perTable))) * clusterBytes +
    (cluster % perTable) * entryBytes;
  for (const [index, table] of l2Tables.entries()) {
    view.setBigUint64(l1Start * clusterBytes + table * 8, COPIED | BigInt((l2Start + index) * clusterBytes));
  }
  const random = seededRandom(image.seed);
  for (const [index, cluster] of image.dataClusters.entries()) {
    const host = isExternal ? cluster * clusterBytes : (dataStart + index) * clusterBytes;
    view.setBigUint64(entryAt(cluster), COPIED | BigInt(host));
    if (image.extendedL2) view.setBigUint64(entryAt(cluster) + 8, 0xffff_ffffn);
    if (!isExternal) fillAtRandom(bytes, { start: host, lengthBytes: clusterBytes }, random);
  }
  for (const cluster of image.zeroClusters ?? []) {
    view.setBigUint64(entryAt(cluster) + (image.extendedL2 ? 8 : 0), image.extendedL2 ? ALL_ZERO : 1n);
  }
  return bytes;
}

/** What an image with a data file has in it. */
export function sampleDataFile(image: SampleImage): Uint8Array {
  const clusterBytes = 2 ** (image.clusterBits ?? 12);
  const bytes = new Uint8Array(image.virtualSizeBytes);
  const random = seededRandom(image.seed);
  for (const cluster of image.dataClusters) {
    fillAtRandom(bytes, { start: cluster * clusterBytes, lengthBytes: clusterBytes }, random);
  }
  return bytes;
}

/** Of a long range the first bytes: the rest is zeros. */
function fillAtRandom(
  bytes: Uint8Array,
  { start, lengthBytes }: { readonly start: number; readonly lengthBytes: number },
  random: Random,
): void {
  const end = start + Math.min(lengthBytes, 64 * 1024);
  for (let at = start; at < end; at += 1) bytes[at] = random.below(256);
}

function writeHeader(
  view: DataView,
  image: SampleImage,
  place: { version: number; clusterBits: number; l1Size: number; l1Offset: number },
): void {
  const headerBytes = place.version >= 3 ? 104 : 72;
  view.setUint32(0, 0x514649fb);
  view.setUint32(4, place.version);
  view.setUint32(20, place.clusterBits);
  view.setBigUint64(24, BigInt(image.virtualSizeBytes));
  view.setUint32(36, place.l1Size);
  view.setBigUint64(40, BigInt(place.l1Offset));
  view.setBigUint64(48, BigInt(2 ** place.clusterBits));
  view.setUint32(56, 1);
  if (place.version >= 3) {
    const features = (image.extendedL2 ? 16 : 0) + (image.dataFileName === undefined ? 0 : 4);
    view.setBigUint64(72, BigInt(features));
    view.setUint32(96, 4);
    view.setUint32(100, headerBytes);
  }
  const bytes = new Uint8Array(view.buffer, view.byteOffset);
  let end = headerBytes;
  const extend = (type: number, text: string): void => {
    const data = Buffer.from(text);
    view.setUint32(end, type);
    view.setUint32(end + 4, data.length);
    bytes.set(data, end + 8);
    end += 8 + Math.ceil(data.length / 8) * 8;
  };
  if (image.dataFileName !== undefined) extend(0x44415441, image.dataFileName);
  if (!image.backing) return;
  extend(0xe2792aca, image.backing.format);
  const name = Buffer.from(image.backing.name);
  const nameOffset = end + 8;
  bytes.set(name, nameOffset);
  view.setBigUint64(8, BigInt(nameOffset));
  view.setUint32(16, name.length);
}

/** The same image with an extension of a type that nobody knows, whose end leaves 24 bytes of the first sector. */
export function withLongHeader(image: Uint8Array): Uint8Array {
  const [headerBytes, endMarkAt] = [104, 488];
  const bytes = image.slice();
  const view = viewOf(bytes);
  view.setUint32(headerBytes, 0x1b2c3d4e);
  view.setUint32(headerBytes + 4, endMarkAt - headerBytes - 8);
  bytes.fill(0x5a, headerBytes + 8, endMarkAt);
  return bytes;
}

/** A raw disk with some data in it, and zeros in between. */
export function sampleRaw(sizeBytes: number, seed: number): Uint8Array {
  const bytes = new Uint8Array(sizeBytes);
  const random = seededRandom(seed);
  for (let at = 0; at < sizeBytes; at += 8192) {
    for (let byte = at; byte < Math.min(at + 700, sizeBytes); byte += 1) bytes[byte] = random.below(256);
  }
  return bytes;
}
