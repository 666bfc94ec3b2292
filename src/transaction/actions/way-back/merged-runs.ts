// How layers come to one: up, into what stands on them, or down, into the lowest of them. Whichever moves less.
//
// Invariants
// - Up, what stands on them shows what it showed, and keeps its file: nobody who reads through it sees a change.
// - Down, the lowest gets what they all show with what stands on them, and nobody has a use for it as it was. What stood on
//   the uppermost finds it there, by its header, before that one goes.
// - Copies come in the order of the runs, the lowest first: what a header names is durably what it is to show by then.

import type { DeviceEntry } from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import {
  assertCopyable,
  changeBacking,
  type ChainLink,
  pathsOfLink,
  readBitmapDirectory,
} from "../../../format/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { Plan, PlannedCopyStep, PlanContext } from "../plan/action.ts";
import {
  assertMayBeMerged,
  findName,
  type LayersToMerge,
  planBitmaps,
  planGrowth,
  withBitmaps,
} from "../plan/layers-to-merge.ts";
import { assertMayStand, nameAsBefore, planCopyUp } from "../plan/new-backing.ts";
import type { Layer } from "./layers.ts";
import type { OpenLayers } from "./open-layers.ts";
import type { Run } from "./runs.ts";
import { isFenced } from "../plan/fencing.ts";

/** A run that comes to one file. */
export interface MergedRun {
  readonly run: Run;
  readonly direction: "up" | "down";
  /** The file that has it then. */
  readonly into: Layer;
  /** Guest bytes that are copied, at most. */
  readonly lengthBytes: number;
  /** Files that go, the uppermost first, with their data files. */
  readonly removes: readonly string[];
  readonly growth: readonly ImageChange[];
  readonly virtualSizeBytes: number;
  readonly bitmaps: readonly string[];
}

/** One that has to stay as it is, and why. */
export interface LeftRun {
  readonly run: Run;
  readonly why: string;
}

/** Which way is open to it, and moves less. */
export async function judgeRun(
  entry: DeviceEntry,
  run: Run,
  open: OpenLayers,
  context: PlanContext,
): Promise<MergedRun | LeftRun> {
  const changed = [...run.layers, run.top, ...run.above].find(({ image }) =>
    isChangedAtCommit(image, context),
  );
  if (changed) {
    const why = `an earlier action of the transaction changes ${changed.image} at the commit`;
    return { run, why };
  }
  const ways = [judgeDown, judgeUp].map(async (judge) => {
    try {
      return await judge(entry, run, open, context);
    } catch (error) {
      if (error instanceof ImgtxError && CLOSED.has(error.code)) return error;
      throw error;
    }
  });
  const [down, up] = await Promise.all(ways);
  if (!down || !up) throw new Error("both ways were judged");
  if (!(down instanceof ImgtxError) && !(up instanceof ImgtxError)) {
    // What imgtx did not make stays: up, it would go on taking its space for nothing.
    const freesIt = run.layers.every(({ isMade }) => isMade);
    return freesIt && up.lengthBytes < down.lengthBytes ? up : down;
  }
  if (!(down instanceof ImgtxError)) return down;
  if (!(up instanceof ImgtxError)) return up;
  return { run, why: `down: ${down.message}; up: ${up.message}` };
}

const CLOSED: ReadonlySet<string> = new Set(["E_REFUSED", "E_UNSUPPORTED"]);

/** Whether earlier statements of the transaction do something to it at the commit that nothing may follow before that. */
export function isChangedAtCommit(
  image: string,
  { copiedInto, changedLast }: Pick<PlanContext, "copiedInto" | "changedLast">,
): boolean {
  return copiedInto.has(image) || changedLast.has(image);
}

