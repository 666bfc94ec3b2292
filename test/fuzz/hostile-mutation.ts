// What a hostile image is made by: changes of a sound one, each aimed at a structure, as plain data that
// fast-check makes up and shrinks, and a test can hold.
//
// Invariant: any list of mutations fits any image. An index beyond a structure wraps around, and what an image
// does not have is left alone.

import * as fc from "fast-check";
import { REGION_NAMES, type Region, type RegionName, type Structure } from "./image-structure.ts";

/** A word to be put somewhere, as far as it can be said without knowing the image. */
type Value =
  | { readonly of: "number"; readonly word: bigint }
  /** Bytes from the start of a cluster of the file; `beyond` counts from its end. */
  | { readonly of: "place"; readonly cluster: number; readonly bytes: number; readonly flags: bigint }
  | { readonly of: "beyond"; readonly bytes: number; readonly flags: bigint }
  /** What some structure lies at. */
  | { readonly of: "structure"; readonly index: number; readonly flags: bigint }
  | { readonly of: "flip"; readonly bit: number }
  | { readonly of: "add"; readonly delta: number };

export type Mutation =
  | { readonly kind: "field"; readonly field: FieldName; readonly value: Value }
  | { readonly kind: "word"; readonly region: RegionName; readonly index: number; readonly value: Value }
  | {
      readonly kind: "copy";
      readonly region: RegionName;
      readonly source: number;
      readonly target: number;
      readonly words: number;
    }
  | { readonly kind: "name"; readonly which: "backing" | "data"; readonly name: string }
  | { readonly kind: "extension"; readonly type: number; readonly lengthBytes: number; readonly text: string }
  | { readonly kind: "truncate"; readonly eighths: number; readonly bytes: number }
  | { readonly kind: "extend"; readonly bytes: number };

/** Offset and width of each field of the header. */
const FIELDS = {
  magic: [0, 4],
  version: [4, 4],
  backingFileOffset: [8, 8],
  backingFileSize: [16, 4],
  clusterBits: [20, 4],
  size: [24, 8],
  cryptMethod: [32, 4],
  l1Size: [36, 4],
  l1TableOffset: [40, 8],
  refcountTableOffset: [48, 8],
  refcountTableClusters: [56, 4],
  nbSnapshots: [60, 4],
  snapshotsOffset: [64, 8],
  incompatibleFeatures: [72, 8],
  compatibleFeatures: [80, 8],
  autoclearFeatures: [88, 8],
  refcountOrder: [96, 4],
  headerLength: [100, 4],
  compressionType: [104, 4],
} as const;
type FieldName = keyof typeof FIELDS;
const FIELD_NAMES = Object.keys(FIELDS) as FieldName[];

const EXTENSION_TYPES = [
  0, 0xe2792aca, 0x6803f857, 0x23852875, 0x0537be77, 0x44415441, 0x696d6774, 0xffffffff,
];
/** Where names lead to is on the fuzzer's disk: see hostile-subject.ts. */
const HOSTILE_NAMES = [
  "",
  ".",
  "..",
  "/",
  "secret.raw",
  "../host/secret.raw",
  "/host/secret.raw",
  "/host/golden.qcow2",
  "/dev/null",
  "image.qcow2",
  "./image.qcow2",
  "/fuzz/image/image.qcow2",
  "/fuzz/image/beside.raw",
  "json:{}",
  'json:{"driver":"file","filename":"/host/secret.raw"}',
  "nbd://127.0.0.1/",
  "file:/host/secret.raw",
  "fat:rw:/host",
  "a\u0000b",
  "\u001b[31mred\n",
  "x".repeat(1023),
];

