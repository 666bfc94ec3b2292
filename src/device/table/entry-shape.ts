// What the entries of the device table look like as data: the table and the journals store them.

import type { Fingerprint, ImageFormat } from "../../format/index.ts";
import {
  isCount,
  isFlag,
  isText,
  listOf,
  objectOf,
  oneOf,
  orAbsent,
  orNull,
  type Shape,
} from "./data-shape.ts";
import type {
  ChainEntry,
  DeviceEntry,
  FenceEntry,
  FrozenEntry,
  MirrorEntry,
  Renamed,
  Renaming,
} from "./device-entry.ts";

export const isImageFormat: Shape<ImageFormat> = oneOf("qcow2", "raw");

export const isFingerprint = objectOf<Fingerprint>({
  sizeBytes: isCount,
  modifiedNs: isText,
  inode: isText,
  bornNs: isText,
  headerSha256: orNull(isText),
  // The version before kept none of these.
  changedNs: orAbsent(isText),
  settled: orAbsent(isFlag),
  fileSystem: orAbsent(isText),
  fileSystemId: orAbsent(isText),
  mountId: orAbsent(isText),
  bootId: orAbsent(isText),
});

export const isChain = listOf(
  objectOf<ChainEntry>({
    image: isText,
    format: isImageFormat,
    name: orNull(isText),
    fingerprint: isFingerprint,
    dataFile: orNull(
      objectOf<NonNullable<ChainEntry["dataFile"]>>({ image: isText, fingerprint: isFingerprint }),
    ),
    sealedBy: orAbsent(isCount),
    isMade: orAbsent(isFlag),
  }),
);

const isMirrorEntry = objectOf<MirrorEntry>({
  image: isText,
  format: isImageFormat,
  sync: oneOf("full", "top", "none"),
  chain: isChain,
  source: isChain,
  syncedAt: orAbsent(isText),
  bitmap: orNull(isText),
  witness: orAbsent(isText),
});

const isFrozenEntry = objectOf<FrozenEntry>({
  since: isText,
  by: isText,
  fences: listOf(
    objectOf<FenceEntry>({
      image: isText,
      offset: isCount,
      before: isText,
      after: isText,
      modifiedNs: isText,
      unfencedSha256: isText,
    }),
  ),
});

export const isDeviceEntry = objectOf<DeviceEntry>({
  name: isText,
  image: isText,
  format: isImageFormat,
  virtualSizeBytes: isCount,
  chain: isChain,
  mirror: orNull(isMirrorEntry),
  frozen: orNull(isFrozenEntry),
  trusted: orAbsent(listOf(isText)),
  made: orAbsent(isText),
  provision: orAbsent(listOf(isText)),
});

export const isRenaming = objectOf<Renaming>({ from: isText, to: isText });
export const isRenamed = objectOf<Renamed>({ from: isText, to: isText, below: isCount });
