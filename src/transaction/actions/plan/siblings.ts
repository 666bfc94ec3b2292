// Overlays of others on what a merge changes or takes away. Each gets first what it would lose, and shows what it showed.
//
// Invariants
// - Where the device goes onto the image that gets the content, its guest will write to that: no other stands on it any more.
//   What stood on it, or on what goes, stands on what is below it then. Else they may go on to stand on it, once they have
//   what differs from the uppermost merged image: its content is what they find there afterwards.
// - What comes up into them is durable before anything is merged. The header of one that stands on what goes changes when
//   all is merged.
// - Devices that stand on them come along, held as those that are merged: the table knows their chains, and those of their
//   mirrors, which are as much in sync as before.

import { type DeviceEntry, type MirrorEntry, requireDevice } from "../../../device/index.ts";
import { ImgtxError, withPlace } from "../../../errors/index.ts";
import {
  assertCopyable,
  assertNoSnapshots,
  type Chain,
  type ChainLink,
  changeBacking,
  identityOf,
  measureSpaceToCopyUp,
  pathsOfLink,
} from "../../../format/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { NewBacking } from "../../journal/index.ts";
import type { PlannedFile } from "../../requests/request.ts";
import type { Note } from "../../notes/notes.ts";
import type { Plan, PlannedCopyStep, PlanContext } from "./action.ts";
import { assertNotFrozen } from "./fencing.ts";
import type { NewPlace } from "./giving-up.ts";
import type { LayersToMerge, Sibling } from "./layers-to-merge.ts";
import { assertMayBeCopiedUp, assertMayStand, entryWith, mirrorWith, nameAsBefore } from "./new-backing.ts";

/** What a plan has more for them. */
export interface SiblingsPlan {
  readonly copies: readonly PlannedCopyStep[];
  readonly redo: readonly ImageChange[];
  readonly chains: Plan["chains"];
  readonly changes: Plan["changes"];
  /** The mirror of the device that is merged, where that stands on something else then. */
  readonly ownMirror: ((mirror: MirrorEntry) => MirrorEntry) | undefined;
  readonly files: readonly PlannedFile[];
  readonly notes: readonly Note[];
  /** Where what stands on the merged layers, and on the image that gets them, stands then, by its path. */
  readonly places: ReadonlyMap<string, NewPlace>;
}

/** The layers, those that stand on them, and by which name what stood on the merged ones finds the image below. */
interface Merge {
  readonly layers: LayersToMerge;
  readonly siblings: readonly Sibling[];
  readonly name: string | undefined;
}

/** E_IN_USE, E_REFUSED or E_UNSUPPORTED where one of them can't keep what it shows. */
export async function planSiblings(merging: Merge, context: PlanContext): Promise<SiblingsPlan> {
  const known = await openChainsOn(merging, context);
  const parts: SiblingPart[] = [];
  for (const sibling of merging.siblings) {
    const place = { device: merging.layers.device, image: sibling.path };
    const part = await withPlace(place, async () => await planOne(sibling, { ...merging, known }, context));
    if (part) parts.push(part);
  }
  const standings = new Map(parts.map(({ top, after }) => [top.path, after]));
  const { layers, name } = merging;
  const [lowest] = layers.above.slice(-1);
  if (lowest) standings.set(lowest.path, { below: [layers.into, ...layers.below], name });
  const moved = known.flatMap((on) => {
    const overlay = on.chain.links[on.depth - 1];
    const after = overlay && standings.get(overlay.path);
    return after ? [{ ...on, after }] : [];
  });
  const own = moved.find((on) => on.device === layers.device);
  return {
    copies: parts.flatMap(({ copies }) => copies),
    redo: parts.flatMap(({ redo }) => redo),
    chains: [...known, ...parts.flatMap(({ chains }) => chains)],
    changes: changesOf(moved.filter((on) => on !== own)),
    ownMirror:
      own && ((mirror) => mirrorWith(mirror, own.chain, own.chain.links.slice(0, own.depth), own.after)),
    files: parts.map(({ top: { path } }) => ({ path, change: "change" })),
    notes: parts.map(({ note }) => note),
    places: standings,
  };
}

/** A chain that leads through the merged layers, or into the image that gets their content: a device's, or its mirror's. */
interface ChainOn {
  readonly device: string;
  readonly entry: DeviceEntry;
  readonly isMirror: boolean;
  readonly chain: Chain;
  /** Of the first of them in its chain. */
  readonly depth: number;
}

/** The chain of the device that is merged is no such one. */
async function openChainsOn(
  { layers: { device, merged, into } }: Merge,
  context: PlanContext,
): Promise<ChainOn[]> {
  const changing = new Set([...merged, into].map(({ stat }) => identityOf(stat)));
  const paths = new Set([...merged, into].map(({ path }) => path));
  const found: ChainOn[] = [];
  for (const entry of context.table.devices) {
    const { name, mirror } = entry;
    for (const one of [...(name === device ? [] : [entry]), ...(mirror ? [mirror] : [])]) {
      if (one.chain.every(({ image }) => !paths.has(image))) continue;
      const chain = await context.openChain(one.image, one.format, name);
      const depth = chain.links.findIndex(({ stat }) => changing.has(identityOf(stat)));
      if (depth <= 0) continue;
      assertNotFrozen(entry, "its images may not be written to");
      found.push({ device: name, entry, isMirror: one === mirror, chain, depth });
    }
  }
  return found;
}

