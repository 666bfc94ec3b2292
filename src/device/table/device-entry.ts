// A device as the table and the journals keep it: its images as they were, its mirror, its freeze.
//
// A chain's entry names its external data file too: a device that writes to one must not share it, and a way back must find
// it as it was.

import type { Fingerprint, ImageFormat } from "../../format/index.ts";

/** One image of a chain, as it was when the generation was made. */
export interface ChainEntry {
  readonly image: string;
  readonly format: ImageFormat;
  /** The backing file name that the overlay above stores for this image; null for the active layer. */
  readonly name: string | null;
  readonly fingerprint: Fingerprint;
  /** Its external data file; null where it has none. */
  readonly dataFile: { readonly image: string; readonly fingerprint: Fingerprint } | null;
  /** The snapshot that keeps it, of the device whose chain this is. Absent: none does, or nobody knows. */
  readonly sealedBy?: number | undefined;
  /** Whether imgtx made it, where no snapshot says so any more: it may be merged and removed. Absent: nobody knows. */
  readonly isMade?: boolean | undefined;
}

/** A file as it was. */
export type SeenFile = Pick<ChainEntry, "image" | "fingerprint">;

/** An image and its external data file. */
export function filesOfEntry(entry: ChainEntry): readonly SeenFile[] {
  return entry.dataFile ? [entry, entry.dataFile] : [entry];
}

/** All files that a device stands on, and its mirror; active layers first. */
export function filesOfDevice({ chain, mirror }: Pick<DeviceEntry, "chain" | "mirror">): readonly SeenFile[] {
  return [...chain, ...(mirror?.chain ?? [])].flatMap(filesOfEntry);
}

type ImageName = Pick<DeviceEntry, "image" | "format">;

/** Whether a device is on the same image at two times. Null and undefined: it is not there. */
export function isSameImage(a: ImageName | null | undefined, b: ImageName | null | undefined): boolean {
  return a?.image === b?.image && a?.format === b?.format;
}

export type MirrorSync = "full" | "top" | "none";

/** A copy of a device that is kept up by `mirror`, and that `reopen` may change to. */
export interface MirrorEntry {
  readonly image: string;
  readonly format: ImageFormat;
  /** What it holds: the whole content, the active layer's alone over the same backing image, or nothing yet. */
  readonly sync: MirrorSync;
  /** The mirror's own chain, as it was when it was last brought in sync. Its first image is the mirror. */
  readonly chain: readonly ChainEntry[];
  /** The chain of the device that it is a copy of, as it was then. */
  readonly source: readonly ChainEntry[];
  /** When that was, ISO 8601, UTC. Absent: not yet, or an imgtx before this one did it. */
  readonly syncedAt?: string | undefined;
  /** The persistent bitmap in the source's active layer that marks what was written since; null: none. */
  readonly bitmap: string | null;
  /** The bitmap that was made with it and tells of others than guests; without one, it is not relied on. */
  readonly witness?: string | undefined;
}

/** Bytes of an image that were overwritten to fence it, and what stood there before. */
export interface FenceEntry {
  readonly image: string;
  readonly offset: number;
  /** Base64; both are equally long. */
  readonly before: string;
  readonly after: string;
  /** Modification time before, in nanoseconds since 1970. */
  readonly modifiedNs: string;
  /** The header's digest in the fingerprint before. */
  readonly unfencedSha256: string;
}

/** A fence that a transaction raises when it is committed: until then nobody knows its bytes. */
export function fenceToRaise(image: string, modifiedNs: string): FenceEntry {
  return { image, offset: 0, before: "", after: "", modifiedNs, unfencedSha256: "" };
}

export function isRaised({ after }: FenceEntry): boolean {
  return after !== "";
}

export interface FrozenEntry {
  /** ISO 8601, UTC. */
  readonly since: string;
  /** User name. */
  readonly by: string;
  /** None for images that have no place for a fence: raw, and qcow2 version 2. */
  readonly fences: readonly FenceEntry[];
}

