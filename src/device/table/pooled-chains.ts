// Chains as the table stores them: each image once, and in the chains its number. Devices on one base have most of
// their chains in common, and a table would else grow with their product: 500 devices on 150 images, under long
// paths, came to more than is read again.
//
// Invariant: an image that several chains have is one object in memory too, as long as nobody changes it.

import { isObject } from "./data-shape.ts";
import type { ChainEntry, DeviceEntry, MirrorEntry } from "./device-entry.ts";

type Numbers = readonly number[];
type PooledMirror = Omit<MirrorEntry, "chain" | "source"> & {
  readonly chain: Numbers;
  readonly source: Numbers;
};
type PooledDevice = Omit<DeviceEntry, "chain" | "mirror"> & {
  readonly chain: Numbers;
  readonly mirror: PooledMirror | null;
};

export interface Pooled {
  readonly images: readonly ChainEntry[];
  readonly devices: readonly PooledDevice[];
}

/** Images, each once, by the numbers that they got. */
export class ImagePool {
  readonly images: ChainEntry[] = [];
  readonly #known = new Map<ChainEntry, number>();
  /** The first of each path. Nearly all are the only one of theirs, and the very object where it stands again. */
  readonly #byPath = new Map<string, number>();
  // By path first: paths may be long, and have to be compared no more than once.
  readonly #byContent = new Map<string, Map<string, number>>();

  constructor(images: readonly ChainEntry[] = []) {
    for (const image of images) this.numberOf(image);
  }

  /** Its number, which it gets where no image is alike. */
  numberOf(entry: ChainEntry): number {
    const seen = this.#known.get(entry);
    if (seen !== undefined) return seen;
    const number = this.#findAlike(entry) ?? this.images.push(entry) - 1;
    this.#known.set(entry, number);
    return number;
  }

  #findAlike(entry: ChainEntry): number | undefined {
    const { image } = entry;
    const first = this.#byPath.get(image);
    const next = this.images.length;
    if (first === undefined) {
      this.#byPath.set(image, next);
      return undefined;
    }
    const alike =
      this.#byContent.get(image) ??
      new Map(this.images.slice(first, first + 1).map((one) => [contentOf(one), first]));
    this.#byContent.set(image, alike);
    const content = contentOf(entry);
    const number = alike.get(content);
    if (number === undefined) alike.set(content, next);
    return number;
  }
}

function contentOf({ image: _image, ...rest }: ChainEntry): string {
  return JSON.stringify(rest);
}

export function poolChains(devices: readonly DeviceEntry[]): Pooled {
  const all = new ImagePool();
  const pool = (chain: readonly ChainEntry[]): Numbers => chain.map((entry) => all.numberOf(entry));
  return {
    devices: devices.map((device) => ({
      ...device,
      chain: pool(device.chain),
      mirror: device.mirror && {
        ...device.mirror,
        chain: pool(device.mirror.chain),
        source: pool(device.mirror.source),
      },
    })),
    images: all.images,
  };
}

/** The devices of a stored table, whatever it holds: their shape is judged afterwards. */
export function unpoolChains(images: unknown, devices: unknown): unknown {
  if (!Array.isArray(images) || !Array.isArray(devices)) return devices;
  const unpool = (chain: unknown): unknown =>
    Array.isArray(chain) ? chain.map((number: unknown) => images[Number(number)] as unknown) : chain;
  return devices.map((device: unknown) => {
    if (!isObject(device)) return device;
    const { mirror } = device;
    const unpooled = isObject(mirror)
      ? { ...mirror, chain: unpool(mirror["chain"]), source: unpool(mirror["source"]) }
      : mirror;
    return { ...device, chain: unpool(device["chain"]), mirror: unpooled };
  });
}
