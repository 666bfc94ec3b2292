// snapshot-delete: moments of devices go, and all others stay what they are. The sealed image of a moment comes to one layer
// with what stands on it, up or down, whichever moves less; where nothing stands on it, it goes. One that others need stays
// as a layer, until the last of them goes.
//
// Invariant: what each other snapshot, and each device, shows is the same before and after; and what imgtx did not make
// is never removed.

import {
  type DeviceEntry,
  findDevice,
  requireDevice,
  requireSnapshot,
  type Snapshot,
  type SnapshotRef,
} from "../../../device/index.ts";
import { ImgtxError, withPlace } from "../../../errors/index.ts";
import { type ChainLink, pathsOfLink } from "../../../format/index.ts";
import type { PlannedReport } from "../../journal/index.ts";
import type { Note } from "../../notes/notes.ts";
import type { SnapshotDeleteRequest } from "../../requests/way-back-requests.ts";
import { type Action, assertNamedOnce, MAKES_NO_FILES, type Plan, type PlanContext } from "../plan/action.ts";
import { placeOf } from "../plan/chain-entry.ts";
import { assertNotFrozen } from "../plan/fencing.ts";
import { hasAccessOf } from "../plan/layers-to-merge.ts";
import { mirrorOfSameContent } from "../plan/mirror-scope.ts";
import { type Layer, type Layers, readLayers, takenOf, withOverlays } from "./layers.ts";
import { despiteLostRecords } from "./lost-records.ts";
import {
  isChangedAtCommit,
  judgeRun,
  type LeftRun,
  type MergedRun,
  type Merging,
  planMerging,
} from "./merged-runs.ts";
import { type OpenLayers, openThrough } from "./open-layers.ts";
import { marksOf, placesFrom, type Rearranged, renewRecords, renewTaken } from "./renewed-records.ts";
import { type Division, divideLayers, isFree } from "./runs.ts";

export const snapshotDelete: Action<SnapshotDeleteRequest> = {
  saying: { noun: "deletion of snapshots", done: "snapshots deleted", planned: "would lose snapshots" },
  takenBackBy: "nothing",
  async plan(request, given): Promise<Plan> {
    assertNamedOnce(request.devices);
    const refs = new Set(request.snapshots.map((one) => requireSnapshot(given.table, one)));
    const numbers = new Set([...refs].map(({ number }) => number));
    const context = request.keepsImages ? { ...given, snapshots: despiteLostRecords(numbers, given) } : given;
    const deleted = await findDeleted(refs, context);
    const devices = devicesOf(deleted, request);
    const planned = [];
    for (const device of devices) planned.push(await planOne(device, deleted, request, context));
    return {
      ...MAKES_NO_FILES,
      devices,
      allowPaths: [],
      reports: planned.map(({ report }) => report),
      changes: planned.flatMap(({ change }) => change ?? []),
      chains: planned.flatMap(({ chains }) => chains),
      copies: planned.flatMap(({ merging }) => merging.copies),
      late: planned.flatMap(({ merging }) => merging.late),
      redo: planned.flatMap(({ merging }) => merging.redo),
      removes: planned.flatMap(({ removes }) => removes),
      givesUp: planned.map(({ givesUp }) => givesUp),
    };
  },
};

async function findDeleted(refs: Iterable<SnapshotRef>, { snapshots }: PlanContext): Promise<Snapshot[]> {
  const found: Snapshot[] = [];
  for (const ref of refs) found.push(await snapshots.read(ref));
  return found.sort((a, b) => a.number - b.number);
}

/** E_REFUSED for one that none of them keeps. */
function devicesOf(deleted: readonly Snapshot[], { devices: named }: SnapshotDeleteRequest): string[] {
  const kept = [...new Set(deleted.flatMap(({ devices }) => devices.map(({ device }) => device)))].sort();
  const missing = named.find((device) => !kept.includes(device));
  if (missing === undefined) return named.length === 0 ? kept : [...named];
  const which = deleted.length === 1 ? `snapshot ${deleted[0]?.number} does` : "the snapshots do";
  throw new ImgtxError("E_REFUSED", `${which} not keep '${missing}'`, {
    device: missing,
    hint: `they keep ${kept.join(", ")}; \`imgtx snapshot-list\` lists what each keeps`,
  });
}

