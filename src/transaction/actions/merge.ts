// merge: layers of a device's chain go down into an image below them, at the commit. What the device shows stays. Its
// snapshots that need the layers, or that image, are given up in the same generation.

import { type DeviceEntry, requireDevice } from "../../device/index.ts";
import { ImgtxError, withPlace } from "../../errors/index.ts";
import {
  assertCopyable,
  type BitmapStep,
  type Chain,
  type ChainLink,
  pathsOfLink,
} from "../../format/index.ts";
import {
  type Action,
  assertNamedOnce,
  MAKES_NO_FILES,
  type Plan,
  type PlannedCopyStep,
  type PlanContext,
} from "./plan/action.ts";
import { findLink, placeOf } from "./plan/chain-entry.ts";
import { assertNotFrozen } from "./plan/fencing.ts";
import { planGivingUp } from "./plan/giving-up.ts";
import {
  assertMayBeMerged,
  findName,
  findSiblings,
  hasAccessOf,
  type LayersToMerge,
  planBitmaps,
  planGrowth,
  planRelink,
  topOf,
  withBitmaps,
} from "./plan/layers-to-merge.ts";
import { mirrorOfSameContent } from "./plan/mirror-scope.ts";
import { planEmptying } from "./plan/resizing.ts";
import { planSiblings, type SiblingsPlan } from "./plan/siblings.ts";
import type { PlannedReport } from "../journal/index.ts";
import type { Note } from "../notes/notes.ts";
import type { MergeRequest } from "../requests/request.ts";

export const merge: Action<MergeRequest> = {
  saying: { noun: "merge", done: "merged", planned: "would be merged" },
  takenBackBy: "nothing",
  async plan(request, context): Promise<Plan> {
    const { devices } = request;
    assertNamedOnce(devices);
    const planned = [];
    for (const device of devices) planned.push(await planOne(device, request, context));
    assertApart(planned);
    const others = planned.flatMap(({ siblings }) => siblings.changes);
    return {
      ...MAKES_NO_FILES,
      devices: [...devices, ...others.map(({ device }) => device)],
      allowPaths: [],
      reports: planned.map(({ report }) => report),
      changes: [...planned.map(({ change }) => change), ...others],
      chains: planned.flatMap(({ chain, siblings }) => [chain, ...siblings.chains]),
      // Durable in what stands on it before anything is merged.
      copies: planned.flatMap(({ copy, siblings }) => [...siblings.copies, copy]),
      removes: planned.flatMap(({ removes }) => removes),
      givesUp: planned.flatMap(({ givesUp }) => givesUp),
      redo: planned.flatMap(({ redo, siblings }) => [...redo, ...siblings.redo]),
    };
  },
};

interface Part {
  readonly change: { readonly device: string };
  readonly report: PlannedReport;
  readonly copy: PlannedCopyStep;
  readonly siblings: SiblingsPlan;
}

/** E_REFUSED where one of them changes what another one does: in which order is for the operator to say. */
function assertApart(parts: readonly Part[]): void {
  const owners = new Map<string, string>();
  for (const { change, report, copy, siblings } of parts) {
    const { device } = change;
    const images = new Set([...report.files.map(({ path }) => path), ...copy.files]);
    const names = [device, ...siblings.changes.map((one) => one.device)].map((name) => `device ${name}`);
    for (const one of [...images, ...names]) {
      const other = owners.get(one);
      if (other !== undefined) {
        throw new ImgtxError("E_REFUSED", `what the merge of '${other}' changes is in the way of it`, {
          device,
          hint: "merge the one first, and then the other",
        });
      }
      owners.set(one, device);
    }
  }
}