async function judgeDown(
  { name: device }: DeviceEntry,
  run: Run,
  open: OpenLayers,
  context: PlanContext,
): Promise<MergedRun> {
  const { top, layers } = run;
  const [into] = layers;
  if (!into) throw new Error("a run has a layer");
  if (!top.isMade) {
    throw new ImgtxError("E_REFUSED", "imgtx did not make it, and does not remove it", {
      device,
      image: top.image,
    });
  }
  // It would lose what it shows; and where the device goes onto the image that gets it, its guest would change that.
  if (top.neededBy !== undefined) {
    throw new ImgtxError("E_REFUSED", `${top.neededBy} stands on it`, { device, image: top.image });
  }
  const places = placesOf(device, run, open);
  const [first] = places;
  if (!first) throw new Error("a run has a place in a chain");
  for (const place of places) await assertMayBeMerged(place, NOT_KEPT, context);
  await assertCopyable(context.storage, first.into, context.gate);
  const bitmaps = await planBitmaps(first, NOT_KEPT, context);
  const growth = withBitmaps(first.into, await planGrowth(first, context), bitmaps);
  return {
    run,
    direction: "down",
    into,
    lengthBytes: await measure(first.merged, context),
    removes: first.merged.flatMap(pathsOfLink),
    growth,
    virtualSizeBytes: Math.max(first.into.virtualSizeBytes, first.merged[0]?.virtualSizeBytes ?? 0),
    bitmaps: [...new Set(bitmaps.map(({ name }) => name))],
  };
}

const NOT_KEPT = { kind: "merge", devices: [], from: undefined, into: undefined, keep: false } as const;

/** The run as a merge of each line through it. */
function placesOf(device: string, { layers, top, above }: Run, open: OpenLayers): LayersToMerge[] {
  const lines = above.length > 0 ? above.map(({ image }) => image) : [undefined];
  return lines.map((overlay) => {
    const { link, overlay: onIt, below } = open.viewOf(top.image, overlay);
    const merged = [link, ...below.slice(0, layers.length - 1)];
    const into = below[layers.length - 1];
    if (!into) throw new Error("a run stands in its chain");
    return {
      device,
      above: overlay === undefined || !onIt ? [] : [onIt],
      merged,
      into,
      below: below.slice(layers.length),
    };
  });
}

async function judgeUp(
  entry: DeviceEntry,
  run: Run,
  open: OpenLayers,
  context: PlanContext,
): Promise<MergedRun> {
  const { top, layers } = run;
  const { link, below } = open.viewOf(top.image);
  const merged = below.slice(0, layers.length).toReversed();
  const goes = merged.filter((_link, index) => layers[index]?.isMade === true);
  for (const one of [link, ...merged]) {
    if (one.header?.isFenced) throw isFenced(entry.name, one.path);
  }
  for (const one of goes) await assertNothingLost(entry.name, one);
  const after = below.slice(layers.length);
  const [first] = after;
  const standing = { entry, chain: open.viewOf(top.image).chain, top: link, below };
  const name = first && (await nameAsBefore(link, first, merged[0], context));
  await assertMayStand(standing, { below: after, name }, context);
  await planCopyUp(standing, { below: after, name, ...AS_IT_IS }, context);
  return {
    run,
    direction: "up",
    into: top,
    lengthBytes: await measure(merged, context),
    removes: goes.toReversed().flatMap(pathsOfLink),
    growth: [],
    virtualSizeBytes: link.virtualSizeBytes,
    bitmaps: [],
  };
}

const AS_IT_IS = { leavesOutEqual: false, isCompressed: false } as const;

/** E_REFUSED for what would go with the image, and can't go along. */
async function assertNothingLost(device: string, link: ChainLink): Promise<void> {
  const place = { device, image: link.path };
  if ((link.header?.nbSnapshots ?? 0) > 0) {
    throw new ImgtxError("E_REFUSED", "it has internal snapshots, which would be lost with it", place);
  }
  const bitmaps = link.format === "qcow2" ? await readBitmapDirectory(link) : [];
  if (bitmaps.length === 0) return;
  throw new ImgtxError("E_REFUSED", "it has bitmaps, which would be lost with it", place);
}

/** What the images take on the disk. */
async function measure(links: readonly ChainLink[], { storage }: PlanContext): Promise<number> {
  const stats = await Promise.all(links.flatMap(pathsOfLink).map(async (path) => await storage.stat(path)));
  return stats.reduce((sum, stat) => sum + (stat?.allocatedBytes ?? 0), 0);
}

