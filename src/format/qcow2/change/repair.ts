// Sets refcounts right, and what depends on them: as `qemu-img check -r leaks` and `-r all` do. What a check finds is
// first a list of changes, to be looked at before it is carried out.
//
// Invariants
// - The file that is written to is one that is staged. Guest data and L2 entries but for their COPIED flags stay.
// - Only what is right for sure is changed: each count becomes the number of references. An image with any other
//   damage is refused as a whole, and left as it is.
// - The marks of a dirty and of a corrupt image go when nothing is wrong any more.

import { ImgtxError, withPlace } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { shellQuote } from "../../quote-name.ts";
import type { ChainLink, Qcow2Link } from "../../chain/chain-link.ts";
import { isFrozen, openWriterState } from "../../open/open-for-writing.ts";
import { readBytes } from "../../read-header.ts";
import { checkQcow2 } from "../check/check.ts";
import { encodeFeatureBits, INCOMPATIBLE_BIT } from "../codec/features.ts";
import { HEADER_AT } from "../codec/header.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { writeRefcount } from "../codec/refcount-block.ts";
import { countBlockEntries } from "../codec/refcount-table.ts";
import { rereadHeader } from "./reread-header.ts";
import { refreshCopied } from "./table-references.ts";

/** A refcount that is not what it should be. */
interface CountRepair {
  readonly cluster: number;
  readonly before: number;
  readonly after: number;
}

export interface Repairs {
  /** By ascending cluster. */
  readonly counts: readonly CountRepair[];
  /** COPIED flags that say something else than the counts will. */
  readonly flags: number;
  /** What a check says of those, of the first ones. */
  readonly flagLines: readonly string[];
  /** Whether all flags are held to the counts: a leak that goes may leave one that lacks. */
  readonly setsFlags: boolean;
  readonly marks: readonly ("dirty" | "corrupt")[];
  /** Errors that stay, where only leaks are repaired. */
  readonly errorsLeft: number;
}

export type RepairScope = "leaks" | "all";

/** More at once would not fit the memory that imgtx allows itself. */
const COUNTS_MAX = 2_000_000;
const FLAG_LINES_MAX = 100_000;

/**
 * What is to be changed; nothing of a sound image. E_UNSUPPORTED for raw, and where more is damaged than counts and
 * flags; E_REFUSED for a frozen one; E_CORRUPT where it can't be checked.
 */
export async function planRepairs(link: ChainLink, scope: RepairScope): Promise<Repairs> {
  return await withPlace({ image: link.path }, async () => {
    const { header, file, path } = link;
    if (header === undefined) {
      throw new ImgtxError("E_UNSUPPORTED", "This image format does not support checks");
    }
    if (header.isFenced) throw isFrozen(path);
    const found = new Found(path);
    const result = await checkQcow2(file, found.onLine, undefined, found);
    const counts = found.counts.filter(({ before, after }) => scope === "all" || before > after);
    const low = found.counts.filter(({ before, after }) => before < after).length;
    let flags = result.corruptions - low;
    if (header.hasExternalDataFile && flags > 0) throw beyond(path, "flags of a data file's clusters");
    if (scope === "all") await requireBlocks({ ...link, header }, counts);
    // Flags follow the counts, where those are right then.
    const isSoundThen = scope === "all" || low === 0;
    if (isSoundThen && counts.length > 0) {
      found.flagLines.length = 0;
      const corrected = new Map(counts.map(({ cluster, after }) => [cluster, after]));
      const { onLine, onDanger } = found;
      flags = (await checkQcow2(file, onLine, undefined, { onDanger, corrected })).corruptions;
    }
    const marks = [
      ...(header.isDirty && isSoundThen ? (["dirty"] as const) : []),
      ...(header.isCorrupt && isSoundThen ? (["corrupt"] as const) : []),
    ];
    const { flagLines } = found;
    return isSoundThen
      ? { counts, flags, flagLines, setsFlags: true, marks, errorsLeft: 0 }
      : { counts, flags: 0, flagLines: [], setsFlags: false, marks, errorsLeft: result.corruptions };
  });
}

/** Takes what a check tells; all but counts and flags is refused where it is found. */
class Found {
  readonly counts: CountRepair[] = [];
  readonly flagLines: string[] = [];
  readonly #path: string;

  constructor(path: string) {
    this.#path = path;
  }

  readonly onLine = (line: string): void => {
    if (isOfFlag(line) && this.flagLines.length < FLAG_LINES_MAX) this.flagLines.push(line);
  };

