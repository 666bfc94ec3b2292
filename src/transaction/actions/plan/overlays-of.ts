// Who stands on an image that is about to change under them: devices, what the history keeps, and images beside it.

import { posix } from "node:path";
import type { DeviceEntry } from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import { type FolderOverlays, identityOf, overlaysOn, readOverlaysIn } from "../../../format/index.ts";
import type { Note } from "../../notes.ts";
import type { PlanContext } from "./action.ts";

type OverlayContext = Pick<PlanContext, "table" | "storage" | "readGeneration">;

interface KnownOverlays {
  /** Those that do not count, by what identifies their files. */
  readonly except?: ReadonlySet<string>;
  /** Images in whose folders there may be others. Default: the image alone. */
  readonly chain?: readonly { readonly path: string }[];
  /** Folders that were read already, by their paths. Those that are read are added. */
  readonly folders: Map<string, FolderOverlays>;
}

/**
 * E_IN_USE, with the first of the overlays and what would happen to it. Returns notes on folders that have more files than
 * are looked at.
 */
export async function assertNothingStandsOn(
  image: string,
  what: string,
  context: OverlayContext,
): Promise<Note[]> {
  const folders = new Map<string, FolderOverlays>();
  const overlays = await findOverlaysOf(image, context, { folders });
  if (overlays.length > 0) throw somethingStandsOnIt(overlays, what);
  return noteUnread(folders);
}

export function somethingStandsOnIt(
  [overlay, ...others]: readonly string[],
  what: string,
  hint = "remove what nobody needs any more; or make a snapshot, and change its overlay instead",
): ImgtxError {
  const more = others.length === 0 ? "" : `, and ${others.length} more`;
  return new ImgtxError("E_IN_USE", `'${overlay}' stands on it${more}, and ${what}`, { hint });
}

/** On folders that have more files than are looked at. */
export function noteUnread(folders: ReadonlyMap<string, FolderOverlays>): Note[] {
  return [...folders.values()].flatMap(({ folder, filesLeft }) =>
    filesLeft === 0 ? [] : [{ code: "folder not read whole", image: folder, filesLeft } as const],
  );
}

/** The overlays that are there, each once. */
export async function findOverlaysOf(
  image: string,
  context: OverlayContext,
  known: KnownOverlays,
): Promise<string[]> {
  return (await findOverlays([image], context, known)).get(image) ?? [];
}

/** The overlays of several images that are there, each once, by the images that have some. */
export async function findOverlays(
  images: readonly string[],
  { table, storage, readGeneration }: OverlayContext,
  { except, chain: beside = [], folders: read }: KnownOverlays,
): Promise<ReadonlyMap<string, string[]>> {
  const found = new Map(images.map((image) => [image, new Set<string>()]));
  const add = (chain: readonly { readonly image: string }[]): void => {
    for (const [depth, { image }] of chain.entries()) {
      const overlay = chain[depth - 1];
      if (overlay) found.get(image)?.add(overlay.image);
    }
  };
  const seen = new Set<DeviceEntry>();
  for (let generation = table.generation; generation > 0; generation -= 1) {
    const { devices } =
      generation === table.generation ? table : ((await readGeneration(generation)) ?? NONE);
    for (const entry of devices) {
      // Most generations have most devices as the next one has them.
      if (seen.has(entry)) continue;
      seen.add(entry);
      add(entry.chain);
      if (entry.mirror) add(entry.mirror.chain);
    }
  }
  const folders = new Set([...images, ...beside.map(({ path }) => path)].map((path) => posix.dirname(path)));
  for (const folder of folders) {
    const known = read.get(folder) ?? (await readOverlaysIn(storage, folder));
    read.set(folder, known);
    for (const [image, overlays] of found) {
      for (const overlay of await overlaysOn(storage, known, image)) overlays.add(overlay);
    }
  }
  const there = new Map<string, string[]>();
  for (const [image, overlays] of found) {
    for (const path of overlays) {
      const stat = await storage.stat(path);
      if (!stat || except?.has(identityOf(stat)) === true) continue;
      there.set(image, [...(there.get(image) ?? []), path]);
    }
  }
  return there;
}

const NONE = { devices: [] } as const;