async function planOne(
  device: string,
  deleted: readonly Snapshot[],
  { keepsImages, force = false }: SnapshotDeleteRequest,
  context: PlanContext,
) {
  const own = deleted.filter(({ devices }) => devices.some((one) => one.device === device));
  const numbers = new Set(own.map(({ number }) => number));
  const entry = keepsImages ? findDevice(context.table, device) : requireMergeable(device, numbers, context);
  const known = await withPlace({ device }, async () => await readLayers(device, numbers, context));
  const { layers, merged, left, gone, open, merging, notes } =
    entry && !keepsImages
      ? await planLayers(entry, known, force, context)
      : { ...NOTHING_MOVES, layers: known };
  const tree: Rearranged = { layers, ...merging };
  const stay = context.table.snapshots.filter(({ number }) => !numbers.has(number));
  const change = entry && open && moveOf(entry, tree, merged, open);
  const goes = gone.flatMap(({ image }) => (open ? pathsOfLink(open.viewOf(image).link) : []));
  const removes = [...goes, ...merging.removes];
  const report: PlannedReport = {
    kind: "snapshot-delete",
    device,
    before: entry?.image ?? null,
    after: (change ?? entry)?.image ?? null,
    format: (change ?? entry)?.format ?? null,
    files: filesOf(tree, merged, removes),
    notes: [
      ...own.map(({ number, name }) => ({ code: "snapshot given up", number, name, device }) as const),
      ...merged.flatMap((one) => notesOn(one, device, open)),
      ...removes.map((image) => ({ code: "merged", image, stays: false }) as const),
      ...notesOnLeft(tree.layers, { merged, left, gone }),
      ...notes,
    ],
  };
  return {
    report,
    merging,
    removes,
    change: change && { device, after: change },
    chains: (open?.chains ?? []).map((chain) => ({ device, chain })),
    givesUp: {
      device,
      images: [...tree.touched, ...removes],
      snapshots: own.map(({ number, devices }) => ({ number, devices: devices.map((one) => one.device) })),
      renewed: await renewRecords(device, stay, context.snapshots, tree),
      marks: entry ? marksOf(entry.image, tree) : [],
      taken: renewTaken(takenOf(device, context), context.table.nextSnapshot, tree),
    },
  };
}

/** E_REFUSED where nobody can tell who needs its images, or where they may not be written to. */
function requireMergeable(device: string, numbers: ReadonlySet<number>, { table }: PlanContext): DeviceEntry {
  const entry = findDevice(table, device);
  if (!entry) {
    const which = [...numbers].join(" ");
    throw new ImgtxError("E_REFUSED", "it is in the table no more, and who needs its images can't be told", {
      device,
      hint: `\`imgtx snapshot-delete ${which} --device ${device} --keep-images\` leaves them as they are`,
    });
  }
  assertNotFrozen(entry, "its images may not be written to");
  return requireDevice(table, device);
}

interface Planned extends Pick<Division, "gone"> {
  readonly layers: Layers;
  readonly merged: readonly MergedRun[];
  readonly left: readonly LeftRun[];
  readonly open: OpenLayers | undefined;
  readonly merging: Merging;
  readonly notes: readonly Note[];
}

const NO_MERGING: Merging = {
  redo: [],
  copies: [],
  late: [],
  removes: [],
  fileOf: new Map(),
  belowOf: new Map(),
  nameOf: new Map(),
  touched: new Set(),
};

const NOTHING_MOVES = {
  merged: [],
  left: [],
  gone: [],
  open: undefined,
  merging: NO_MERGING,
  notes: [],
} as const;

async function planLayers(
  entry: DeviceEntry,
  known: Layers,
  passesLost: boolean,
  context: PlanContext,
): Promise<Planned> {
  const { layers, notes } = [...known.values()].some(isFree)
    ? await withOverlays(known, passesLost, context)
    : { layers: known, notes: [] };
  return await planDivided(entry, layers, notes, context);
}

async function planDivided(
  entry: DeviceEntry,
  layers: Layers,
  notes: readonly Note[],
  context: PlanContext,
): Promise<Planned> {
  const { gone, runs } = divideLayers(layers);
  const wanted = [...runs.flatMap(({ top, above }) => (above.length > 0 ? above : [top])), ...gone];
  if (wanted.length === 0) return { ...NOTHING_MOVES, layers, notes };
  return await withPlace({ device: entry.name }, async () => {
    const open = await openThrough(
      entry,
      layers,
      wanted.map(({ image }) => image),
      context,
    );
    const needed = gone.flatMap((layer) => {
      const neededBy = whyItStays(layer, open, context);
      return neededBy === undefined ? [] : [[layer.image, { ...layer, neededBy }] as const];
    });
    if (needed.length > 0) {
      return await planDivided(entry, new Map([...layers, ...needed]), notes, context);
    }
    const judged = [];
    for (const run of runs) judged.push(await judgeRun(entry, run, open, context));
    const merged = judged.filter((one) => "direction" in one);
    const left = judged.filter((one) => "why" in one);
    const merging = await planMerging(entry, merged, open, context);
    return { layers, merged, left, gone, open, merging, notes: [...notes, ...open.doubts] };
  });
}

