// Opens an image for reading its guest data: the chain, and a reader for each image of it.
//
// Invariants
// - Nothing is written, and nothing is locked: the caller holds the locks that its work needs.
// - Memory for tables is shared out among the layers, so that a long chain takes no more than a short one.
// - After a failure nothing stays open.

import { elseClosed } from "../../errors/index.ts";
import type { Storage } from "../../storage/index.ts";
import { type Chain, type ChainLink, type ChainOptions, openChain } from "../chain/backing-chain.ts";
import { ComposedImage } from "../read/composed-image.ts";
import type { Image } from "../image.ts";
import type { LayerReader } from "../read/layer-reader.ts";
import { Qcow2Layer } from "../qcow2/read/qcow2-layer.ts";
import type { L1Table } from "../chain/chain-link.ts";
import { findSnapshotTable, type SnapshotChoice } from "../qcow2/read/qcow2-snapshots.ts";
import { RawLayer } from "../raw/raw-layer.ts";

export interface ImageOptions extends ChainOptions {
  /** Id or name of an internal snapshot, whose guest data is read instead of the present. */
  readonly snapshot?: SnapshotChoice | undefined;
}

export interface OpenedImage extends Image {
  readonly layers: readonly LayerReader[];
  /** What was opened. Closed with the image. */
  readonly chain: Chain;
}

/** Bytes of tables that are kept in memory, for all layers together. */
const TABLE_BYTES = 32 * 1024 * 1024;
const TABLE_BYTES_MIN = 256 * 1024;

/**
 * Opens the image at path, which is absolute. The caller closes it.
 * Errors are those of openChain; E_NOT_FOUND for a snapshot that there is not, E_UNSUPPORTED for one of raw.
 */
export async function openImage(storage: Storage, path: string, options: ImageOptions): Promise<OpenedImage> {
  const { snapshot } = options;
  return await elseClosed(await openChain(storage, path, options), async (chain) => {
    const [top] = chain.links;
    const l1Table = snapshot === undefined || !top ? undefined : await findSnapshotTable(top, snapshot);
    return imageOf(chain, l1Table);
  });
}

/** The guest data of a chain that is open. Closing the image closes the chain. */
export function imageOf(chain: Chain, l1Table?: L1Table): OpenedImage {
  const [top, ...below] = chain.links;
  if (top === undefined) throw new RangeError("a chain without an image");
  const cacheBytes = Math.max(TABLE_BYTES_MIN, Math.floor(TABLE_BYTES / chain.links.length));
  const layers: [LayerReader, ...LayerReader[]] = [
    makeLayer(top, cacheBytes, l1Table),
    ...below.map((link) => makeLayer(link, cacheBytes)),
  ];
  return Object.assign(new ComposedImage(layers, () => chain.close()), { chain });
}

/** A reader for one image of a chain that is open. */
function makeLayer(link: ChainLink, cacheBytes: number, l1Table?: L1Table): LayerReader {
  const { header } = link;
  return header === undefined
    ? new RawLayer(link)
    : new Qcow2Layer({ ...link, header }, { cacheBytes, l1Table });
}