export interface DeviceEntry {
  readonly name: string;
  readonly image: string;
  readonly format: ImageFormat;
  /** As it was when the generation was made. */
  readonly virtualSizeBytes: number;
  readonly chain: readonly ChainEntry[];
  readonly mirror: MirrorEntry | null;
  readonly frozen: FrozenEntry | null;
  /**
   * Folders and files that its images may lead to, for raw backing images and data files. Absent: none that
   * anybody named.
   */
  readonly trusted?: readonly string[] | undefined;
  /** The overlay that imgtx made for it: where that is its image, imgtx may remove it when nobody needs it any more. */
  readonly made?: string | undefined;
  /** The command that makes and removes its volumes: a program, by its path, and its first arguments. Absent: none. */
  readonly provision?: readonly string[] | undefined;
}

export function mapEntryPaths(
  entry: DeviceEntry,
  map: (path: string) => string,
  done = new Map<ChainEntry, ChainEntry>(),
): DeviceEntry {
  const { mirror, frozen, trusted, made, provision } = entry;
  return {
    ...entry,
    ...(provision && { provision: mapProgram(provision, map) }),
    ...(made !== undefined && { made: map(made) }),
    ...(trusted && { trusted: trusted.map(map) }),
    image: map(entry.image),
    chain: mapChainPaths(entry.chain, map, done),
    mirror: mirror && {
      ...mirror,
      image: map(mirror.image),
      chain: mapChainPaths(mirror.chain, map, done),
      source: mapChainPaths(mirror.source, map, done),
    },
    frozen: frozen && {
      ...frozen,
      fences: frozen.fences.map((fence) => ({ ...fence, image: map(fence.image) })),
    },
  };
}

/** A command whose program is a path, and whose arguments are not known to be any. */
export function mapProgram(
  [program = "", ...rest]: readonly string[],
  map: (path: string) => string,
): readonly string[] {
  return [map(program), ...rest];
}

/** What several chains have stays one object. */
function mapChainPaths(
  chain: readonly ChainEntry[],
  map: (path: string) => string,
  done: Map<ChainEntry, ChainEntry>,
): ChainEntry[] {
  return chain.map((element) => {
    const known = done.get(element);
    if (known) return known;
    const mapped = mapImagePaths(element, map);
    done.set(element, mapped);
    return mapped;
  });
}

export function mapImagePaths(element: ChainEntry, map: (path: string) => string): ChainEntry {
  const { image, dataFile } = element;
  return { ...element, image: map(image), dataFile: dataFile && { ...dataFile, image: map(dataFile.image) } };
}

/** The same chain with what files of it look like. */
export function withLooksIn(
  chain: readonly ChainEntry[],
  looks: ReadonlyMap<string, Fingerprint>,
): ChainEntry[] {
  const renew = <File extends SeenFile>(file: File): File => {
    const fingerprint = looks.get(file.image);
    return fingerprint ? { ...file, fingerprint } : file;
  };
  return chain.map((one) => {
    const { dataFile } = one;
    return dataFile && looks.has(dataFile.image) ? { ...renew(one), dataFile: renew(dataFile) } : renew(one);
  });
}

/** The same entry with what images of its chain look like, and with the times that its fences put back then. */
export function withLooks(
  entry: DeviceEntry,
  looks: ReadonlyMap<string, Fingerprint> | undefined,
): DeviceEntry {
  if (!looks) return entry;
  const { frozen } = entry;
  return {
    ...entry,
    chain: withLooksIn(entry.chain, looks),
    frozen: frozen && {
      ...frozen,
      fences: frozen.fences.map((fence) => ({
        ...fence,
        modifiedNs: looks.get(fence.image)?.modifiedNs || fence.modifiedNs,
      })),
    },
  };
}

/** A device that gets another name. */
export interface Renaming {
  readonly from: string;
  readonly to: string;
}

/** One that has it, since that generation. */
export interface Renamed extends Renaming {
  readonly below: number;
}