/** What needs a layer that nothing stands on, as a clause; undefined: nothing does. */
function whyItStays({ image }: Layer, open: OpenLayers, context: PlanContext): string | undefined {
  if ((open.viewOf(image).link.header?.nbSnapshots ?? 0) > 0) return "an internal snapshot in it";
  return isChangedAtCommit(image, context) ? "an earlier action of the transaction" : undefined;
}

/** The device's entry where its chain has other images then. */
function moveOf(
  entry: DeviceEntry,
  tree: Rearranged,
  merged: readonly MergedRun[],
  open: OpenLayers,
): DeviceEntry | undefined {
  const chain = open.chains.find(({ links: [top] }) => top?.path === entry.image);
  const isMoved = merged.some(({ run }) => chain?.links.some(({ path }) => path === run.top.image));
  if (!chain || !isMoved) return undefined;
  const links: ChainLink[] = [];
  for (const { image, name } of placesFrom(entry.image, tree)) {
    const link = chain.links.find(({ path }) => path === image);
    if (!link) throw new Error("a chain has its images");
    const larger = merged.find(({ into }) => into.image === image)?.virtualSizeBytes;
    links.push({ ...link, name: name ?? undefined, virtualSizeBytes: larger ?? link.virtualSizeBytes });
  }
  const place = placeOf({ links, close: () => Promise.reject(new Error("the chain is another's")) });
  const isMade = tree.layers.get(place.image)?.isMade === true;
  const { made: _made, ...rest } = entry;
  return {
    ...rest,
    ...place,
    ...(isMade && { made: place.image }),
    mirror: mirrorOfSameContent(entry.mirror, chain, place.chain),
  };
}

function filesOf(
  { touched }: Rearranged,
  merged: readonly MergedRun[],
  removes: readonly string[],
): PlannedReport["files"] {
  const into = merged.map((one) => one.into.image);
  return [
    ...into.map((path) => ({ path, change: "merge" as const })),
    ...[...touched].flatMap((path) => (into.includes(path) ? [] : { path, change: "change" as const })),
    ...removes.map((path) => ({ path, change: "remove" as const })),
  ];
}

function notesOn(
  { run, direction, into, lengthBytes, bitmaps }: MergedRun,
  device: string,
  open: OpenLayers | undefined,
): Note[] {
  const { image } = into;
  const [top, lowest] = [run.top, run.layers[0]].map((layer) => layer && open?.viewOf(layer.image).link);
  const moves = direction === "down" && run.top.isActive;
  return [
    { code: direction === "up" ? "merged up" : "merged down", image, lengthBytes },
    ...bitmaps.map((bitmap) => ({ code: "bitmap carried", bitmap, image }) as const),
    ...(moves && top && lowest && !hasAccessOf(lowest, top)
      ? [{ code: "other access", image, device } as const]
      : []),
    ...(direction === "up" && run.layers[0]?.isMade === false
      ? [{ code: "own image stays", image: run.layers[0].image } as const]
      : []),
  ];
}

/** Images of the moments that go, and stay themselves. */
function notesOnLeft(
  layers: Layers,
  { merged, left, gone }: Pick<Planned, "merged" | "left" | "gone">,
): Note[] {
  const gives = new Set([...gone, ...merged.flatMap(({ run }) => run.layers)].map(({ image }) => image));
  const whyLeft = new Map(
    left.flatMap(({ run, why }) => run.layers.map(({ image }) => [image, why] as const)),
  );
  return [...layers.values()]
    .filter(({ isFreed, image }) => isFreed && !gives.has(image))
    .map((layer) => noteOnLeft(layer, layers, whyLeft.get(layer.image)));
}

function noteOnLeft(layer: Layer, layers: Layers, why: string | undefined): Note {
  const { image, moments, neededBy, isMade } = layer;
  if (why !== undefined) return { code: "layer not merged", image, why };
  if (moments.length > 0) return { code: "layer stays", image, by: `snapshot ${moments.join(", ")}` };
  if (neededBy !== undefined) return { code: "layer stays", image, by: neededBy };
  const above = [...layers.values()].filter(({ below }) => below === image).length;
  if (above > 1) return { code: "layer stays", image, by: `${above} images that stand on it` };
  if (isMade && above === 0) return { code: "image left", image };
  return isMade
    ? { code: "layer stays", image, by: "what stands on it" }
    : { code: "own image stays", image };
}
