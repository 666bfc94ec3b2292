// What of an image can be set right, as `qemu-img check -r` does: refcounts, and what depends on them. What a check finds
// is first a list of changes, to be looked at before it is carried out (repair.ts).
//
// Invariants
// - Only what is right for sure is changed: each count becomes the number of references.
// - Where an entry can't be followed, what it should lead to looks lost, and is not: no count falls then, so that its
//   clusters can still be had back. QEMU gives them away.
// - Where refcount blocks can't be what they are said to be, or lack, all of them are made anew.
// - The marks of a dirty and of a corrupt image go when nothing is wrong any more.

import { ImgtxError, withPlace } from "../../../errors/index.ts";
import { shellQuote } from "../../quote-name.ts";
import type { ChainLink, Qcow2Link } from "../../chain/chain-link.ts";
import { isFrozen } from "../../open/open-for-writing.ts";
import { readBytes } from "../../read-header.ts";
import { checkQcow2 } from "../check/check.ts";
import type { ClusterCounts } from "../check/check-counts.ts";
import type { CheckResult, Danger } from "../check/check-findings.ts";
import { salvageHint } from "../check/require-counted.ts";
import type { Qcow2Header } from "../codec/header-cluster.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { countBlockEntries } from "../codec/refcount-table.ts";
import { CountRepairs } from "./count-repairs.ts";
import { cutExtraData, type CutTable, requireOwnClusters, withCutTable } from "./cut-extra-data.ts";

export interface Repairs {
  /** Of blocks that are made anew, those that there were. */
  readonly counts: CountRepairs;
  /** Whether the refcount table and all blocks are made anew, at another place. */
  readonly rebuilds: boolean;
  /** Errors that go with that, beside the counts. */
  readonly blockErrors: number;
  /** COPIED flags that say something else than the counts will. */
  readonly flags: number;
  /** What a check says of those, of the first ones. */
  readonly flagLines: readonly string[];
  /** Whether all flags are held to the counts: a leak that goes may leave one that lacks. */
  readonly setsFlags: boolean;
  /** Entries of the snapshot table that do not say the size of their disk. */
  readonly snapshots: number;
  /** The snapshot table without extra data that QEMU would not read. */
  readonly cut: CutTable | undefined;
  readonly marks: readonly ("dirty" | "corrupt")[];
  /** Errors that stay, where only leaks are repaired. */
  readonly errorsLeft: number;
  /** Entries that can't be true, which stay; and the first of them. */
  readonly damage: number;
  readonly damageLine: string | undefined;
}

export function changesSomething({ counts, rebuilds, flags, snapshots, cut, marks }: Repairs): boolean {
  return rebuilds || cut !== undefined || counts.length + flags + snapshots + marks.length > 0;
}

export type RepairScope = "leaks" | "all";

/** Beyond these all blocks are made anew: more at once would not fit the memory that imgtx allows itself. */
const COUNTS_MAX = 2_000_000;
const FLAG_LINES_MAX = 10_000;

/**
 * What is to be changed; nothing of a sound image. E_UNSUPPORTED for raw, and for what can't be told apart any more;
 * E_REFUSED for a frozen one; E_CORRUPT where it can't be checked.
 */
export async function planRepairs(link: ChainLink, scope: RepairScope): Promise<Repairs> {
  return await withPlace({ image: link.path }, async () => {
    const { header } = link;
    if (header === undefined) throw hasNoChecks(link);
    if (header.isFenced) throw isFrozen(link.path);
    const subject = { ...link, header };
    const cut = scope === "all" ? await cutExtraData(subject) : undefined;
    if (cut === undefined) return await planQcow2(subject, scope);
    return { ...(await planQcow2({ ...subject, file: withCutTable(link.file, cut) }, scope, cut)), cut };
  });
}

async function planQcow2(link: Qcow2Link, scope: RepairScope, cut?: CutTable): Promise<Repairs> {
  const found = new Found();
  try {
    const result = await checkQcow2(link.file, found.onLine, undefined, found);
    if (cut && found.references) requireOwnClusters(link, cut, found.references);
    const low = found.counts.count("up");
    if (scope === "leaks" && link.header.lacksRefcounts)
      return { ...NOTHING, errorsLeft: result.corruptions };
    if (scope === "leaks") return await planLeaks(link, found, result, low);
    if (await needsBlocks(link, found)) return await planRebuild(link, found, result.corruptions - low);
    if (found.damage > 0) return { ...NOTHING, ...damageOf(found), counts: found.counts.select("up") };
    return await planSound(link, found, found.counts, result);
  } finally {
    found.references?.release();
  }
}

const NOTHING: Repairs = {
  counts: new CountRepairs(),
  rebuilds: false,
  blockErrors: 0,
  flags: 0,
  flagLines: [],
  setsFlags: false,
  snapshots: 0,
  cut: undefined,
  marks: [],
  errorsLeft: 0,
  damage: 0,
  damageLine: undefined,
};

function damageOf({ damage, damageLine }: Found): Pick<Repairs, "damage" | "damageLine"> {
  return { damage, damageLine };
}

async function planLeaks(link: Qcow2Link, found: Found, result: CheckResult, low: number): Promise<Repairs> {
  const { counts, damage, hasBrokenBlocks, isCut } = found;
  if (damage > 0 || hasBrokenBlocks) {
    return { ...NOTHING, ...damageOf(found), errorsLeft: Math.max(result.corruptions - damage, 0) };
  }
  if (isCut && low === 0) return await planRebuild(link, found, result.corruptions);
  if (isCut) {
    throw new ImgtxError("E_UNSUPPORTED", `more than ${COUNTS_MAX} refcounts are wrong`, {
      image: link.path,
      hint: "repair all of it, with `-r all`",
    });
  }
  const leaks = counts.select("down");
  if (low > 0) return { ...NOTHING, counts: leaks, errorsLeft: result.corruptions };
  return await planSound(link, found, leaks, result);
}