/** A device and its mirror may both stand on them. */
function changesOf(moved: readonly (ChainOn & { readonly after: NewPlace })[]): Plan["changes"] {
  const entries = new Map<string, DeviceEntry>();
  for (const { device, entry: before, isMirror, chain, depth, after } of moved) {
    const entry = entries.get(device) ?? before;
    const above = chain.links.slice(0, depth);
    const changed =
      isMirror && entry.mirror
        ? { ...entry, mirror: mirrorWith(entry.mirror, chain, above, after) }
        : entryWith(entry, chain, above, after);
    entries.set(device, changed);
  }
  return [...entries].map(([device, after]) => ({ device, after }));
}

interface SiblingPart {
  readonly top: ChainLink;
  readonly after: NewPlace;
  readonly copies: readonly PlannedCopyStep[];
  readonly redo: readonly ImageChange[];
  readonly chains: Plan["chains"];
  readonly note: Note;
}

/** Undefined: by now it stands on something else. */
async function planOne(
  { path, on }: Sibling,
  { layers, known: chains }: Merge & { readonly known: readonly ChainOn[] },
  context: PlanContext,
): Promise<SiblingPart | undefined> {
  const known = chains.find(({ chain, depth }) => chain.links[depth - 1]?.path === path);
  const device = known?.device ?? layers.device;
  const chain = known?.chain ?? (await context.openChain(path, "qcow2", device));
  const [top, under] = chain.links.slice(known ? known.depth - 1 : 0);
  if (!top || !under || identityOf(under.stat) !== identityOf(on.stat)) return undefined;
  assertMayBeCopiedUp(device, top, context);
  const after = await findPlace(top, on, layers, context);
  const entry = requireDevice(context.table, device);
  await assertMayStand({ entry, chain, top, below: [under] }, after, context);
  const part = { top, after, chains: known ? [] : [{ device, chain }] };
  if (isOnSameContent(on, layers)) {
    assertSizesFit(top, layers);
    const redo = [{ link: top, isLast: true, write: writerOf(after) }];
    return { ...part, copies: [], redo, note: { code: "sibling points to", image: path } };
  }
  if (layers.above.length > 0 && on !== layers.into) assertSizesFit(top, layers);
  await assertNoSnapshots(top);
  await assertCopyable(context.storage, { path, format: top.format }, context.gate);
  const copy = planCopy(top, { on, after }, layers, context);
  return { ...part, copies: [copy], redo: [], note: await noteOn(copy, context) };
}

async function findPlace(
  top: ChainLink,
  on: ChainLink,
  { above, merged, into, below }: LayersToMerge,
  context: PlanContext,
): Promise<NewPlace> {
  if (above.length === 0) {
    const [first] = below;
    return { below, name: first && (await nameAsBefore(top, first, into, context)) };
  }
  const name =
    on === into ? top.header?.backingFileName : await nameAsBefore(top, into, merged.at(-1), context);
  return { below: [into, ...below], name };
}

/** What it stands on shows what the image shows that gets the content, when it has it. */
function isOnSameContent(on: ChainLink, { above, merged: [uppermost] }: LayersToMerge): boolean {
  return above.length > 0 && on === uppermost;
}

function backingOf({ below: [first], name }: NewPlace): NewBacking | null {
  return first && name !== undefined ? { path: first.path, format: first.format, name } : null;
}

function writerOf(after: NewPlace): ImageChange["write"] {
  return async (file) => await changeBacking(file, backingOf(after) ?? undefined);
}

function planCopy(
  { path: into, format }: ChainLink,
  { on, after }: { readonly on: ChainLink; readonly after: NewPlace },
  { above, merged, into: target }: LayersToMerge,
  { copiedInto }: PlanContext,
): PlannedCopyStep {
  const [uppermost] = merged;
  if (!uppermost) throw new Error("at least one layer is merged");
  const isLeft = above.length === 0;
  // The image that gets the content may be changed by redo logs by then: its own copy looks at it.
  const read = isLeft ? merged.slice(on === target ? merged.length : merged.indexOf(on)) : merged;
  // What an earlier statement merges into the uppermost one is there only with the commit.
  const until = { path: copiedInto.get(uppermost.path)?.from ?? uppermost.path, format: "qcow2" } as const;
  return {
    kind: "up",
    from: on.path,
    files: read.flatMap(pathsOfLink),
    into,
    format,
    up: {
      onto: backingOf(after),
      ...(!isLeft && { until }),
      leavesOutEqual: !isLeft,
      isCompressed: false,
    },
  };
}

async function noteOn({ into: image, up }: PlannedCopyStep, { storage, gate }: PlanContext): Promise<Note> {
  const onto = up?.until ?? up?.onto ?? undefined;
  const wanted = {
    into: { path: image },
    onto,
    leavesOutEqual: up?.leavesOutEqual === true,
    isCompressed: false,
  };
  const spaces = await measureSpaceToCopyUp(storage, wanted, gate, { isExact: false });
  const sizeBytes = spaces.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  return { code: "sibling pulled", image, sizeBytes, isAlone: onto === undefined };
}

/** What a longer image has past the end of what is merged into it would show. */
function assertSizesFit(
  { virtualSizeBytes, path }: ChainLink,
  { into, merged: [uppermost] }: LayersToMerge,
): void {
  const end = uppermost?.virtualSizeBytes ?? 0;
  if (Math.min(virtualSizeBytes, into.virtualSizeBytes) <= end) return;
  throw new ImgtxError(
    "E_REFUSED",
    `'${into.path}' has ${into.virtualSizeBytes} bytes, and what is merged into it ${end}: what it has past that would show`,
    { hint: `merge what is as large as '${path}' as well: leave out --from` },
  );
}