/** What all merged runs of a device take, together. */
export interface Merging extends Required<Pick<Plan, "redo" | "copies" | "late" | "removes">> {
  /** Where the content of a layer is then, by its image. */
  readonly fileOf: ReadonlyMap<string, string>;
  /** What a layer stands on then, where that changes: by its image, the one below in the tree. */
  readonly belowOf: ReadonlyMap<string, string | null>;
  /** By which the header of a file names what it stands on then, where that changes. */
  readonly nameOf: ReadonlyMap<string, string | undefined>;
  /** Files that change. */
  readonly touched: ReadonlySet<string>;
}

export async function planMerging(
  entry: DeviceEntry,
  merged: readonly MergedRun[],
  open: OpenLayers,
  context: PlanContext,
): Promise<Merging> {
  const fileOf = new Map(merged.map(({ run, into }) => [run.top.image, into.image]));
  const belowOf = new Map(merged.map(({ run }) => [run.top.image, run.layers[0]?.below ?? null]));
  const removes = merged.flatMap((one) => one.removes);
  const nameOf = new Map<string, string | undefined>();
  const copies: PlannedCopyStep[] = [];
  const late: Merging["late"][number][] = [];
  const redo: ImageChange[] = merged.flatMap(({ growth }) => growth);
  const isTarget = (image: string): boolean =>
    merged.some(({ direction, into }) => direction === "down" && into.image === image);
  for (const one of merged) {
    if (one.direction === "up") {
      const copy = await copyUpOf(entry, one, { open, fileOf }, context);
      nameOf.set(one.into.image, copy.up?.onto?.name);
      copies.push(copy);
      continue;
    }
    const places = placesOf(entry.name, one.run, open);
    copies.push(copyDownOf(places));
    for (const place of places) {
      const [link] = place.above;
      if (!link || removes.includes(link.path)) continue;
      const name = await findName(place, context);
      if (name === undefined) throw new Error("what stands on the layers has a name for them");
      const backing = { path: place.into.path, format: place.into.format, name };
      nameOf.set(link.path, name);
      if (isTarget(link.path)) late.push({ image: link.path, backing });
      else redo.push({ link, isLast: true, write: async (file) => await changeBacking(file, backing) });
    }
  }
  const touched = new Set([...merged.map(({ into }) => into.image), ...redo.map(({ link }) => link.path)]);
  return { fileOf, belowOf, nameOf, copies, late, redo, removes, touched };
}

function copyDownOf([place]: readonly LayersToMerge[]): PlannedCopyStep {
  const { merged, into } = place ?? { merged: [], into: undefined };
  const [top] = merged;
  if (!top || !into) throw new Error("at least one layer is merged");
  const files = merged.flatMap(pathsOfLink);
  return { kind: "merge", from: top.path, into: into.path, format: into.format, files };
}

/** Onto what lies below the run, where that has its content then. Until the table has moved, it has it as well. */
async function copyUpOf(
  entry: DeviceEntry,
  { run: { layers, top } }: MergedRun,
  { open, fileOf }: { readonly open: OpenLayers; readonly fileOf: ReadonlyMap<string, string> },
  context: PlanContext,
): Promise<PlannedCopyStep> {
  const { link, below } = open.viewOf(top.image);
  const after = below.slice(layers.length);
  const [first] = after;
  const depth = first ? after.findIndex(({ path }) => path === (fileOf.get(first.path) ?? first.path)) : -1;
  const onto = after[depth];
  const storedBy = depth === 0 ? below[layers.length - 1] : after[depth - 1];
  const name = onto && (await nameAsBefore(link, onto, storedBy, context));
  const plan = await planCopyUp({ entry, top: link, below }, { below: after, name, ...AS_IT_IS }, context);
  if (!plan.up || !first || !onto || name === undefined) return plan;
  return {
    ...plan,
    up: {
      ...plan.up,
      onto: { path: onto.path, format: onto.format, name },
      ...(onto !== first && { until: { path: first.path, format: first.format } }),
    },
  };
}
