// Other properties of an image that is there, by the options of `qemu-img amend`: its version, the width of its refcounts,
// lazy refcounts, what is said of its data file. The size is resize-image.ts's.
//
// Invariants
// - The file is one that is staged.
// - In QEMU's order: up to version 3 first, since the others may need it; down to version 2 last.
// - What the guest sees stays. So version 2 gets no image with bitmaps, which QEMU drops, and a data file is only given
//   another name of the same file.

import { ImgtxError, withPlace } from "../../../errors/index.ts";
import type { ChainLink, Qcow2Link } from "../../chain/chain-link.ts";
import { requireWritable } from "../../open/open-for-writing.ts";
import { quoteName, shellQuote } from "../../quote-name.ts";
import { requireCounted } from "../check/require-counted.ts";
import {
  AUTOCLEAR_BIT,
  COMPATIBLE_BIT,
  FEATURE_NAMES_CLUSTER_BITS_MIN,
  KNOWN_FEATURES,
} from "../codec/features.ts";
import { FIELDS_OF_VERSION_2, HEADER_LENGTH_V3 } from "../codec/header.ts";
import type { HeaderCluster, Qcow2Header } from "../codec/header-cluster.ts";
import type { HeaderExtension } from "../codec/header-extension.ts";
import { readBitmapDirectory } from "../read/qcow2-bitmaps.ts";
import { readSnapshotTable } from "../read/qcow2-snapshots.ts";
import { stateDiskSizes } from "./internal-snapshots.ts";
import { changeRefcountWidth } from "./refcount-width.ts";
import { rereadHeader } from "./reread-header.ts";
import { encodeChangedHeader, writeHeader } from "./rewrite-header.ts";
import { turnZerosIntoData } from "./zeros-to-data.ts";

/** What is left out stays. */
export interface Amendment {
  readonly version?: 2 | 3 | undefined;
  readonly refcountOrder?: number | undefined;
  readonly lazyRefcounts?: boolean | undefined;
  /** As it is to be stored, for the file that it has; empty: it names none any more. */
  readonly dataFileName?: string | undefined;
  readonly dataFileRaw?: boolean | undefined;
}

const NEEDS_VERSION_3 = "compatibility level 1.1";

/**
 * What of it is refused: E_UNSUPPORTED, in qemu-img's words, for what the image can't have; E_REFUSED for a dirty or
 * frozen one, and for bitmaps that would be lost; E_CORRUPT.
 */
export async function judgeAmendment(link: ChainLink, amendment: Amendment): Promise<void> {
  await withPlace({ image: link.path }, async () => {
    const { header } = link;
    if (header === undefined) {
      throw unsupported("Format driver 'raw' does not support option amendment", "version");
    }
    requireWritable(header, link.path);
    judgeWish(header, amendment);
    if ((amendment.version ?? header.version) === 2 && header.version === 3) {
      await judgeDowngrade({ ...link, header }, amendment);
    }
    if (takesClusters({ ...link, header }, amendment)) await requireCounted(link.file, link.path);
  });
}

/** Whether more than the header is written. What believes no refcount need not know whether they are true. */
function takesClusters({ header }: Qcow2Link, { version, refcountOrder }: Amendment): boolean {
  if (refcountOrder !== undefined && refcountOrder !== header.refcountOrder) return true;
  // Up to version 3 its snapshots get to say how large the disk was, and down to version 2 its zeros become data.
  return version !== undefined && version !== header.version && (version === 2 || header.nbSnapshots > 0);
}

function judgeWish(header: Qcow2Header, amendment: Amendment): void {
  const { refcountOrder, lazyRefcounts, dataFileName, dataFileRaw } = amendment;
  const version = amendment.version ?? header.version;
  if (dataFileName !== undefined && !header.hasExternalDataFile) {
    throw unsupported("data-file can only be set for images that use an external data file", "data_file");
  }
  if (dataFileRaw === true && !header.hasRawExternalData) {
    throw unsupported("data-file-raw cannot be set on existing images", "data_file_raw");
  }
  if (version === 3) return;
  if (refcountOrder !== undefined && refcountOrder !== FIELDS_OF_VERSION_2.refcountOrder) {
    throw unsupported(
      `Refcount widths other than 16 bits require ${NEEDS_VERSION_3} or above (use compat=1.1 or greater)`,
      "refcount_bits",
    );
  }
  if (lazyRefcounts === true) {
    throw unsupported(
      `Lazy refcounts only supported with ${NEEDS_VERSION_3} and above (use compat=1.1 or greater)`,
      "lazy_refcounts",
    );
  }
}