async function planOne(device: string, request: MergeRequest, context: PlanContext) {
  const entry = requireDevice(context.table, device);
  assertNotFrozen(entry, "its images may not be written to");
  const chain = await context.openChain(entry.image, entry.format, device);
  const layers = await pickLayers(entry, chain, request, context);
  const { merged, into, above } = layers;
  await assertMayBeMerged(layers, request, context);
  const { siblings: found, unread } = await findSiblings(layers, request, context);
  await assertCopyable(context.storage, into, context.gate);
  const name = await findName(layers, context);
  const siblings = await planSiblings({ layers, siblings: found, name }, context);
  const { givesUp, notes } = await withPlace({ device, image: into.path }, async () =>
    planGivingUp(layers, siblings.places, context),
  );
  const bitmaps = await planBitmaps(layers, request, context);
  const redo = [
    ...withBitmaps(into, await planGrowth(layers, context), bitmaps),
    ...(request.empties ? planEmptying(topOf(layers), context) : planRelink(layers, name)),
  ];
  const place = placeOf(withoutMerged(layers, name));
  const mirror = mirrorOfSameContent(entry.mirror, chain, place.chain);
  const copied = merged.flatMap(pathsOfLink);
  const removes = request.keep ? [] : copied;
  const report: PlannedReport = {
    kind: "merge",
    device,
    before: entry.image,
    after: place.image,
    format: place.format,
    files: [
      { path: into.path, change: "merge" },
      ...above.slice(-1).map(({ path }) => ({ path, change: "change" as const })),
      ...siblings.files,
      ...removes.map((path) => ({ path, change: "remove" as const })),
    ],
    notes: [...notesOn(layers, request, bitmaps), ...siblings.notes, ...notes, ...unread],
  };
  return {
    report,
    removes,
    givesUp,
    redo,
    siblings,
    chain: { device, chain },
    change: {
      device,
      after: { ...onto(entry, place), mirror: mirror && (siblings.ownMirror?.(mirror) ?? mirror) },
    },
    copy: {
      kind: "merge",
      from: topOf(layers).path,
      into: into.path,
      format: into.format,
      files: copied,
      ...(request.empties && { empties: true }),
    } as const,
  };
}

/** The device on the images that are left: one that was sealed before, and is its own again, imgtx has made as before. */
function onto(entry: DeviceEntry, place: ReturnType<typeof placeOf>): DeviceEntry {
  const isMade = entry.chain.some((one) => one.image === place.image && one.isMade === true);
  return { ...entry, ...place, ...(isMade && { made: place.image }) };
}

function notesOn(
  { device, above, merged, into }: LayersToMerge,
  { keep }: MergeRequest,
  bitmaps: readonly BitmapStep[],
): Note[] {
  return [
    { code: "merged into", image: into.path },
    ...merged.map(({ path: image }) => ({ code: "merged", image, stays: keep }) as const),
    ...[...new Set(bitmaps.map(({ name }) => name))].map(
      (bitmap) => ({ code: "bitmap carried", bitmap, image: into.path }) as const,
    ),
    ...(above.length === 0 && merged[0] && !hasAccessOf(into, merged[0])
      ? [{ code: "other access", image: into.path, device } as const]
      : []),
  ];
}

/** The device's chain as the commit leaves it. */
function withoutMerged(layers: LayersToMerge, name: string | undefined): Chain {
  const { below, above } = layers;
  const virtualSizeBytes = Math.max(layers.into.virtualSizeBytes, topOf(layers).virtualSizeBytes);
  const into = { ...layers.into, name, virtualSizeBytes };
  const [next, ...rest] = above.length > 0 ? [...above, into] : [into];
  return {
    links: [{ ...next, name: undefined }, ...rest, ...below],
    close: () => Promise.reject(new Error("the chain is another's")),
  };
}

/** E_REFUSED where the chain has no such layers, or has them in another order. */
async function pickLayers(
  { name: device, image }: DeviceEntry,
  { links }: Chain,
  { from, into }: MergeRequest,
  context: Pick<PlanContext, "storage" | "canonicalPath">,
): Promise<LayersToMerge> {
  if (links.length < 2) {
    throw new ImgtxError("E_REFUSED", "it stands on no backing image that it could be merged into", {
      device,
      image,
    });
  }
  const first = from === undefined ? 0 : await findLayer(device, links, from, context);
  const last = into === undefined ? first + 1 : await findLayer(device, links, into, context);
  const target = links[last];
  if (!target || last <= first) {
    const upper = links[first]?.path ?? "";
    throw new ImgtxError(
      "E_REFUSED",
      target
        ? `'${upper}' does not stand on '${target.path}', and can't be merged into it`
        : `'${upper}' stands on nothing that it could be merged into`,
      {
        device,
        image: upper,
        hint: "--from names the upper one, --into one below it; `imgtx tree` shows the chain",
      },
    );
  }
  return {
    device,
    above: links.slice(0, first),
    merged: links.slice(first, last),
    into: target,
    below: links.slice(last + 1),
  };
}

async function findLayer(
  device: string,
  links: readonly ChainLink[],
  file: string,
  context: Pick<PlanContext, "storage" | "canonicalPath">,
): Promise<number> {
  const { path, index } = await findLink(device, links, file, context);
  if (index >= 0) return index;
  throw new ImgtxError("E_REFUSED", `it is not in the chain of '${device}'`, {
    device,
    image: path,
    hint: "`imgtx tree` shows the chain",
  });
}
