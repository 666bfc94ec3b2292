// The chains through the layers that a deletion of snapshots changes or takes away, open: each layer as a link, with what is
// above and below it.
//
// Invariant: what is merged, removed or merged into is what the records know of it. Else nothing is done to any of them.

import { type DeviceEntry, filesOfEntry } from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import type { Chain, ChainLink } from "../../../format/index.ts";
import type { Note } from "../../notes/notes.ts";
import type { PlanContext } from "../plan/action.ts";
import { chainEntriesOf } from "../plan/chain-entry.ts";
import type { Layers } from "./layers.ts";
import { describeObstacle, findDoubts } from "./looks.ts";

interface View {
  readonly chain: Chain;
  readonly link: ChainLink;
  /** What stands on it in that chain, right above. */
  readonly overlay: ChainLink | undefined;
  readonly below: readonly ChainLink[];
}

export interface OpenLayers {
  readonly chains: readonly Chain[];
  readonly doubts: readonly Note[];
  /** Of an image in one of the chains. */
  viewOf(image: string, overlay?: string): View;
}

/** Opens chains that go through all of these. wayOut: what else ends a refusal, as a clause. E_CHANGED, E_NOT_FOUND and others where they are not what they were. */
export async function openThrough(
  { name: device, format, image }: DeviceEntry,
  layers: Layers,
  wanted: readonly string[],
  context: PlanContext,
  wayOut = "; `--keep-images` takes the moment away, and leaves them as they are",
): Promise<OpenLayers> {
  const chains: Chain[] = [];
  const covered = new Set<string>();
  const open = async (top: string, as: string, trusted: readonly string[]): Promise<void> => {
    const chain = await context.openChain(top, as, device, trusted);
    chains.push(chain);
    for (const { path } of chain.links) covered.add(path);
  };
  const line = lineFrom(layers, image);
  if (wanted.some((one) => line.includes(one))) await open(image, format, []);
  // The longest lines first: they go through the others.
  const rest = wanted.map((one) => ({ one, depth: lineFrom(layers, one).length }));
  for (const { one } of rest.sort((a, b) => b.depth - a.depth)) {
    const layer = layers.get(one);
    if (layer && !covered.has(one)) await open(one, layer.entry.format, layer.trusted);
  }
  const doubts = chains.flatMap((chain) => judgeChain(device, chain, layers, wayOut));
  return { chains, doubts, viewOf: (path, overlay) => findView(chains, path, overlay) };
}

/** The layer and all below it. */
function lineFrom(layers: Layers, image: string | null): string[] {
  const line: string[] = [];
  for (let at = image; at !== null; at = layers.get(at)?.below ?? null) line.push(at);
  return line;
}

function findView(chains: readonly Chain[], path: string, above: string | undefined): View {
  const views = chains.flatMap((chain): readonly View[] => {
    const depth = chain.links.findIndex((one) => one.path === path);
    const link = chain.links[depth];
    if (!link) return [];
    return [{ chain, link, overlay: chain.links[depth - 1], below: chain.links.slice(depth + 1) }];
  });
  const found =
    above === undefined
      ? (views.find(({ overlay }) => overlay) ?? views[0])
      : views.find(({ overlay }) => overlay?.path === above);
  if (!found) throw new Error(`'${path}' is in no chain that was opened`);
  return found;
}

/** E_CHANGED where the images are not what is known of them, but for what a guest writes to. Returns what can't be told. */
function judgeChain(device: string, chain: Chain, layers: Layers, wayOut: string): readonly Note[] {
  const [top] = chain.links;
  const known = lineFrom(layers, top?.path ?? null).flatMap((image) => layers.get(image) ?? []);
  const now = chainEntriesOf(chain);
  const problems =
    now.length === known.length ? [] : [`its chain has ${now.length} images, and had ${known.length}`];
  const doubts: Note[] = [];
  for (const [depth, { entry, isActive }] of known.entries()) {
    const found = now[depth];
    if (!found || isActive) continue;
    const files = filesOfEntry(found);
    for (const [index, file] of filesOfEntry(entry).entries()) {
      const changes = describeObstacle(file, files[index]);
      problems.push(...changes);
      const present = files[index];
      if (present && changes.length === 0) doubts.push(...findDoubts(file, present, true));
    }
  }
  if (problems.length === 0) return doubts;
  throw new ImgtxError("E_CHANGED", `the images are not what they were: ${problems.join("; ")}`, {
    device,
    ...(top && { image: top.path }),
    hint: `put the images back from a copy, with their times${wayOut}`,
  });
}
