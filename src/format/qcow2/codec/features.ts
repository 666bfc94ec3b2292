// The feature bits of a version 3 header, by name (qcow2 specification, "Header", bytes 72 to 95).
//
// A mask is held as the ascending list of the bits that are set: it goes into JSON as it is, and no 64-bit
// word leaves the codec.

/** Bits of incompatible_features: whoever does not know one of them must not open the image. */
export const INCOMPATIBLE_BIT = {
  dirty: 0,
  corrupt: 1,
  externalDataFile: 2,
  compressionType: 3,
  extendedL2: 4,
  /**
   * imgtx's own: the image is fenced, and nobody may write to it. A high bit, since the specification hands
   * them out from the lowest on, and all of 5 to 63 are to make a reader refuse that does not know them. Not the
   * highest: who reads the mask as a signed word would take the whole of it for negative.
   */
  fence: 62,
} as const;

/** Bits of compatible_features: safe to ignore. */
export const COMPATIBLE_BIT = { lazyRefcounts: 0 } as const;

/** Bits of autoclear_features: cleared by a writer that does not keep them up. */
export const AUTOCLEAR_BIT = { bitmaps: 0, rawExternalData: 1 } as const;

export const FEATURE_TYPES = ["incompatible", "compatible", "autoclear"] as const;
type FeatureType = (typeof FEATURE_TYPES)[number];

/** One entry of the feature name table. */
export interface FeatureName {
  readonly type: FeatureType;
  /** 0 to 63. */
  readonly bit: number;
  /** At most 46 characters of Latin-1. */
  readonly name: string;
}

/** Smaller clusters have no room for the feature name table beside a backing file name. */
export const FEATURE_NAMES_CLUSTER_BITS_MIN = 13;

/** The table as QEMU writes it into each new image, in its order. */
export const KNOWN_FEATURES: readonly FeatureName[] = [
  { type: "incompatible", bit: INCOMPATIBLE_BIT.dirty, name: "dirty bit" },
  { type: "incompatible", bit: INCOMPATIBLE_BIT.corrupt, name: "corrupt bit" },
  { type: "incompatible", bit: INCOMPATIBLE_BIT.externalDataFile, name: "external data file" },
  { type: "incompatible", bit: INCOMPATIBLE_BIT.compressionType, name: "compression type" },
  { type: "incompatible", bit: INCOMPATIBLE_BIT.extendedL2, name: "extended L2 entries" },
  { type: "compatible", bit: COMPATIBLE_BIT.lazyRefcounts, name: "lazy refcounts" },
  { type: "autoclear", bit: AUTOCLEAR_BIT.bitmaps, name: "bitmaps" },
  { type: "autoclear", bit: AUTOCLEAR_BIT.rawExternalData, name: "raw external data" },
];

/** The bits set in the 64-bit mask at an offset, ascending. */
export function decodeFeatureBits(view: DataView, at: number): number[] {
  const high = view.getUint32(at);
  const low = view.getUint32(at + 4);
  const bits: number[] = [];
  if (high === 0 && low === 0) return bits;
  for (let bit = 0; bit < 32; bit += 1) if ((low >>> bit) & 1) bits.push(bit);
  for (let bit = 0; bit < 32; bit += 1) if ((high >>> bit) & 1) bits.push(bit + 32);
  return bits;
}

export function encodeFeatureBits(bits: readonly number[]): bigint {
  return bits.reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);
}

/** Incompatible bits that this version of imgtx does not know. */
export function findUnknownIncompatibleBits(bits: readonly number[]): number[] {
  const known: readonly number[] = Object.values(INCOMPATIBLE_BIT);
  return bits.filter((bit) => !known.includes(bit));
}

/** What the image itself calls an incompatible bit, if it says so. */
export function nameIncompatibleBit(names: readonly FeatureName[], bit: number): string | undefined {
  return names.find((entry) => entry.type === "incompatible" && entry.bit === bit)?.name;
}