const FLAGS = [
  0n,
  1n,
  2n,
  1n << 55n,
  1n << 56n,
  1n << 61n,
  1n << 62n,
  1n << 63n,
  3n << 62n,
  (1n << 63n) | 1n,
  (1n << 62n) | 511n,
];
const NUMBERS = [
  0n,
  1n,
  2n,
  3n,
  4n,
  7n,
  8n,
  9n,
  16n,
  21n,
  22n,
  63n,
  64n,
  112n,
  511n,
  512n,
  4096n,
  65536n,
  65537n,
  1n << 31n,
  (1n << 32n) - 1n,
  1n << 32n,
  1n << 53n,
  (1n << 53n) - 1n,
  (1n << 56n) - 512n,
  (1n << 63n) - 1n,
  1n << 63n,
  (1n << 64n) - 1n,
];

const flags = fc.constantFrom(...FLAGS);
const small = fc.constantFrom(0, 0, 0, 1, 8, 511, 512, 4096);
const value: fc.Arbitrary<Value> = fc.oneof(
  fc.record({ of: fc.constant("number" as const), word: fc.constantFrom(...NUMBERS) }),
  fc.record({ of: fc.constant("number" as const), word: fc.bigInt({ min: 0n, max: (1n << 64n) - 1n }) }),
  fc.record({ of: fc.constant("place" as const), cluster: fc.nat(40), bytes: small, flags }),
  fc.record({ of: fc.constant("beyond" as const), bytes: small, flags }),
  fc.record({ of: fc.constant("structure" as const), index: fc.nat(20), flags }),
  fc.record({ of: fc.constant("flip" as const), bit: fc.nat(63) }),
  fc.record({ of: fc.constant("add" as const), delta: fc.constantFrom(-512, -8, -1, 1, 8, 512, 65536) }),
);
const region = fc.constantFrom(...REGION_NAMES);

const mutation: fc.Arbitrary<Mutation> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      kind: fc.constant("field" as const),
      field: fc.constantFrom(...FIELD_NAMES),
      value,
    }),
  },
  {
    weight: 14,
    arbitrary: fc.record({ kind: fc.constant("word" as const), region, index: fc.nat(600), value }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      kind: fc.constant("copy" as const),
      region,
      source: fc.nat(600),
      target: fc.nat(600),
      words: fc.integer({ min: 1, max: 16 }),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("name" as const),
      which: fc.constantFrom("backing" as const, "data" as const),
      name: fc.constantFrom(...HOSTILE_NAMES),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("extension" as const),
      type: fc.constantFrom(...EXTENSION_TYPES),
      lengthBytes: fc.constantFrom(0, 1, 3, 5, 8, 16, 24, 48, 1024, 65536, 0x7fffffff, 0xffffffff),
      text: fc.constantFrom("", "raw", "qcow2", "vmdk", "/host/secret.raw", "beside.raw", "\u0000\u0000"),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("truncate" as const), eighths: fc.nat(8), bytes: fc.nat(1100) }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("extend" as const), bytes: fc.nat(5000) }) },
);

/** Few: what one change hides, the next case shows. */
export const mutations: fc.Arbitrary<Mutation[]> = fc.array(mutation, { minLength: 1, maxLength: 5 });

/** The image with the mutations, one after the other, in memory of its own. */
export function mutate(original: Buffer, structure: Structure, list: readonly Mutation[]): Buffer {
  let image = Buffer.from(original);
  for (const each of list) image = applyOne(image, structure, each);
  return image;
}

function applyOne(image: Buffer<ArrayBuffer>, structure: Structure, each: Mutation): Buffer<ArrayBuffer> {
  switch (each.kind) {
    case "field": {
      const [offset, bytes] = FIELDS[each.field];
      putWord(image, offset, bytes, structure, each.value);
      return image;
    }
    case "word": {
      const found = pick(structure, each.region, each.index);
      if (found) putWord(image, found.at, found.region.wordBytes, structure, each.value);
      return image;
    }
    case "copy":
      return copyWords(image, structure, each);
    case "name":
      return putName(image, structure, each);
    case "extension":
      return putExtension(image, structure, each.type, each.lengthBytes, Buffer.from(each.text, "latin1"));
    case "truncate": {
      const end = Math.floor((image.length * each.eighths) / 8) - each.bytes;
      return image.subarray(0, Math.max(0, end));
    }
    case "extend":
      return Buffer.concat([image, Buffer.alloc(each.bytes)]);
  }
}

