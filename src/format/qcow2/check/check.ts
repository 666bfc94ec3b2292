// Judges a qcow2 image, as `qemu-img check` does without repairing: what every structure refers to is counted,
// cluster by cluster, and compared with the refcounts that the image stores.
//
// Invariants
// - Nothing is written. Guest data, backing images and data files are not read.
// - Memory is 3 bits for each cluster that is counted, more where counts are large, and a few tables; time is that of one read of the
//   metadata, and a second one of the refcounts. Tables that internal snapshots share are read once.
// - Same counts as `qemu-img check`: an error is counted as often as some entry leads to it.

import { ImgtxError, withPlace } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { alignDown, alignUp, clusterIndex, SECTOR_BYTES } from "../../../units/index.ts";
import { checkBitmaps } from "./check-bitmaps.ts";
import { ClusterCounts, NoCounts } from "./check-counts.ts";
import { CheckFindings, type CheckResult, type CheckWatch, type FindingSink } from "./check-findings.ts";
import { type CheckHeader, readCheckHeader } from "./check-header.ts";
import { L2Scan } from "./check-l2-scan.ts";
import { MappingWalk } from "./check-mapping.ts";
import { References } from "./check-references.ts";
import { checkSnapshots } from "./check-snapshots.ts";
import {
  compareRefcounts,
  hasReservedBits,
  refcountBlockOffset,
  StoredRefcounts,
} from "./check-stored-refcounts.ts";
import { INCOMPATIBLE_BIT } from "../codec/features.ts";
import { findExtension } from "../codec/header-extension.ts";
import { toHalves } from "../codec/l2-table.ts";
import { TABLE_ENTRY_BYTES } from "../codec/limits.ts";
import { maxRefcount } from "../codec/refcount-block.ts";

/** As many as QEMU counts: more would not fit an int. */
const CLUSTERS_MAX = 2 ** 31 - 1;

/**
 * Checks the image in the file, and gives each finding to the sink as it is found. E_CORRUPT with a place
 * where the header, or a structure that the rest hangs on, can't be read as what it should be. The signal ends
 * it with its reason. Leaks, and what endangers a writer, are told to watch as well.
 */
export async function checkQcow2(
  file: StorageFile,
  sink: FindingSink,
  signal?: AbortSignal,
  watch: CheckWatch = {},
): Promise<CheckResult> {
  const findings = new CheckFindings(sink, watch);
  return await withPlace({ image: file.path }, async () => await check(file, findings, signal, watch));
}

async function check(
  file: StorageFile,
  findings: CheckFindings,
  signal: AbortSignal | undefined,
  { corrected, onCounted, leavesOutRefcounts = false }: CheckWatch,
): Promise<CheckResult> {
  // QEMU knows a file's size in whole sectors.
  const sizeBytes = alignUp((await file.stat()).sizeBytes, SECTOR_BYTES);
  const header = await readCheckHeader(file, sizeBytes);
  const clusterSizeBytes = 2 ** header.clusterBits;
  const clusters = Math.ceil(sizeBytes / clusterSizeBytes);
  if (clusters > CLUSTERS_MAX) {
    throw new ImgtxError("E_UNSUPPORTED", `the image has ${clusters} clusters, more than can be checked`);
  }
  const { clusterBits, refcountOrder } = header;
  const table = await readRefcountTable(file, header, clusterSizeBytes);
  const stored = new StoredRefcounts(file, { clusterBits, refcountOrder, table });
  if (corrected) stored.correct(corrected);
  else await stored.load(clusters);
  const largest = maxRefcount(refcountOrder);
  const counts = corrected ? new NoCounts(clusters, largest) : new ClusterCounts(clusters, largest);
  const references = new References(counts, findings, clusterSizeBytes, sizeBytes);
  const counted = leavesOutRefcounts ? { ...header, refcountTableClusters: 0 } : header;
  const scan = await countReferences(file, counted, references, stored, signal);
  const comparesCounts = !leavesOutRefcounts && !corrected;
  if (comparesCounts) judgeRefcountBlocks(table, references);
  const clustersEnd = comparesCounts ? await compareRefcounts(stored, counts, findings) : clusters;
  if (onCounted) onCounted(counts);
  else counts.release();
  await tellWrongFlags(scan, stored, findings);
  const virtualSizeBytes = alignDown(header.size, SECTOR_BYTES);
  return {
    corruptions: findings.corruptions,
    leaks: findings.leaks,
    checkErrors: findings.checkErrors,
    imageEndOffset: clustersEnd * clusterSizeBytes,
    totalClusters: Math.ceil(virtualSizeBytes / clusterSizeBytes),
    ...scan.figures,
  };
}

