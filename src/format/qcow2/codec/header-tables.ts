// Whether the tables that a header points to can be true: aligned, within QEMU's limits, large enough for the
// virtual size, and clear of the header and of each other; and which of them lie past the end of the file.
//
// Invariant: nothing is read here. A forged header is refused before a byte of memory is taken for what it
// claims (CVE-2014-0142 to 0147).

import { alignUp } from "../../../units/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import { AUTOCLEAR_BIT, INCOMPATIBLE_BIT } from "./features.ts";
import { HEADER_AT, type HeaderFields } from "./header.ts";
import { findExtension, type HeaderExtension } from "./header-extension.ts";
import {
  BITMAP_DIRECTORY_BYTES_MAX,
  BITMAPS_MAX,
  countL1Entries,
  L1_TABLE_BYTES_MAX,
  REFCOUNT_TABLE_BYTES_MAX,
  SNAPSHOT_ENTRY_BYTES_MIN,
  SNAPSHOTS_MAX,
  TABLE_ENTRY_BYTES,
} from "./limits.ts";

interface Table {
  readonly what: string;
  /** Field that holds the offset, and where that is in the header. */
  readonly field: string;
  readonly fieldAt?: number;
  readonly start: number;
  readonly lengthBytes: number;
}

const CRYPT_METHOD_LUKS = 2;
/** The field by which the refcount table is known. */
const REFCOUNTS = "refcount_table_offset";

/** A table that the file does not have, or not to its end. */
export interface MissingTable {
  readonly what: string;
  readonly field: string;
  readonly fieldAt: number | undefined;
  readonly start: number;
  readonly end: number;
}

/** What of a header that can't be true is let pass. Default: nothing. */
export interface Tolerance {
  /** Tables that end past the end of the file: the caller judges them. */
  readonly mayLackTables?: boolean;
  /** A refcount table that is not there, or lies on something else: who makes a new one does not read it. */
  readonly mayLackRefcounts?: boolean;
}

interface JudgedTables {
  readonly missingTables: readonly MissingTable[];
  readonly lacksRefcounts: boolean;
}

/**
 * E_CORRUPT with the field that can't be true, and where the header has it (not known for extensions). Tables
 * that end past the end of the file are returned where they may lack, for the caller to judge; else they can't
 * be true.
 */
export function checkTables(
  fields: HeaderFields,
  extensions: readonly HeaderExtension[],
  sizeBytes: number,
  { mayLackTables = false, mayLackRefcounts = false }: Tolerance,
): JudgedTables {
  checkCounts(fields);
  checkExtensionsAgainstHeader(fields, extensions);
  const clusterSizeBytes = 2 ** fields.clusterBits;
  // A last cluster that is cut short reads as zeros to its end, so it counts as whole.
  const end = alignUp(sizeBytes, clusterSizeBytes);
  const tables = listTables(fields, extensions, clusterSizeBytes);
  for (const table of tables) checkAlignment(table, clusterSizeBytes);
  const judge = (some: readonly Table[]): readonly MissingTable[] => {
    const used = some.filter((table) => table.lengthBytes > 0);
    for (const table of used) checkPlace(table);
    const missing = used.filter(({ start, lengthBytes }) => start + lengthBytes > end).map(endOf);
    if (missing[0] !== undefined && !mayLackTables) throw tableMissing(missing[0]);
    checkOverlaps(used);
    return missing;
  };
  if (mayLackRefcounts) {
    const others = tables.filter(({ field }) => field !== REFCOUNTS);
    // What is wrong with another one is thrown here.
    const missingTables = judge(others);
    const isWhole = fields.refcountTableClusters > 0 && isRefcountTableApart(tables, judge);
    if (!isWhole) return { missingTables, lacksRefcounts: true };
  }
  if (fields.refcountTableClusters === 0) throw noRefcounts();
  return { missingTables: judge(tables), lacksRefcounts: false };
}

/** Whether the refcount table is in the file, and lies on nothing else; the others do. */
function isRefcountTableApart(
  tables: readonly Table[],
  judge: (some: readonly Table[]) => readonly MissingTable[],
): boolean {
  try {
    return !judge(tables).some(({ field }) => field === REFCOUNTS);
  } catch (error) {
    if (error instanceof ImgtxError) return false;
    throw error;
  }
}

function noRefcounts(): ImgtxError {
  const message = "Image does not contain a reference count table";
  return corrupt(message, "refcount_table_clusters", HEADER_AT.refcountTableClusters);
}

function endOf({ what, field, fieldAt, start, lengthBytes }: Table): MissingTable {
  return { what, field, fieldAt, start, end: start + lengthBytes };
}

/** Of a table that is not in the file. */
export function tableMissing({ what, field, fieldAt }: MissingTable): ImgtxError {
  return corrupt(`${what} ends past the end of the file`, field, fieldAt);
}

function checkCounts(fields: HeaderFields): void {
  if (fields.refcountTableClusters * 2 ** fields.clusterBits > REFCOUNT_TABLE_BYTES_MAX) {
    throw corrupt(
      "Reference count table too large: at most 8 MiB",
      "refcount_table_clusters",
      HEADER_AT.refcountTableClusters,
    );
  }
  if (fields.l1Size * TABLE_ENTRY_BYTES > L1_TABLE_BYTES_MAX) {
    throw corrupt("Active L1 table too large: at most 32 MiB", "l1_size", HEADER_AT.l1Size);
  }
  const extendedL2 = fields.incompatibleFeatures.includes(INCOMPATIBLE_BIT.extendedL2);
  const needed = countL1Entries(fields.size, fields.clusterBits, extendedL2);
  if (fields.l1Size < needed) {
    throw corrupt(
      `L1 table is too small: it has ${fields.l1Size} entries, and the virtual size needs ${needed}`,
      "l1_size",
      HEADER_AT.l1Size,
    );
  }
  if (fields.nbSnapshots > SNAPSHOTS_MAX) {
    throw corrupt(
      `Snapshot table too large: ${fields.nbSnapshots} internal snapshots, at most ${SNAPSHOTS_MAX} are allowed`,
      "nb_snapshots",
      HEADER_AT.nbSnapshots,
    );
  }
}

