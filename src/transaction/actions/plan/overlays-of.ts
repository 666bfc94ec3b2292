// Who stands on an image that is about to change under them: devices, what the history keeps, and images that no record
// tells of, in the folders of all of these and below the workspace.
//
// Invariant: a generation that the history has lost may have had an image that stands on any, and is told.

import { type DeviceEntry, filesOfEntry } from "../../../device/index.ts";
import { ImgtxError, unlessItFails } from "../../../errors/index.ts";
import { identityOf } from "../../../format/index.ts";
import { isEmptyVolume } from "../../images/devices.ts";
import { OverlaySearch } from "../../images/overlay-search.ts";
import type { Note } from "../../notes/notes.ts";
import type { PlanContext } from "./action.ts";

type OverlayContext = Pick<PlanContext, "table" | "storage" | "readGeneration" | "root">;

/** What a transaction is still making, which holds its devices: such as the changes that bring a mirror in sync. */
const STAGED = /\/\.imgtx-[a-z0-9]+-\d+-\d+$/;

interface KnownOverlays {
  /** Those that do not count, by what identifies their files. */
  readonly except?: ReadonlySet<string>;
  /** Images in whose folders there may be others. Default: the images alone. */
  readonly chain?: readonly { readonly path: string }[];
}

interface FoundOverlays {
  /** Those that are there, each once, by the images that have some. */
  readonly overlays: ReadonlyMap<string, readonly string[]>;
  /** Of them those that no record knows. */
  readonly strangers: ReadonlySet<string>;
  /** The newest generation that the history lacks. */
  readonly lost: number | undefined;
  /** On what was not looked at. */
  readonly notes: readonly Note[];
}

/**
 * E_IN_USE, with the first of the overlays and what would happen to it. Returns notes on what could not be looked at.
 */
export async function assertNothingStandsOn(
  image: string,
  what: string,
  context: OverlayContext,
  hint?: string,
): Promise<readonly Note[]> {
  const { overlays, lost, notes } = await findOverlays([image], context);
  const found = overlays.get(image) ?? [];
  if (found.length > 0) throw somethingStandsOnIt(found, what, hint);
  return lost === undefined ? notes : [...notes, { code: "generation lost", generation: lost }];
}

export function somethingStandsOnIt(
  [overlay, ...others]: readonly string[],
  what: string,
  hint = "remove what nobody needs any more; or make a snapshot, and change its overlay instead",
): ImgtxError {
  const more = others.length === 0 ? "" : `, and ${others.length} more`;
  return new ImgtxError("E_IN_USE", `'${overlay}' stands on it${more}, and ${what}`, { hint });
}

/** The same where a damaged generation counts as a lost one: what is planned does without it. */
export function passingDamaged<Context extends OverlayContext>(context: Context): Context {
  const readGeneration = async (generation: number) =>
    await unlessItFails(async () => await context.readGeneration(generation));
  return { ...context, readGeneration };
}

/** What a result says where a device goes onto an image that overlays stand on, of whoever. */
export async function noteStanding(
  device: string,
  image: string,
  { table, searchOverlays }: Pick<PlanContext, "table" | "searchOverlays">,
): Promise<Note[]> {
  const search = searchOverlays();
  const known = table.devices.flatMap(({ chain }) => chain.map((entry) => entry.image));
  await search.readAround([], [image, ...known]);
  const [first, ...others] = (await search.on(image)).filter((path) => !STAGED.test(path));
  return first === undefined ? [] : [{ code: "overlay above", image: first, device, more: others.length }];
}

/** The overlays of several images. */
export async function findOverlays(
  images: readonly string[],
  { table, storage, readGeneration, root }: OverlayContext,
  { except, chain: beside = [] }: KnownOverlays = {},
): Promise<FoundOverlays> {
  const found = new Map(images.map((image) => [image, new Set<string>()]));
  const named = new Set<string>();
  const add = (chain: DeviceEntry["chain"]): void => {
    for (const [depth, entry] of chain.entries()) {
      const overlay = chain[depth - 1];
      if (overlay) found.get(entry.image)?.add(overlay.image);
      for (const { image } of filesOfEntry(entry)) named.add(image);
    }
  };
  const seen = new Set<DeviceEntry>();
  let lost: number | undefined;
  for (let generation = table.generation; generation > 0; generation -= 1) {
    const known = generation === table.generation ? table : await readGeneration(generation);
    if (!known) lost ??= generation;
    for (const entry of known?.devices ?? []) {
      // Most generations have most devices as the next one has them.
      if (seen.has(entry)) continue;
      seen.add(entry);
      add(entry.chain);
      if (entry.mirror) add(entry.mirror.chain);
    }
  }
  const search = new OverlaySearch(storage, root);
  await search.readAround([...images, ...beside.map(({ path }) => path)], named);
  const there = new Map<string, string[]>();
  for (const [image, overlays] of found) {
    const files = new Map<string, string>();
    const searched = (await search.on(image)).filter((path) => !STAGED.test(path));
    for (const overlay of [...overlays, ...searched]) {
      const path = named.has(overlay) ? overlay : await throughItsDevice(overlay, storage);
      const stat = await storage.stat(path);
      // By another name it is the same overlay.
      if (!stat || except?.has(identityOf(stat)) === true || files.has(identityOf(stat))) continue;
      // A volume keeps its name when what was on it is gone.
      if (stat.kind !== "device" || !(await isEmptyVolume(storage, path))) files.set(identityOf(stat), path);
    }
    if (files.size > 0) there.set(image, [...files.values()]);
  }
  const strangers = new Set([...there.values()].flat().filter((path) => !named.has(path)));
  return { overlays: there, strangers, lost, notes: search.notes };
}

/** The loop device over a file: what is on that is written through it, and read by its name, never by the file's beside it. */
async function throughItsDevice(file: string, storage: PlanContext["storage"]): Promise<string> {
  const stat = await storage.stat(file);
  if (stat?.kind !== "file") return file;
  const holders = await storage.findHolders(stat);
  // Of a process the pid is told.
  return holders.find(({ pid, program }) => pid === 0 && program.startsWith("/dev/loop"))?.program ?? file;
}
