// Another backing file, or none, in the header of an image that is there. Which bytes the guest sees then is the
// caller's to answer for.
//
// Invariants
// - The name and the format change, and nothing else: all other extensions stay, unknown ones byte for byte, in their
//   order; a format that there was none of comes first, where QEMU puts it.
// - The file is one that is staged: a long name reaches over several sectors.

import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { requirePlainPath, requireStorableName } from "../../chain/backing-name.ts";
import type { ChainLink } from "../../chain/chain-link.ts";
import type { ImageFormat } from "../../image-format.ts";
import { requireWritable } from "../../open/open-for-writing.ts";
import { quoteName, shellQuote } from "../../quote-name.ts";
import { readBytes, readOwnHeader } from "../../read-header.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import type { HeaderExtension } from "../codec/header-extension.ts";
import { readSnapshotTable } from "../read/qcow2-snapshots.ts";
import { encodeChangedHeader, inPlaceOf, writeHeader } from "./rewrite-header.ts";

/** What an image is to stand on: as it is stored. */
export interface StoredBacking {
  readonly name: string;
  readonly format: ImageFormat;
}

/**
 * E_UNSUPPORTED for raw, for a name that QEMU takes for a protocol's, for one that no header holds, and for one that this
 * header has no room for; E_REFUSED for an image that is dirty, and where a data file has to be all of the disk by itself;
 * E_CORRUPT.
 */
export function judgeBacking({ header, path: image }: ChainLink, backing: StoredBacking | undefined): void {
  if (header === undefined) {
    throw new ImgtxError("E_UNSUPPORTED", "an image of format raw stands on nothing", {
      image,
      hint: "`imgtx snapshot DEV FILE` puts an overlay over it, which stands on it",
    });
  }
  requireWritable(header, image);
  encode(header, image, backing);
}

/** E_REFUSED for an image with internal snapshots: they show what is below, and would show something else. */
export async function assertNoSnapshots(link: ChainLink): Promise<void> {
  if ((link.header?.nbSnapshots ?? 0) === 0) return;
  const { entries } = await readSnapshotTable(link);
  const names = entries.map(({ name }) => quoteName(name)).join(", ");
  const remove = `imgtx img snapshot -d ${shellQuote(entries[0]?.name ?? "")} ${shellQuote(link.path)}`;
  throw new ImgtxError(
    "E_REFUSED",
    `it has internal snapshots, which would show another content on another backing image: ${names}`,
    {
      image: link.path,
      hint: `\`${remove}\` takes ${entries.length === 1 ? "it" : "the first"} away, if nobody needs it`,
    },
  );
}

/** What the header of the image in the file says. undefined: it stands on nothing. */
export async function readOwnBacking(
  file: StorageFile,
): Promise<{ readonly name: string; readonly format: string | undefined } | undefined> {
  const { backingFileName: name, backingFormat: format } = await readOwnHeader(file, file.path);
  return name === undefined ? undefined : { name, format };
}

/** Writes it. undefined: the image stands on nothing. Errors are those of judgeBacking, and of reading a header. */
export async function changeBacking(file: StorageFile, backing: StoredBacking | undefined): Promise<void> {
  const header = await readOwnHeader(file, file.path);
  await writeHeader(file, header, encode(header, file.path, backing));
}

/** Names that an image stores where it and what it names lie elsewhere. Left out: as they are. */
export interface NamesElsewhere {
  readonly backing?: StoredBacking;
  readonly dataFile?: string;
}

/**
 * The first bytes of a copy of the image that stores these names; undefined where it stores them already. The image may be
 * dirty or marked corrupt: a copy of it is that too. E_UNSUPPORTED for a name that no header holds, or this one not.
 */
export async function encodeElsewhere(
  { header, file, path: image }: ChainLink,
  { backing, dataFile }: NamesElsewhere,
): Promise<Uint8Array | undefined> {
  if (header === undefined) return undefined;
  if (backing) {
    requirePlainPath(backing.name, image);
    requireStorableName(backing.name, image);
  }
  const named = backing ? placeFormat(header.extensions, backing.format) : header.extensions;
  const extensions = named.map(
    (one): HeaderExtension =>
      one.kind === "dataFile" && dataFile !== undefined ? { kind: "dataFile", name: dataFile } : one,
  );
  const backingFileName = backing?.name ?? header.backingFileName;
  const bytes = encodeChangedHeader(header, { extensions, backingFileName });
  if (bytes === undefined) throw noRoom(header, image);
  const whole = await inPlaceOf(file, header, bytes);
  const isSame = Buffer.compare(await readBytes(file, 0, whole.length), whole) === 0;
  return isSame ? undefined : whole;
}

function encode(header: Qcow2Header, image: string, backing: StoredBacking | undefined): Uint8Array {
  if (backing !== undefined) {
    requirePlainPath(backing.name, image);
    requireStorableName(backing.name, image);
    if (header.hasRawExternalData) throw hasAllByItself(image);
  }
  const bytes = encodeChangedHeader(header, {
    extensions: placeFormat(header.extensions, backing?.format),
    backingFileName: backing?.name,
  });
  if (bytes !== undefined) return bytes;
  throw noRoom(header, image);
}

function noRoom(header: Qcow2Header, image: string): ImgtxError {
  return new ImgtxError(
    "E_UNSUPPORTED",
    `Backing file name too long: its header of ${header.clusterSizeBytes} bytes has no room for it`,
    {
      image,
      field: "backing_file_size",
      hint: "use a shorter name, as --relative stores one that lies near; `qemu-img convert` makes larger clusters",
    },
  );
}

function placeFormat(
  extensions: readonly HeaderExtension[],
  format: ImageFormat | undefined,
): readonly HeaderExtension[] {
  const others = extensions.filter(({ kind }) => kind !== "backingFormat");
  if (format === undefined) return others;
  const extension: HeaderExtension = { kind: "backingFormat", format };
  const before = extensions.findIndex(({ kind }) => kind === "backingFormat");
  return before === -1 ? [extension, ...others] : others.toSpliced(before, 0, extension);
}

function hasAllByItself(image: string): ImgtxError {
  return new ImgtxError(
    "E_REFUSED",
    "its data file holds all of the disk by itself, and may show no backing image",
    {
      image,
      field: "autoclear_features",
      hint: `\`imgtx img amend -o data_file_raw=off ${shellQuote(image)}\` ends that`,
    },
  );
}
