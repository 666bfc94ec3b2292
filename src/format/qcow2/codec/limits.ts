// How large a qcow2 structure may be. QEMU refuses to open what exceeds these, so imgtx neither writes nor
// trusts it: a forged size must be refused before memory is taken for it.

export const CLUSTER_BITS_MIN = 9;
export const CLUSTER_BITS_MAX = 21;
/** Subclusters of a 32nd of a cluster must not be smaller than 512 bytes. */
export const CLUSTER_BITS_MIN_EXTENDED_L2 = 14;
export const REFCOUNT_ORDER_MAX = 6;
export const L1_TABLE_BYTES_MAX = 32 * 1024 * 1024;
export const REFCOUNT_TABLE_BYTES_MAX = 8 * 1024 * 1024;
export const SNAPSHOTS_MAX = 65_536;
/** Fixed part of an entry of the snapshot table; each entry takes at least this. */
export const SNAPSHOT_ENTRY_BYTES_MIN = 40;
export const SNAPSHOT_TABLE_BYTES_MAX = 64 * 1024 * 1024;
export const SNAPSHOT_EXTRA_BYTES_MAX = 1024;
export const BITMAPS_MAX = 65_535;
export const BITMAP_DIRECTORY_BYTES_MAX = 64 * 1024 * 1024;
/** The clusters of one bitmap together. */
export const BITMAP_BYTES_MAX = 512 * 1024 * 1024;
export const BITMAP_NAME_BYTES_MAX = 1023;
export const BITMAP_GRANULARITY_BITS_MIN = 9;
export const BITMAP_GRANULARITY_BITS_MAX = 31;
export const BACKING_NAME_BYTES_MAX = 1023;
export const BACKING_FORMAT_BYTES_MAX = 15;
/** Host offsets are below 2^56; a double holds 2^53, which no file system exceeds. */
export const TABLE_ENTRY_BYTES = 8;
/** Bits 55 to 9 of an L1, L2 or bitmap table entry, as the two halves of its 64-bit word. */
export const OFFSET_MASK_HI = 0x00ffffff;
export const OFFSET_MASK_LO = 0xfffffe00;

/** Entries that the active L1 table needs for a virtual size ("Cluster mapping"). */
export function countL1Entries(virtualSizeBytes: number, clusterBits: number, extendedL2: boolean): number {
  const clusterSizeBytes = 2 ** clusterBits;
  const l2Entries = clusterSizeBytes / (extendedL2 ? 2 * TABLE_ENTRY_BYTES : TABLE_ENTRY_BYTES);
  return Math.ceil(virtualSizeBytes / (clusterSizeBytes * l2Entries));
}