  readonly onCount = (cluster: number, before: number, after: number): void => {
    if (this.counts.length === COUNTS_MAX) throw beyond(this.#path, `more than ${COUNTS_MAX} refcounts`);
    this.counts.push({ cluster, before, after });
  };

  readonly onDanger = (danger: { readonly kind: string; readonly line?: string }): void => {
    if (danger.kind === "uncounted" || isOfFlag(danger.line)) return;
    throw beyond(this.#path, danger.line ?? "something refers to what the file does not have");
  };
}

function isOfFlag(line: string | undefined): boolean {
  return line?.startsWith("ERROR OFLAG_COPIED ") === true;
}

function beyond(image: string, what: string): ImgtxError {
  return new ImgtxError(
    "E_UNSUPPORTED",
    `imgtx mends refcounts and flags alone, and there is more: ${what}`,
    {
      image,
      hint: `keep a copy, and then \`qemu-img check -r all ${shellQuote(image)}\``,
    },
  );
}

/** A count that no block has would need a new block, and no cluster is free for sure before the counts are right. */
async function requireBlocks(link: Qcow2Link, counts: readonly CountRepair[]): Promise<void> {
  const table = await readTable(link);
  const entries = countBlockEntries(link.header);
  const lost = counts.find(({ cluster }) => placeOf(table, Math.floor(cluster / entries)) === 0);
  if (lost !== undefined) throw beyond(link.path, `no block counts cluster ${lost.cluster}`);
}

async function readTable({ file, header }: Qcow2Link): Promise<DataView> {
  const lengthBytes = header.refcountTableClusters * header.clusterSizeBytes;
  const table = new Uint8Array(lengthBytes);
  table.set(await readBytes(file, header.refcountTableOffset, lengthBytes));
  return new DataView(table.buffer);
}

function placeOf(table: DataView, index: number): number {
  const at = index * TABLE_ENTRY_BYTES;
  return at + TABLE_ENTRY_BYTES > table.byteLength ? 0 : Number(table.getBigUint64(at));
}

/** Carries them out, in the link's file, and has the result checked. */
export async function makeRepairs(link: Qcow2Link, repairs: Repairs): Promise<void> {
  const { file, path } = link;
  await writeCounts(link, repairs.counts);
  if (repairs.setsFlags) await writeFlags(link);
  if (repairs.marks.length > 0) await writeMarks(link);
  const found = await checkQcow2(file, () => undefined);
  const isMended = found.leaks === 0 && (!repairs.setsFlags || found.corruptions === 0);
  if (!isMended) throw new ImgtxError("E_INTERNAL", "the repaired image is not sound", { image: path });
}

async function writeCounts(link: Qcow2Link, counts: readonly CountRepair[]): Promise<void> {
  const { file, header } = link;
  const table = await readTable(link);
  const entries = countBlockEntries(header);
  for (let from = 0; from < counts.length; ) {
    const index = Math.floor((counts[from]?.cluster ?? 0) / entries);
    const place = placeOf(table, index);
    const block = new Uint8Array(header.clusterSizeBytes);
    block.set(await readBytes(file, place, block.length));
    for (; from < counts.length; from += 1) {
      const { cluster = 0, after = 0 } = counts[from] ?? {};
      if (Math.floor(cluster / entries) !== index) break;
      writeRefcount(block, cluster % entries, header.refcountOrder, after);
    }
    await file.write(block, place);
  }
}

async function writeFlags(link: Qcow2Link): Promise<void> {
  const now = await rereadHeader(link, link.file);
  const { file, header } = now;
  if (header.hasExternalDataFile) return;
  const files = { file, dataFile: file, isOrdered: true, keepsBitmaps: true };
  const state = await openWriterState(now, files, { isCounted: true });
  const l1 = new Uint8Array(header.l1Size * TABLE_ENTRY_BYTES);
  l1.set(await readBytes(file, header.l1TableOffset, l1.length));
  await refreshCopied(state, l1, header.l1TableOffset);
}

async function writeMarks({ file, header }: { readonly file: StorageFile } & Qcow2Link): Promise<void> {
  const { dirty, corrupt } = INCOMPATIBLE_BIT;
  const kept = header.incompatibleFeatures.filter((bit) => bit !== dirty && bit !== corrupt);
  const mask = new Uint8Array(8);
  new DataView(mask.buffer).setBigUint64(0, encodeFeatureBits(kept));
  await file.write(mask, HEADER_AT.incompatibleFeatures);
}
