// Numbers that must not be mixed up. An offset in an image file and one on a guest's disk are both "a
// number of bytes", and confusing them destroys data; the brand makes that a type error.
//
// Invariant: every 64-bit word read from an image becomes a number through safeNumber, which refuses
// what 2^53 can't hold. Above the codecs there is no bigint.

declare const unit: unique symbol;

/** A number of one kind, which passes for one without a kind, and for none of another. */
export type Branded<Kind extends string> = number & { readonly [unit]: Kind };

/** A byte offset in an image file. */
export type HostOffset = Branded<"HostOffset">;

/** The index of a cluster in an image file. */
export type ClusterIndex = Branded<"ClusterIndex">;

/** A byte offset on a guest's disk. */
export type GuestOffset = Branded<"GuestOffset">;

/** Bytes of a guest's disk. */
export interface GuestRange {
  readonly start: GuestOffset;
  readonly lengthBytes: number;
}

/** The number that a 64-bit word holds, or undefined where a double can't hold it exactly. */
export function safeNumber(word: bigint): number | undefined {
  return word >= 0n && word <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(word) : undefined;
}

export function hostOffset(bytes: number): HostOffset {
  assertOffset(bytes);
  return bytes as HostOffset;
}

export function guestOffset(bytes: number): GuestOffset {
  assertOffset(bytes);
  return bytes as GuestOffset;
}

export function clusterIndex(clusters: number): ClusterIndex {
  assertOffset(clusters);
  return clusters as ClusterIndex;
}

/** The cluster that the byte is in. */
export function clusterAt(offset: HostOffset, clusterBytes: number): ClusterIndex {
  return Math.floor(offset / clusterBytes) as ClusterIndex;
}

/** Where the cluster begins. */
export function startOf(cluster: ClusterIndex, clusterBytes: number): HostOffset {
  return (cluster * clusterBytes) as HostOffset;
}

/** So many bytes, clusters or pages further on, in the same place. For loops: the sum is not looked at. */
export function offsetBy<T extends number>(place: T, further: number): T {
  return (place + further) as T;
}

/** The one that comes first. */
export function earliest<T extends number>(...places: readonly T[]): T {
  return Math.min(...places) as T;
}

/** The last multiple of the unit that does not lie after the place. */
export function alignDown<T extends number>(place: T, unit: number): T {
  return (Math.floor(place / unit) * unit) as T;
}

/** The first multiple of the unit that does not lie before the place. */
export function alignUp<T extends number>(place: T, unit: number): T {
  return (Math.ceil(place / unit) * unit) as T;
}

/** Where the next unit begins, after the one that the place is in. */
export function nextUnit<T extends number>(place: T, unit: number): T {
  return ((Math.floor(place / unit) + 1) * unit) as T;
}

export function guestRange(start: number, lengthBytes: number): GuestRange {
  return { start: guestOffset(start), lengthBytes };
}

export function rangeTo(start: GuestOffset, end: GuestOffset): GuestRange {
  return { start, lengthBytes: end - start };
}

/** The first byte after a range. */
export function endOf({ start, lengthBytes }: GuestRange): GuestOffset {
  return offsetBy(start, lengthBytes);
}

function assertOffset(bytes: number): void {
  if (!Number.isSafeInteger(bytes) || bytes < 0) throw new RangeError(`not an offset: ${bytes}`);
}