/** The word at an index that counts through all regions of the name, and wraps around. */
function pick(
  structure: Structure,
  name: RegionName,
  index: number,
): { at: number; region: Region } | undefined {
  const regions = structure.regions.filter((one) => one.name === name);
  const total = regions.reduce((sum, { words }) => sum + words, 0);
  if (total === 0) return undefined;
  let left = index % total;
  for (const each of regions) {
    if (left < each.words) return { at: each.offset + left * each.wordBytes, region: each };
    left -= each.words;
  }
  return undefined;
}

function putWord(image: Buffer, at: number, bytes: number, structure: Structure, what: Value): void {
  if (at + bytes > image.length) return;
  const before = bytes === 8 ? image.readBigUInt64BE(at) : BigInt(image.readUInt32BE(at));
  const word = BigInt.asUintN(bytes * 8, resolve(what, before, image, structure));
  if (bytes === 8) image.writeBigUInt64BE(word, at);
  else image.writeUInt32BE(Number(word), at);
}

function resolve(what: Value, before: bigint, image: Buffer, structure: Structure): bigint {
  switch (what.of) {
    case "number":
      return what.word;
    case "place":
      return (BigInt(what.cluster) * (1n << BigInt(structure.clusterBits)) + BigInt(what.bytes)) | what.flags;
    case "beyond":
      return (BigInt(Math.ceil(image.length / 512) * 512) + BigInt(what.bytes)) | what.flags;
    case "structure":
      return BigInt(structure.regions[what.index % structure.regions.length]?.offset ?? 0) | what.flags;
    case "flip":
      return before ^ (1n << BigInt(what.bit));
    case "add":
      return before + BigInt(what.delta);
  }
}

function copyWords(
  image: Buffer<ArrayBuffer>,
  structure: Structure,
  each: Mutation & { kind: "copy" },
): Buffer<ArrayBuffer> {
  const source = pick(structure, each.region, each.source);
  const target = pick(structure, each.region, each.target);
  if (!source || !target) return image;
  const bytes = each.words * source.region.wordBytes;
  Buffer.from(image.subarray(source.at, source.at + bytes)).copy(image, target.at);
  return image;
}

function putName(
  image: Buffer<ArrayBuffer>,
  structure: Structure,
  { which, name }: Mutation & { kind: "name" },
): Buffer<ArrayBuffer> {
  const bytes = Buffer.from(name);
  if (which === "data") {
    const named = putExtension(image, structure, 0x44415441, bytes.length, bytes);
    if (named.length >= 80) named.writeBigUInt64BE(named.readBigUInt64BE(72) | 4n, 72);
    return named;
  }
  const clusterBytes = 2 ** structure.clusterBits;
  const offset = structure.backingFileOffset || clusterBytes - bytes.length;
  if (offset < 0 || offset + bytes.length > image.length || image.length < 24) return image;
  bytes.copy(image, offset);
  image.writeBigUInt64BE(BigInt(offset), 8);
  image.writeUInt32BE(bytes.length, 16);
  return image;
}

/** In front of the other extensions, which move on; what no longer fits into cluster 0 is cut off. */
function putExtension(
  image: Buffer<ArrayBuffer>,
  structure: Structure,
  type: number,
  lengthBytes: number,
  text: Buffer,
): Buffer<ArrayBuffer> {
  const body = Buffer.alloc(Math.ceil(Math.min(lengthBytes, 2048) / 8) * 8);
  text.copy(body);
  const start = structure.headerLength;
  const end = Math.min(image.length, structure.backingFileOffset || 2 ** structure.clusterBits);
  if (start + 8 + body.length > end) return image;
  const rest = Buffer.from(image.subarray(start, end));
  image.writeUInt32BE(type, start);
  image.writeUInt32BE(lengthBytes, start + 4);
  body.copy(image, start + 8);
  rest.copy(image, start + 8 + body.length, 0, end - start - 8 - body.length);
  return image;
}
