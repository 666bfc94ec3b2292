// Who stands on an image that is about to change under them: devices, what the history keeps, and images beside it.

import { findOverlaysBeside } from "../../../format/index.ts";
import type { PlanContext } from "./action.ts";

/** The overlays that are there, each once. */
export async function findOverlaysOf(
  image: string,
  { table, storage, readGeneration }: Pick<PlanContext, "table" | "storage" | "readGeneration">,
): Promise<string[]> {
  const found = new Set<string>();
  const add = (chain: readonly { readonly image: string }[]): void => {
    for (const [depth, entry] of chain.entries()) {
      const overlay = chain[depth - 1];
      if (overlay && entry.image === image) found.add(overlay.image);
    }
  };
  for (let generation = table.generation; generation > 0; generation -= 1) {
    const { devices } =
      generation === table.generation ? table : ((await readGeneration(generation)) ?? NONE);
    for (const { chain, mirror } of devices) {
      add(chain);
      if (mirror) add(mirror.chain);
    }
  }
  for (const overlay of await findOverlaysBeside(storage, image)) found.add(overlay);
  const there = await Promise.all([...found].map(async (path) => ((await storage.stat(path)) ? [path] : [])));
  return there.flat();
}

const NONE = { devices: [] } as const;