function checkExtensionsAgainstHeader(fields: HeaderFields, extensions: readonly HeaderExtension[]): void {
  const encryption = findExtension(extensions, "fullDiskEncryption");
  if ((encryption !== undefined) !== (fields.cryptMethod === CRYPT_METHOD_LUKS)) {
    throw corrupt(
      encryption === undefined
        ? "the pointer to the LUKS header is missing"
        : "there is a pointer to an encryption header, and no LUKS encryption",
      "crypt_method",
      HEADER_AT.cryptMethod,
    );
  }
  const { autoclearFeatures, incompatibleFeatures } = fields;
  const rawData = autoclearFeatures.includes(AUTOCLEAR_BIT.rawExternalData);
  if (rawData && !incompatibleFeatures.includes(INCOMPATIBLE_BIT.externalDataFile)) {
    throw corrupt(
      "the data file is said to be raw, and the image has none (data-file-raw requires a data file)",
      "autoclear_features",
      HEADER_AT.autoclearFeatures,
    );
  }
  if (rawData && fields.backingFileOffset !== 0) {
    throw corrupt(
      "a raw data file and a backing file exclude each other",
      "autoclear_features",
      HEADER_AT.autoclearFeatures,
    );
  }
  const bitmaps = findConsistentBitmaps(fields, extensions);
  if (bitmaps && (bitmaps.nbBitmaps === 0 || bitmaps.nbBitmaps > BITMAPS_MAX)) {
    throw corrupt(`${bitmaps.nbBitmaps} bitmaps; 1 to ${BITMAPS_MAX} are allowed`, "nb_bitmaps");
  }
  if (bitmaps && bitmaps.bitmapDirectorySize > BITMAP_DIRECTORY_BYTES_MAX) {
    throw corrupt("the bitmap directory exceeds 64 MiB", "bitmap_directory_size");
  }
}

/** The bitmaps extension. Without its autoclear bit it is stale, and what it says must not be judged. */
export function findConsistentBitmaps(
  fields: Pick<HeaderFields, "autoclearFeatures">,
  extensions: readonly HeaderExtension[],
) {
  if (!fields.autoclearFeatures.includes(AUTOCLEAR_BIT.bitmaps)) return undefined;
  return findExtension(extensions, "bitmaps");
}

function listTables(
  fields: HeaderFields,
  extensions: readonly HeaderExtension[],
  clusterSizeBytes: number,
): Table[] {
  const bitmaps = findConsistentBitmaps(fields, extensions);
  const encryption = findExtension(extensions, "fullDiskEncryption");
  return [
    {
      what: "Reference count table",
      field: REFCOUNTS,
      fieldAt: HEADER_AT.refcountTableOffset,
      start: fields.refcountTableOffset,
      lengthBytes: fields.refcountTableClusters * clusterSizeBytes,
    },
    {
      what: "Active L1 table",
      field: "l1_table_offset",
      fieldAt: HEADER_AT.l1TableOffset,
      start: fields.l1TableOffset,
      lengthBytes: fields.l1Size * TABLE_ENTRY_BYTES,
    },
    {
      what: "Snapshot table",
      field: "snapshots_offset",
      fieldAt: HEADER_AT.snapshotsOffset,
      start: fields.snapshotsOffset,
      lengthBytes: fields.nbSnapshots * SNAPSHOT_ENTRY_BYTES_MIN,
    },
    {
      what: "Bitmap directory",
      field: "bitmap_directory_offset",
      start: bitmaps?.bitmapDirectoryOffset ?? 0,
      lengthBytes: bitmaps?.bitmapDirectorySize ?? 0,
    },
    {
      what: "Encryption header",
      field: "full_disk_encryption",
      start: encryption?.offset ?? 0,
      lengthBytes: encryption?.length ?? 0,
    },
  ];
}

// Of an empty table too: QEMU refuses the image.
function checkAlignment(table: Table, clusterSizeBytes: number): void {
  if (table.start % clusterSizeBytes !== 0) {
    throw corrupt(`${table.what} offset invalid: not aligned to a cluster`, table.field, table.fieldAt);
  }
}

function checkPlace(table: Table): void {
  if (table.start === 0) {
    throw corrupt(`${table.what} offset invalid: it lies on the header`, table.field, table.fieldAt);
  }
}

function checkOverlaps(tables: readonly Table[]): void {
  const ordered = [...tables].sort((one, other) => one.start - other.start);
  for (const [index, table] of ordered.entries()) {
    const next = ordered[index + 1];
    if (next && table.start + table.lengthBytes > next.start) {
      throw corrupt(`${next.what} overlaps the ${table.what.toLowerCase()}`, next.field, next.fieldAt);
    }
  }
}

function corrupt(message: string, field: string, offset?: number): ImgtxError {
  return new ImgtxError("E_CORRUPT", message, offset === undefined ? { field } : { field, offset });
}
