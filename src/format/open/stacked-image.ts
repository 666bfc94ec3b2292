// An image on a backing image that somebody else chose: not the one that its header names.

import { ComposedImage } from "../read/composed-image.ts";
import type { OpenedImage } from "./open-image.ts";

/** Both belong to the result, and are closed with it. `top` was opened without its backing image. */
export function stackImages(top: OpenedImage, below: OpenedImage): OpenedImage {
  const [own] = top.layers;
  if (own === undefined) throw new RangeError("an image without a layer");
  const close = async (): Promise<void> => {
    await Promise.all([top.close(), below.close()]);
  };
  const links = [...top.chain.links, ...below.chain.links];
  return Object.assign(new ComposedImage([own, ...below.layers], close), { chain: { links, close } });
}