/** Counts all but the refcount blocks, which are judged by what else refers to them. */
async function countReferences(
  file: StorageFile,
  header: CheckHeader,
  references: References,
  stored: StoredRefcounts,
  signal: AbortSignal | undefined,
): Promise<L2Scan> {
  const hasExternalDataFile = header.incompatibleFeatures.includes(INCOMPATIBLE_BIT.externalDataFile);
  const hasExtendedL2 = header.incompatibleFeatures.includes(INCOMPATIBLE_BIT.extendedL2);
  const { version, clusterBits } = header;
  const scan = new L2Scan(references, stored, { version, clusterBits, hasExtendedL2, hasExternalDataFile });
  const walk = new MappingWalk(file, references, stored);
  references.add(0, references.clusterSizeBytes, 1);
  walk.addL1Table(header.l1TableOffset, header.l1Size, true);
  await checkSnapshots(file, header, hasExternalDataFile, references, walk);
  await walk.walk(scan, signal);
  references.add(header.refcountTableOffset, header.refcountTableClusters * references.clusterSizeBytes, 1);
  const encryption = findExtension(header.extensions, "fullDiskEncryption");
  if (encryption !== undefined) references.add(encryption.offset, encryption.length, 1);
  await checkBitmaps(file, header, references);
  return scan;
}

async function readRefcountTable(
  file: StorageFile,
  header: CheckHeader,
  clusterSizeBytes: number,
): Promise<Uint32Array> {
  const bytes = new Uint8Array(header.refcountTableClusters * clusterSizeBytes);
  await file.read(bytes, header.refcountTableOffset);
  return toHalves(bytes);
}

function judgeRefcountBlocks(table: Uint32Array, references: References): void {
  const { findings, counts, clusterSizeBytes } = references;
  const entries = (table.length * 4) / TABLE_ENTRY_BYTES;
  const corrupt = (line: string): void => findings.corrupt(line, 1, { kind: "blocks", line });
  for (let index = 0; index < entries; index += 1) {
    if (table[2 * index] === 0 && table[2 * index + 1] === 0) continue;
    const offset = refcountBlockOffset(table, index);
    const cluster = Math.floor(offset / clusterSizeBytes);
    if (hasReservedBits(table, index)) {
      corrupt(`ERROR refcount table entry ${index} has reserved bits set`);
    } else if (offset % clusterSizeBytes !== 0) {
      corrupt(`ERROR refcount block ${index} is not cluster aligned; refcount table entry corrupted`);
    } else if (cluster >= counts.clusters) {
      corrupt(`ERROR refcount block ${index} is outside image`);
    } else {
      references.add(offset, clusterSizeBytes, 1);
      const count = counts.count(clusterIndex(cluster));
      if (count !== 1) corrupt(`ERROR refcount block ${index} refcount=${count}`);
    }
  }
}

async function tellWrongFlags(scan: L2Scan, stored: StoredRefcounts, findings: CheckFindings): Promise<void> {
  let told = 0;
  for (const { what, cluster, times, isSet } of scan.wrongFlags) {
    const count = cluster === undefined ? "1" : await stored.formatCount(cluster);
    // Without the flag a cluster is copied before it is written to, which is never wrong.
    const line = `ERROR OFLAG_COPIED ${what} refcount=${count}`;
    findings.corrupt(line, times, isSet ? { kind: "flag", line } : null);
    told += times;
  }
  findings.corruptions += scan.copiedErrors - told;
}
