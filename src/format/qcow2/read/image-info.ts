// What is known of an image without reading its guest data: the data of `info`.
//
// Invariant: only what the image itself says. What it stands on is not opened, and what its bitmaps mark is not
// read.

import { withPlace } from "../../../errors/index.ts";
import type { ChainLink } from "../../chain/chain-link.ts";
import type { ImageFormat } from "../../image-format.ts";
import type { BitmapEntry } from "../codec/bitmap.ts";
import type { SnapshotEntry } from "../codec/snapshot-table.ts";
import { AUTOCLEAR_BIT } from "../codec/features.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import { findExtension } from "../codec/header-extension.ts";
import { decodeLuksHeader, LUKS_HEADER_BYTES, type LuksHeader } from "../codec/luks-header.ts";
import { readBitmapDirectory } from "./qcow2-bitmaps.ts";
import { readSnapshotTable } from "./qcow2-snapshots.ts";
import { readBytes } from "../../read-header.ts";

export interface ImageInfo {
  readonly format: ImageFormat;
  readonly virtualSizeBytes: number;
  /** What the image's own file takes on the disk. */
  readonly allocatedBytes: number;
  /** How long that file is. */
  readonly fileBytes: number;
  /** In extents of what size its file system was asked to give it blocks (XFS); 0: in none. */
  readonly extentSizeHintBytes: number;
  /** By which of QEMU's drivers the file is read: of a block device it is another one. */
  readonly protocol: "file" | "host_device";
  /** Undefined for raw. */
  readonly qcow2: Qcow2Info | undefined;
}

export interface Qcow2Info {
  readonly header: Qcow2Header;
  readonly snapshots: readonly SnapshotEntry[];
  readonly bitmaps: readonly BitmapEntry[];
  readonly encryption: Encryption | undefined;
}

type Encryption = { readonly kind: "aes" } | { readonly kind: "luks"; readonly header: LuksHeader };

/** E_CORRUPT with a place where the snapshot table or the bitmap directory can't be read. */
export async function describeImage(link: ChainLink): Promise<ImageInfo> {
  const { format, virtualSizeBytes, header } = link;
  const { allocatedBytes } = link.stat;
  return {
    format,
    virtualSizeBytes,
    allocatedBytes,
    fileBytes: link.stat.sizeBytes,
    extentSizeHintBytes: link.file.extentSizeHint(),
    protocol: link.stat.kind === "device" ? "host_device" : "file",
    qcow2: header === undefined ? undefined : await describeQcow2(link, header),
  };
}

async function describeQcow2(link: ChainLink, header: Qcow2Header): Promise<Qcow2Info> {
  const { entries } = await readSnapshotTable(link);
  return {
    header,
    snapshots: entries,
    bitmaps: await readBitmapDirectory(link),
    encryption: await readEncryption(link, header),
  };
}

const CRYPT_METHOD_AES = 1;

async function readEncryption(link: ChainLink, header: Qcow2Header): Promise<Encryption | undefined> {
  if (header.cryptMethod === 0) return undefined;
  if (header.cryptMethod === CRYPT_METHOD_AES) return { kind: "aes" };
  const pointer = findExtension(header.extensions, "fullDiskEncryption");
  const offset = pointer?.offset ?? 0;
  return await withPlace({ image: link.path, offset }, async () => {
    return { kind: "luks", header: decodeLuksHeader(await readBytes(link.file, offset, LUKS_HEADER_BYTES)) };
  });
}

/** Whether a program that does not know bitmaps wrote to an image that has some: they count for nothing then. */
export function hasStaleBitmaps(header: Pick<Qcow2Header, "extensions" | "autoclearFeatures">): boolean {
  const isStated = findExtension(header.extensions, "bitmaps") !== undefined;
  return isStated && !header.autoclearFeatures.includes(AUTOCLEAR_BIT.bitmaps);
}
