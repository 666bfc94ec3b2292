// Counting what an image refers to: every range of bytes that some structure claims adds to the counts of the
// clusters it touches.
//
// Invariant: a range that ends a cluster or more past the end of the file is an error, and counts nothing;
// so memory is bounded by the file, whatever an entry claims. The last cluster of a file may be cut short.

import { type ClusterIndex, clusterIndex, offsetBy, startOf } from "../../../units/index.ts";
import type { ClusterCounts } from "./check-counts.ts";
import { type CheckFindings, formatWord } from "./check-findings.ts";

interface WordHalves {
  readonly hi: number;
  readonly lo: number;
}

export class References {
  readonly counts: ClusterCounts;
  readonly findings: CheckFindings;
  readonly clusterSizeBytes: number;
  readonly fileSizeBytes: number;

  constructor(
    counts: ClusterCounts,
    findings: CheckFindings,
    clusterSizeBytes: number,
    fileSizeBytes: number,
  ) {
    this.counts = counts;
    this.findings = findings;
    this.clusterSizeBytes = clusterSizeBytes;
    this.fileSizeBytes = fileSizeBytes;
  }

  /**
   * times: how many entries refer to the range. Offsets up to 2^61 keep their order as doubles, which is enough
   * to judge them; the halves of the word are for those that have to be told exactly.
   */
  add(offset: number, lengthBytes: number, times: number, halves?: WordHalves): void {
    if (lengthBytes <= 0) return;
    if (offset + lengthBytes - this.fileSizeBytes >= this.clusterSizeBytes) {
      const { hi, lo } = halves ?? splitOffset(offset);
      const place = formatWord(hi, lo);
      this.findings.corrupt(
        "ERROR: counting reference for region exceeding the end of the file by one cluster or more: " +
          `offset 0x${place} size 0x${lengthBytes.toString(16)}`,
        times,
        { kind: "missing", start: offset, end: offset + lengthBytes },
      );
      return;
    }
    const first = clusterIndex(Math.floor(offset / this.clusterSizeBytes));
    const last = Math.floor((offset + lengthBytes - 1) / this.clusterSizeBytes);
    for (let cluster = first; cluster <= last; cluster = offsetBy(cluster, 1)) {
      const excess = this.counts.add(cluster, times);
      if (excess > 0) this.#tellOverflow(cluster, excess);
    }
  }

  #tellOverflow(cluster: ClusterIndex, excess: number): void {
    this.findings.corrupt(
      `ERROR: overflow cluster offset=0x${startOf(cluster, this.clusterSizeBytes).toString(16)}\n` +
        "Use qemu-img amend to increase the refcount entry width or qemu-img convert to create a clean copy " +
        "if the image cannot be opened for writing",
      excess,
    );
  }
}

function splitOffset(offset: number): WordHalves {
  return { hi: Math.floor(offset / 2 ** 32), lo: offset % 2 ** 32 };
}