/** All counts are right then, and flags follow them. */
async function planSound(
  link: Qcow2Link,
  found: Found,
  counts: CountRepairs,
  result: CheckResult,
): Promise<Repairs> {
  const { header, file } = link;
  let flags = result.corruptions - found.incomplete;
  let { flagLines } = found;
  if (counts.length > 0) {
    const again = new Found();
    found.flagLines.length = 0;
    const corrected = found.references;
    flags = (await checkQcow2(file, again.onLine, undefined, { corrected })).corruptions - again.incomplete;
    ({ flagLines } = again);
  }
  const snapshots = found.incomplete;
  return { ...NOTHING, counts, flags, flagLines, setsFlags: true, snapshots, marks: marksOf(header) };
}

/** Counted without the blocks that there are, which nothing refers to afterwards. */
async function planRebuild(link: Qcow2Link, found: Found, errors: number): Promise<Repairs> {
  const { file, header, path } = link;
  const { counts, incomplete } = found;
  const flagErrors = found.flagLines.length;
  // Others are told in their place.
  found.flagLines.length = 0;
  found.references?.release();
  const all = new Found();
  await checkQcow2(file, () => undefined, undefined, {
    leavesOutRefcounts: true,
    onDanger: all.onDanger,
    onCounted: all.onCounted,
  });
  const { damage, damageLine, references } = all;
  if (damage > 0) throw tooDamaged(path, damageLine);
  const flagged = new Found();
  const judged = { corrected: references };
  const { corruptions } = await checkQcow2(file, flagged.onLine, undefined, judged);
  references?.release();
  const flags = corruptions - flagged.incomplete;
  const { flagLines } = flagged;
  return {
    ...NOTHING,
    counts,
    rebuilds: true,
    blockErrors: Math.max(0, errors - flagErrors - incomplete),
    flags,
    flagLines,
    setsFlags: true,
    snapshots: incomplete,
    marks: marksOf(header),
  };
}

function marksOf({ isDirty, isCorrupt }: Qcow2Header): Repairs["marks"] {
  return [...(isDirty ? (["dirty"] as const) : []), ...(isCorrupt ? (["corrupt"] as const) : [])];
}

/** Takes what a check tells. */
class Found {
  readonly counts = new CountRepairs();
  /** Whether there are more of them. */
  isCut = false;
  readonly flagLines: string[] = [];
  incomplete = 0;
  hasBrokenBlocks = false;
  damage = 0;
  damageLine: string | undefined;
  references: ClusterCounts | undefined;

  readonly onLine = (line: string): void => {
    if (INCOMPLETE.test(line)) this.incomplete += 1;
    if (line.startsWith("ERROR OFLAG_COPIED ") && this.flagLines.length < FLAG_LINES_MAX) {
      this.flagLines.push(line);
    }
  };

  readonly onCount = (cluster: number, before: number, after: number): void => {
    this.isCut = this.counts.length === COUNTS_MAX;
    if (!this.isCut) this.counts.add({ cluster, before, after });
  };

  readonly onCounted = (references: ClusterCounts): void => {
    this.references = references;
  };

  readonly onDanger = (danger: Danger): void => {
    if (danger.kind === "blocks") this.hasBrokenBlocks = true;
    if (danger.kind !== "missing" && danger.kind !== "other") return;
    this.damage += 1;
    this.damageLine ??=
      danger.kind === "other" ? danger.line : "something refers to what the file does not have";
  };
}

const INCOMPLETE = /^ERROR snapshot table entry \d+ is incomplete$/;

function tooDamaged(image: string, line = ""): ImgtxError {
  return new ImgtxError(
    "E_UNSUPPORTED",
    `its refcounts are lost, and so may be clusters that nothing leads to any more: ${line}`,
    {
      image,
      hint: `${salvageHint(image)}; \`qemu-img check -r all ${shellQuote(image)}\` would give those clusters away`,
    },
  );
}

/** Whether the blocks can't be set right one by one: also where a cluster in use has none. */
async function needsBlocks(link: Qcow2Link, { counts, hasBrokenBlocks, isCut }: Found): Promise<boolean> {
  if (link.header.lacksRefcounts || hasBrokenBlocks || isCut) return true;
  const table = await readRefcountTable(link);
  const entries = countBlockEntries(link.header);
  for (const { cluster } of counts) if (blockPlace(table, Math.floor(cluster / entries)) === 0) return true;
  return false;
}

export async function readRefcountTable({ file, header }: Qcow2Link): Promise<DataView> {
  const lengthBytes = header.refcountTableClusters * header.clusterSizeBytes;
  const table = new Uint8Array(lengthBytes);
  table.set(await readBytes(file, header.refcountTableOffset, lengthBytes));
  return new DataView(table.buffer);
}

/** Where block `index` is; 0: it has none. */
export function blockPlace(table: DataView, index: number): number {
  const at = index * TABLE_ENTRY_BYTES;
  return at + TABLE_ENTRY_BYTES > table.byteLength ? 0 : Number(table.getBigUint64(at));
}

export function hasNoChecks({ path: image }: ChainLink): ImgtxError {
  return new ImgtxError("E_UNSUPPORTED", "This image format does not support checks", { image });
}
