// Headers as bytes and as fields, for the codec tests: what qemu-img 7.2 writes, and arbitrary ones.

import * as fc from "fast-check";
import { hostOffset } from "../../../src/units/index.ts";
import type { FeatureName } from "../../../src/format/qcow2/codec/features.ts";
import { FEATURE_TYPES } from "../../../src/format/qcow2/codec/features.ts";
import { FIELDS_OF_VERSION_2, type HeaderFields } from "../../../src/format/qcow2/codec/header.ts";
import type { HeaderExtension } from "../../../src/format/qcow2/codec/header-extension.ts";

export function fromHex(hex: string): Uint8Array {
  return Uint8Array.from(Buffer.from(hex.replaceAll(/\s/g, ""), "hex"));
}

/** `qemu-img create -f qcow2 -b b.raw -F raw o.qcow2` of a base of 1024 bytes: bytes 0 to 111. */
export const HEADER_V3 = fromHex(`
  514649fb 00000003 0000000000000210 00000005 00000010 0000000000000400 00000000 00000001
  0000000000030000 0000000000010000 00000001 00000000 0000000000000000
  0000000000000000 0000000000000000 0000000000000000 00000004 00000070 00 00000000000000`);

/** The same with `-o compat=0.10`: cluster 0 up to the end of the backing file name. */
export const CLUSTER_V2 = fromHex(`
  514649fb 00000002 0000000000000060 00000005 00000010 0000000000000400 00000000 00000001
  0000000000030000 0000000000010000 00000001 00000000 0000000000000000
  e2792aca 00000003 7261770000000000 00000000 00000000 622e726177`);

/** The same with `-o cluster_size=512`, where QEMU leaves out the feature name table. */
export const CLUSTER_512 = fromHex(`
  514649fb 00000003 0000000000000088 00000005 00000009 0000000000000400 00000000 00000001
  0000000000000600 0000000000000200 00000001 00000000 0000000000000000
  0000000000000000 0000000000000000 0000000000000000 00000004 00000070 00 00000000000000
  e2792aca 00000003 7261770000000000 00000000 00000000 622e726177`);

/** A header of these sizes has every table in its file. */
export const SAMPLE_FILE_BYTES = 0x30008;

/** Overwrites bytes of a copy. */
export function patch(bytes: Uint8Array, at: number, hex: string): Uint8Array {
  const copy = bytes.slice();
  copy.set(fromHex(hex), at);
  return copy;
}

const word = fc.nat({ max: 0xffffffff });
const offset = fc.maxSafeNat().map((bytes) => hostOffset(bytes));
const knownBits = fc.subarray([0, 1, 2], { minLength: 0 });
const anyBits = fc.uniqueArray(fc.integer({ min: 0, max: 63 })).map((bits) => bits.sort((a, b) => a - b));

/** Fields that decodeHeader accepts; whether their tables can be true is another matter. */
export const headerFields: fc.Arbitrary<HeaderFields> = fc
  .record({
    version: fc.constantFrom(2 as const, 3 as const),
    backingFileOffset: offset,
    backingFileSize: word,
    clusterBits: fc.integer({ min: 9, max: 21 }),
    size: fc.maxSafeNat(),
    cryptMethod: word,
    l1Size: word,
    l1TableOffset: offset,
    refcountTableOffset: offset,
    refcountTableClusters: word,
    nbSnapshots: word,
    snapshotsOffset: offset,
    incompatible: knownBits,
    extendedL2: fc.boolean(),
    compatibleFeatures: anyBits,
    autoclearFeatures: anyBits,
    refcountOrder: fc.integer({ min: 0, max: 6 }),
    headerWords: fc.integer({ min: 13, max: 20 }),
    zstd: fc.boolean(),
    further: fc.uint8Array({ minLength: 64, maxLength: 64 }),
  })
  .map((parts) => {
    const { incompatible, extendedL2, compatibleFeatures, autoclearFeatures, refcountOrder } = parts;
    const { headerWords, zstd, further, ...common } = parts;
    if (common.version === 2) return { ...withoutParts(common), ...FIELDS_OF_VERSION_2 };
    const headerLength = headerWords * 8;
    const compressionType = headerLength > 104 && zstd ? 1 : 0;
    return {
      ...withoutParts(common),
      incompatibleFeatures: [
        ...incompatible,
        ...(compressionType === 1 ? [3] : []),
        ...(extendedL2 && common.clusterBits >= 14 ? [4] : []),
      ],
      compatibleFeatures,
      autoclearFeatures,
      refcountOrder,
      headerLength,
      compressionType,
      furtherFields: further.slice(0, Math.max(0, headerLength - 105)),
    };
  });

type FixedFields = Omit<HeaderFields, keyof typeof FIELDS_OF_VERSION_2>;

function withoutParts(parts: FixedFields): FixedFields {
  const { version, backingFileOffset, backingFileSize, clusterBits, size, cryptMethod, l1Size } = parts;
  const { l1TableOffset, refcountTableOffset, refcountTableClusters, nbSnapshots, snapshotsOffset } = parts;
  return {
    version,
    backingFileOffset,
    backingFileSize,
    clusterBits,
    size,
    cryptMethod,
    l1Size,
    l1TableOffset,
    refcountTableOffset,
    refcountTableClusters,
    nbSnapshots,
    snapshotsOffset,
  };
}

const latin1 = (maxLength: number) =>
  fc.uint8Array({ maxLength }).map((bytes) => Buffer.from(bytes).toString("latin1").replaceAll(/\0+$/g, ""));

const featureName: fc.Arbitrary<FeatureName> = fc.record({
  type: fc.constantFrom(...FEATURE_TYPES),
  bit: fc.integer({ min: 0, max: 63 }),
  name: latin1(46),
});

const KNOWN_TYPES = [0, 0xe2792aca, 0x6803f857, 0x23852875, 0x0537be77, 0x44415441];

const extension: fc.Arbitrary<HeaderExtension> = fc.oneof(
  fc.record({ kind: fc.constant("backingFormat" as const), format: latin1(15) }),
  fc.record({ kind: fc.constant("featureNames" as const), names: fc.array(featureName, { maxLength: 9 }) }),
  fc.record({
    kind: fc.constant("bitmaps" as const),
    nbBitmaps: word,
    bitmapDirectorySize: fc.maxSafeNat(),
    bitmapDirectoryOffset: offset,
  }),
  fc.record({ kind: fc.constant("fullDiskEncryption" as const), offset, length: fc.maxSafeNat() }),
  fc.record({
    kind: fc.constant("dataFile" as const),
    name: fc.string({ unit: "grapheme" }).filter((name) => !name.includes("\0")),
  }),
  fc.record({
    kind: fc.constant("unknown" as const),
    type: word.filter((type) => !KNOWN_TYPES.includes(type)),
    data: fc.uint8Array({ maxLength: 40 }),
  }),
);

/** Lists of extensions as a header may hold them: each known kind at most once. */
export const headerExtensions: fc.Arbitrary<HeaderExtension[]> = fc.uniqueArray(extension, {
  maxLength: 8,
  comparator: (one, other) => one.kind === other.kind && one.kind !== "unknown",
});
