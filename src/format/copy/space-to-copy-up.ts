// How much new space the top image of a chain may take for what it would miss on another backing image.
//
// Invariant: an upper bound. Where what is equal is left out, all that lies in different places counts, unless both are
// read to know better.

import { endOf, type GuestOffset, type GuestRange } from "../../units/index.ts";
import type { Storage } from "../../storage/index.ts";
import type { GateOptions } from "../chain/open-gate.ts";
import type { Image } from "../image.ts";
import { openImage } from "../open/open-image.ts";
import { makeEntryLayout } from "../qcow2/write/plan-write.ts";
import { extentsOf } from "../read/extent-cursor.ts";
import { copyImages } from "./copy.ts";
import { type CopyUp, lookAtMissing, optionsOf } from "./copy-up.ts";
import { FillingImage } from "./missing-image.ts";
import { type SpaceToCopy, spaceOf } from "./space-to-copy.ts";

/** For refcount structures, tables that have to move, and a longer header. */
const SPARE_CLUSTERS = 8;

/** Nothing where all of it is there. Of a data file, what it takes is apart from what its image does. */
export async function measureSpaceToCopyUp(
  storage: Storage,
  copy: CopyUp,
  gate: GateOptions,
  { isExact, above = storage }: { readonly isExact: boolean; readonly above?: Storage },
): Promise<SpaceToCopy[]> {
  const { path } = copy.into;
  const opened = await openImage(storage, path, { format: "qcow2", gate });
  const [link] = opened.chain.links;
  if (!link?.header) throw new RangeError("only qcow2 images stand on others");
  const layout = makeEntryLayout(link.header, true);
  const image = Object.assign(opened, { layout });
  const { source, pair, close } = await lookAtMissing(above, image, copy, gate).catch(
    async (error: unknown) => {
      await opened.close();
      throw error;
    },
  );
  try {
    const { clusterBytes } = layout;
    const taken = new TakenClusters(image, clusterBytes, link.header.hasExtendedL2 ? 16 : 8);
    if (isExact && copy.leavesOutEqual) {
      const target = new FillingImage(taken, pair, { unitBytes: source.unitBytes, leavesOutEqual: true });
      await copyImages([source], target, { ...optionsOf({ image, source }, copy), compressed: false });
    } else await countMissing(source, taken);
    if (taken.tables === 0) return [];
    const dataBytes = taken.clusters * clusterBytes;
    const spare = SPARE_CLUSTERS + Math.ceil((8 * taken.clusters) / clusterBytes);
    const tableBytes = (taken.tables + spare) * clusterBytes;
    const { dataFile } = link;
    if (!dataFile) return [spaceOf(path, dataBytes + tableBytes)];
    const endBytes = Math.ceil(image.virtualSizeBytes / clusterBytes) * clusterBytes;
    return [spaceOf(path, tableBytes), { ...spaceOf(dataFile.path, dataBytes), endBytes }];
  } finally {
    await close();
  }
}

async function countMissing(source: Image, taken: TakenClusters): Promise<void> {
  for await (const extent of extentsOf(source)) {
    if (extent.present && extent.kind === "zero") await taken.writeZeroes(extent);
    else if (extent.present) taken.take(extent);
  }
}

/** Takes what would be written, and counts it. */
class TakenClusters {
  readonly path: string;
  readonly virtualSizeBytes: number;
  readonly layers: Image["layers"];
  readonly layout: { readonly version: number };
  /** Clusters of data. */
  clusters = 0;
  /** L2 tables. */
  tables = 0;
  /** The first one after those that count. */
  #nextTable = 0;
  readonly #clusterBytes: number;
  readonly #reachBytes: number;

  constructor(
    { path, virtualSizeBytes, layers, layout }: Image & { readonly layout: { readonly version: number } },
    clusterBytes: number,
    entryBytes: number,
  ) {
    this.path = path;
    this.virtualSizeBytes = virtualSizeBytes;
    this.layers = layers;
    this.layout = layout;
    this.#clusterBytes = clusterBytes;
    this.#reachBytes = (clusterBytes / entryBytes) * clusterBytes;
  }

  take(range: GuestRange): void {
    const [start, end] = [range.start, endOf(range)];
    this.clusters += Math.ceil(end / this.#clusterBytes) - Math.floor(start / this.#clusterBytes);
    this.#takeTables(range);
  }

  async write(source: Uint8Array, offset: GuestOffset): Promise<void> {
    await Promise.resolve(this.take({ start: offset, lengthBytes: source.length }));
  }

  async writeCompressed(cluster: Uint8Array, offset: GuestOffset): Promise<void> {
    await this.write(cluster, offset);
  }

  /** A mark in a table; version 2 has none. */
  async writeZeroes(range: GuestRange): Promise<void> {
    if (this.layout.version === 2) this.take(range);
    else this.#takeTables(range);
    await Promise.resolve();
  }

  /** It is asked for in order, or nearly. */
  #takeTables(range: GuestRange): void {
    const last = Math.ceil(endOf(range) / this.#reachBytes);
    this.tables += Math.max(0, last - Math.max(Math.floor(range.start / this.#reachBytes), this.#nextTable));
    this.#nextTable = Math.max(this.#nextTable, last);
  }
}
