// One image of a chain: what its file says of itself, for whoever opens it. Its data file, and what it stands on, are
// backing-chain.ts's.
//
// Invariant: no format is guessed as raw where another image led here; a guest could have written that.

import { alignDown, alignUp, SECTOR_BYTES } from "../../units/index.ts";
import type { FileStat, StorageFile } from "../../storage/index.ts";
import { notQcow2, unknownFormat } from "./chain-errors.ts";
import { type Fingerprint, fingerprintOpened } from "../fingerprint.ts";
import type { ImageFormat } from "../image-format.ts";
import { hasQcowMagic, type ProbedFormat } from "../probe.ts";
import type { Qcow2Header } from "../qcow2/codec/header-cluster.ts";
import { shellQuote } from "../quote-name.ts";
import { probeFile, readHead, readQcow2Header } from "../read-header.ts";

export interface DataFile {
  readonly path: string;
  readonly file: StorageFile;
  readonly stat: FileStat;
  readonly fingerprint: Fingerprint;
}

export interface ChainLink {
  /** Absolute: for a backing image the folder of the overlay's path as opened, plus the stored name. */
  readonly path: string;
  /** The backing file name as the overlay above stores it; undefined for the active layer. */
  readonly name: string | undefined;
  readonly format: ImageFormat;
  /** A multiple of 512, as QEMU sees it: a raw file's size is rounded up, a qcow2 header's down. */
  readonly virtualSizeBytes: number;
  /** Undefined for raw. */
  readonly header: Qcow2Header | undefined;
  /** Open for reading. */
  readonly file: StorageFile;
  readonly stat: FileStat;
  /** As it was when it was opened. */
  readonly fingerprint: Fingerprint;
  readonly dataFile: DataFile | undefined;
  readonly warnings: readonly ImageWarning[];
}

/** What an operator should know about an image. */
export type ImageWarning =
  | {
      readonly code: "backing file in current folder" | "data file in current folder" | "format not stated";
      readonly image: string;
      /** The stored one. */
      readonly name: string;
    }
  | { readonly code: "used as raw"; readonly image: string; readonly looksLike: string }
  | { readonly code: "L1 table past end"; readonly image: string }
  | ({ readonly code: "not whole"; readonly image: string } & CutOff);

/** What a file lacks: from start to where the last thing that was to be there ends. */
export interface CutOff {
  readonly start: number;
  readonly end: number;
  /** Of the file. */
  readonly sizeBytes: number;
}

export type Qcow2Link = ChainLink & { readonly header: Qcow2Header };

/** An L1 table of it: the active one, or that of an internal snapshot. */
export interface L1Table {
  readonly fileOffset: number;
  readonly entries: number;
}

/** What to do about a table that is damaged. */
export function damageHint(image: string): string {
  return `\`imgtx img check ${shellQuote(image)}\` says what else is damaged; restore the image from a copy`;
}

interface LinkRequest {
  readonly path: string;
  /** Undefined: recognised by its magic. */
  readonly format: ImageFormat | undefined;
  /** The image that led here; undefined where the user named this one. */
  readonly overlayPath: string | undefined;
  /** Takes an image that the user named, and that looks like nothing, for raw. Default: false. */
  readonly mayBeRaw?: boolean;
  /** Of an image that the user named: see ChainOptions. Default: false. */
  readonly mayLackRefcounts?: boolean;
}

/**
 * What the file of an image says, as a link without name, data file and warnings. Errors carry the image:
 * E_FORMAT_UNKNOWN, E_UNSUPPORTED, E_CORRUPT. Which features are supported, and which tables lack, is not judged.
 */
export async function readLink(
  file: StorageFile,
  stat: FileStat,
  { path, format, overlayPath, mayBeRaw = false, mayLackRefcounts = false }: LinkRequest,
): Promise<{ readonly link: ChainLink; readonly probed: ProbedFormat | undefined }> {
  const head = await readHead(file);
  const probed = await probeFile(file, head, stat.sizeBytes);
  if (format === "qcow2" && !hasQcowMagic(head)) throw notQcow2(path, probed, overlayPath);
  const isGuessed = format === undefined && probed === undefined && mayBeRaw && overlayPath === undefined;
  if (format === undefined && probed !== "qcow2" && !isGuessed)
    throw unknownFormat(path, probed, overlayPath);
  const common = { path, name: undefined, file, stat, dataFile: undefined, warnings: [] };
  if (format === "raw" || isGuessed) {
    const virtualSizeBytes = alignUp(stat.sizeBytes, SECTOR_BYTES);
    const fingerprint = await fingerprintOpened(file, stat, undefined);
    return { link: { ...common, format: "raw", virtualSizeBytes, header: undefined, fingerprint }, probed };
  }
  const header = await readQcow2Header(file, head, stat.sizeBytes, path, {
    mayLackTables: true,
    mayLackRefcounts,
  });
  const virtualSizeBytes = alignDown(header.size, SECTOR_BYTES);
  const fingerprint = await fingerprintOpened(file, stat, head);
  return { link: { ...common, format: "qcow2", virtualSizeBytes, header, fingerprint }, probed };
}