async function judgeDowngrade(link: Qcow2Link, { refcountOrder }: Amendment): Promise<void> {
  const { header } = link;
  if ((refcountOrder ?? header.refcountOrder) !== FIELDS_OF_VERSION_2.refcountOrder) {
    throw unsupported("compat=0.10 requires refcount_bits=16", "refcount_order");
  }
  if (header.hasExternalDataFile) {
    throw unsupported("Cannot downgrade an image with a data file", "incompatible_features");
  }
  if (header.incompatibleFeatures.length > 0) {
    const message = "Cannot downgrade an image with incompatible features set";
    throw unsupported(message, "incompatible_features");
  }
  const { entries } = await readSnapshotTable(link);
  const other = entries.find(
    ({ diskSize, vmStateSize }) => (diskSize ?? header.size) !== header.size || vmStateSize >= 2 ** 32,
  );
  if (other !== undefined) {
    throw unsupported(
      `Internal snapshots prevent downgrade of image: version 2 can't say what ${quoteName(other.name)} is`,
      "nb_snapshots",
    );
  }
  const [bitmap] = await readBitmapDirectory(link);
  if (bitmap === undefined) return;
  throw new ImgtxError("E_REFUSED", `bitmap ${quoteName(bitmap.name)} would be lost: version 2 has none`, {
    field: "bitmap_directory",
    hint: `\`imgtx img bitmap --remove ${shellQuote(link.path)} ${shellQuote(bitmap.name)}\` takes it away, if nobody needs it`,
  });
}

/** Carries it out, in the link's file. The errors are those of judgeAmendment, which the caller has asked. */
export async function amendImage(link: Qcow2Link, amendment: Amendment): Promise<void> {
  const { refcountOrder, version = link.header.version } = amendment;
  const reread = async (): Promise<Qcow2Link> => await rereadHeader(link, link.file);
  if (version > link.header.version) await upgrade(link);
  const now = await reread();
  if (refcountOrder !== undefined && refcountOrder !== now.header.refcountOrder) {
    await changeRefcountWidth(now, refcountOrder);
  }
  await changeHeader(await reread(), (header) => withWishes(header, amendment));
}

/** After all else. Errors as above. */
export async function downgradeImage(link: Qcow2Link): Promise<void> {
  await turnZerosIntoData(await rereadHeader(link, link.file));
  await changeHeader(await rereadHeader(link, link.file), (header) => ({
    fields: { ...header, version: 2, ...FIELDS_OF_VERSION_2 },
    extensions: header.extensions.filter(({ kind }) => kind !== "featureNames" && kind !== "bitmaps"),
  }));
}

async function upgrade(link: Qcow2Link): Promise<void> {
  await stateDiskSizes(link);
  await changeHeader(await rereadHeader(link, link.file), (header) => ({
    fields: {
      ...header,
      version: 3,
      headerLength: HEADER_LENGTH_V3,
      furtherFields: new Uint8Array(HEADER_LENGTH_V3 - 105),
    },
    extensions: [...header.extensions, { kind: "featureNames", names: KNOWN_FEATURES }],
  }));
}

function withWishes(
  header: Qcow2Header,
  { lazyRefcounts, dataFileName, dataFileRaw }: Amendment,
): Partial<HeaderCluster> {
  const compatibleFeatures = setBit(header.compatibleFeatures, COMPATIBLE_BIT.lazyRefcounts, lazyRefcounts);
  const autoclearFeatures = setBit(header.autoclearFeatures, AUTOCLEAR_BIT.rawExternalData, dataFileRaw);
  return {
    fields: { ...header, compatibleFeatures, autoclearFeatures },
    extensions: withDataFile(header.extensions, dataFileName),
  };
}

function withDataFile(
  extensions: readonly HeaderExtension[],
  name: string | undefined,
): readonly HeaderExtension[] {
  if (name === undefined) return extensions;
  const others = extensions.filter(({ kind }) => kind !== "dataFile");
  if (name === "") return others;
  const at = extensions.findIndex(({ kind }) => kind === "dataFile");
  return others.toSpliced(at === -1 ? others.length : at, 0, { kind: "dataFile", name });
}

/** The bits, ascending, with this one or without it; undefined: as they are. */
function setBit(bits: readonly number[], bit: number, isSet: boolean | undefined): readonly number[] {
  if (isSet === undefined) return bits;
  const others = bits.filter((each) => each !== bit);
  return isSet ? [...others, bit].toSorted((one, other) => one - other) : others;
}

/** A table of feature names that has no room goes: nothing depends on it. */
async function changeHeader(
  { file, header, path: image }: Qcow2Link,
  change: (header: Qcow2Header) => Partial<HeaderCluster>,
): Promise<void> {
  const wanted = change(header);
  const extensions = wanted.extensions ?? header.extensions;
  const short = { ...wanted, extensions: extensions.filter(({ kind }) => kind !== "featureNames") };
  const hasRoom = header.clusterBits >= FEATURE_NAMES_CLUSTER_BITS_MIN;
  const bytes = (hasRoom && encodeChangedHeader(header, wanted)) || encodeChangedHeader(header, short);
  if (bytes === undefined) {
    throw new ImgtxError("E_UNSUPPORTED", "the header has no room for it in its cluster", { image });
  }
  await writeHeader(file, header, bytes);
}

function unsupported(message: string, field: string): ImgtxError {
  return new ImgtxError("E_UNSUPPORTED", message, { field });
}

export function makesNoSmaller(code: "E_FAILED" | "E_REFUSED", hint: string): ImgtxError {
  return new ImgtxError(code, "an amendment makes no disk smaller", { hint });
}
