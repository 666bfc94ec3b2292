// Options of `create` and `convert`, chosen at random among those that go together.

import type { Random } from "../helpers/random.ts";

export interface ChosenLayout {
  /** For -o, without what the image stands on. */
  readonly options: readonly string[];
  readonly version: 2 | 3;
  readonly clusterBytes: number;
  readonly refcountBits: number;
  readonly hasDataFile: boolean;
  readonly virtualSizeBytes: number;
}

const SECTOR_BYTES = 512;

export function pick<T>(random: Random, list: readonly [T, ...T[]]): T {
  return list[random.below(list.length)] ?? list[0];
}

export function chance(random: Random, percent: number): boolean {
  return random.below(100) < percent;
}

/** dataFileName: what an external data file would be called; undefined where there must be none. */
export function chooseLayout(
  random: Random,
  { hasBacking, dataFileName }: { hasBacking: boolean; dataFileName: string | undefined },
): ChosenLayout {
  const clusterBytes = 2 ** pick(random, [9, 9, 10, 12, 12, 14, 15, 16, 16, 16, 17, 20, 21]);
  const version = chance(random, 20) ? 2 : 3;
  const options = [`cluster_size=${clusterBytes}`, `compat=${version === 2 ? "0.10" : "1.1"}`];
  let refcountBits = 16;
  let hasDataFile = false;
  if (version === 3) {
    refcountBits = 2 ** pick(random, [0, 1, 2, 3, 4, 4, 4, 5, 6]);
    options.push(`refcount_bits=${refcountBits}`);
    if (clusterBytes >= 16384 && chance(random, 35)) options.push("extended_l2=on");
    if (chance(random, 15)) options.push("lazy_refcounts=on");
    if (chance(random, 25)) options.push("compression_type=zstd");
    if (dataFileName !== undefined && chance(random, 15)) {
      hasDataFile = true;
      options.push(`data_file=${dataFileName}`);
      if (!hasBacking && chance(random, 50)) options.push("data_file_raw=on");
    }
  }
  const preallocation = pick(random, ["off", "off", "off", "off", "metadata", "falloc", "full"]);
  const mayPreallocate = !hasBacking || options.includes("extended_l2=on");
  if (preallocation !== "off" && mayPreallocate && clusterBytes <= 2 ** 17) {
    options.push(`preallocation=${preallocation}`);
  }
  const virtualSizeBytes = chooseSize(random, clusterBytes);
  return { options, version, clusterBytes, refcountBits, hasDataFile, virtualSizeBytes };
}

/** A few clusters to a few thousand, and seldom a whole number of them. */
function chooseSize(random: Random, clusterBytes: number): number {
  const clusters = clusterBytes >= 2 ** 20 ? 1 + random.below(3) : 4 + random.below(200);
  const sizeBytes = Math.min(clusters * clusterBytes, 4 * 1024 * 1024 + clusterBytes);
  const odd = chance(random, 40) ? SECTOR_BYTES * random.below(clusterBytes / SECTOR_BYTES + 1) : 0;
  return Math.max(SECTOR_BYTES, sizeBytes - odd);
}
