// Whether layers of a chain may be merged into an image below them: what would be lost of them, and who else stands on
// what changes or goes. And what it takes: the size of that image, the bitmaps that go along, and the name by which what
// stands on the layers finds it.

import { ImgtxError, withPlace } from "../../../errors/index.ts";
import {
  type BitmapStep,
  type ChainLink,
  changeBacking,
  changeFileBitmaps,
  identityOf,
  judgeBacking,
  judgeBitmaps,
  judgeResize,
  planCarriedBitmaps,
} from "../../../format/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { Note } from "../../notes/notes.ts";
import type { MergeRequest } from "../../requests/request.ts";
import type { PlanContext } from "./action.ts";
import { nameAsBefore } from "./new-backing.ts";
import { findOverlays, somethingStandsOnIt } from "./overlays-of.ts";
import { planResizing } from "./resizing.ts";
import { isFenced } from "./fencing.ts";

export interface LayersToMerge {
  readonly device: string;
  /** What stands on the merged ones, the active layer first. */
  readonly above: readonly ChainLink[];
  /** The uppermost first. */
  readonly merged: readonly ChainLink[];
  readonly into: ChainLink;
  readonly below: readonly ChainLink[];
}

/** E_REFUSED for what the merged ones have that would be lost, or would show where it does not now. */
export async function assertMayBeMerged(
  { device, above, merged, into }: LayersToMerge,
  { keep }: MergeRequest,
  context: Pick<PlanContext, "copiedInto" | "changedLast" | "removedHere">,
): Promise<void> {
  assertCompose({ device, above, merged, into }, context);
  for (const link of [...above.slice(-1), ...merged, into]) {
    const place = { device, image: link.path };
    if (link.header?.isFenced) {
      throw isFenced(place.device, place.image);
    }
  }
  for (const link of merged) {
    const snapshots = link.header?.nbSnapshots ?? 0;
    if (snapshots === 0 || keep) continue;
    // Those below are changed by nobody.
    const isActive = above.length === 0 && link === merged[0];
    const takenAway = isActive ? `; \`imgtx internal-snapshot delete ${device} NAME\` takes one away` : "";
    throw new ImgtxError(
      "E_REFUSED",
      `it has internal snapshots, which would be lost with it: ${snapshots}`,
      { device, image: link.path, hint: `--keep leaves the image${takenAway}` },
    );
  }
  assertSizesFit({ device, above, merged, into });
}

/**
 * E_REFUSED where earlier statements of the transaction do to the images what has to be done before, and is only at the
 * commit: it writes redo logs first, copies then, and points overlays to the results at the end.
 */
function assertCompose(
  { device, above, merged: [top, ...rest], into }: Omit<LayersToMerge, "below">,
  { copiedInto, changedLast, removedHere }: Pick<PlanContext, "copiedInto" | "changedLast" | "removedHere">,
): void {
  const hint = "commit the transaction first";
  const pending = [...above.slice(-1), ...rest, into].find(({ path }) => copiedInto.has(path));
  const before = top && copiedInto.get(top.path);
  if (pending || (before && before.kind !== "merge")) {
    throw new ImgtxError("E_REFUSED", "its content comes only with the commit of the transaction", {
      device,
      image: (pending ?? top)?.path ?? "",
      hint,
    });
  }
  const kept = before?.files.find((file) => !removedHere.has(file));
  if (kept !== undefined) {
    throw new ImgtxError(
      "E_REFUSED",
      `'${kept}' stands on it, which an earlier merge of the transaction keeps`,
      {
        device,
        image: top?.path ?? "",
        hint,
      },
    );
  }
  if (!changedLast.has(into.path)) return;
  throw new ImgtxError(
    "E_REFUSED",
    "an earlier action of the transaction points it to another image at the end",
    {
      device,
      image: into.path,
      hint,
    },
  );
}

/** What a longer image below has past the end of what is merged would show. */
function assertSizesFit({ device, above, merged, into }: Omit<LayersToMerge, "below">): void {
  const [top] = merged;
  const shown = above.at(-1)?.virtualSizeBytes ?? into.virtualSizeBytes;
  const end = top?.virtualSizeBytes ?? 0;
  const wanted = into.virtualSizeBytes;
  if (Math.min(shown, wanted) <= end) return;
  throw new ImgtxError(
    "E_REFUSED",
    `it has ${wanted} bytes, and '${top?.path ?? ""}' ${end}: what it has past that would show`,
    {
      device,
      image: into.path,
      hint:
        above.length === 0
          ? `\`imgtx resize ${device} ${wanted}\` first makes the disk as large, with zeros past its end`
          : "merge what stands on that as well: leave out --from",
    },
  );
}

/** An overlay that is none of the device's, on an image that gets another content, or goes. */
export interface Sibling {
  readonly path: string;
  readonly on: ChainLink;
}

/** E_IN_USE where there are any, and the request does not say that they are to keep what they show. */
export async function findSiblings(
  { device, above, merged, into, below }: LayersToMerge,
  { keep, rebaseSiblings, force }: MergeRequest,
  context: Pick<PlanContext, "table" | "storage" | "readGeneration" | "removedHere" | "root">,
): Promise<{ readonly siblings: Sibling[]; readonly unread: readonly Note[] }> {
  const chain = [...above, ...merged, into, ...below];
  const own = new Set(chain.map(({ stat }) => identityOf(stat)));
  for (const path of context.removedHere) {
    const stat = await context.storage.stat(path);
    if (stat) own.add(identityOf(stat));
  }
  // What the uppermost one shows does not change, where it may stay.
  const changing = [...(keep ? merged.slice(1) : merged), into];
  const paths = changing.map(({ path }) => path);
  const { overlays, lost, notes } = await findOverlays(paths, context, { except: own, chain });
  if (lost !== undefined && force !== true) {
    throw new ImgtxError(
      "E_REFUSED",
      `the history has no generation ${lost}, whose images may stand on what changes, and nobody can tell`,
      {
        device,
        image: into.path,
        hint: `put \`.imgtx/history\` back from a copy; where nothing else stands on these images, \`imgtx merge ${device} --force\` goes on without it`,
      },
    );
  }
  const siblings: Sibling[] = [];
  for (const link of changing) {
    const found = overlays.get(link.path) ?? [];
    if (found.length > 0 && rebaseSiblings !== true) {
      const what = `would ${link === into || keep ? "show another content" : "lose what it shows"}`;
      throw somethingStandsOnIt(found, what, SIBLINGS_HINT).with({ device, image: link.path });
    }
    for (const path of found) siblings.push({ path, on: link });
  }
  const doubt = lost === undefined ? [] : [{ code: "generation lost", generation: lost } as const];
  return { siblings, unread: [...notes, ...doubt] };
}

const SIBLINGS_HINT =
  "--rebase-siblings gives each first what it would lose; or remove what nobody needs any more";

export function topOf({ merged: [top] }: LayersToMerge): ChainLink {
  if (!top) throw new Error("at least one layer is merged");
  return top;
}

/** The image below becomes as large as what is merged into it. */
export async function planGrowth(layers: LayersToMerge, context: PlanContext): Promise<ImageChange[]> {
  const { device, into, below } = layers;
  const sizeBytes = topOf(layers).virtualSizeBytes;
  if (sizeBytes <= into.virtualSizeBytes) return [];
  await withPlace({ device, image: into.path }, async () => {
    await judgeResize({ links: [into, ...below] }, sizeBytes);
  });
  return planResizing(into, sizeBytes, context);
}

/** What becomes of bitmaps. E_REFUSED or E_UNSUPPORTED for one that can't be carried. */
export async function planBitmaps(
  { device, merged, into, below }: LayersToMerge,
  { keep }: MergeRequest,
  context: PlanContext,
): Promise<readonly BitmapStep[]> {
  const [top] = merged;
  // What an earlier statement merges into the uppermost one is written as well.
  const pending = top && context.copiedInto.get(top.path);
  const links = pending ? (await context.openChain(pending.from, "qcow2", device)).links : [];
  const first = links.slice(
    0,
    Math.max(
      0,
      links.findIndex(({ path }) => path === top?.path),
    ),
  );
  return await withPlace({ device, image: into.path }, async () => {
    const steps = await planCarriedBitmaps({ first, merged, into, below }, { keepsOwn: keep });
    if (steps.length > 0) await judgeBitmaps(into, steps);
    return steps;
  });
}

/** Marked is what is to be copied before any of it is: until then nobody opens the image, or they mark too much. */
export function withBitmaps(
  link: ChainLink,
  growth: ImageChange[],
  steps: readonly BitmapStep[],
): ImageChange[] {
  if (steps.length === 0) return growth;
  const grow = growth.at(-1);
  const write: ImageChange["write"] = async (file, transaction) => {
    await grow?.write(file, transaction);
    await changeFileBitmaps(file, steps);
  };
  return [...growth.slice(0, -1), { link, ...grow, write }];
}

/** By which what stands on the merged layers finds the image below. Undefined: nothing does. */
export async function findName(
  { device, above, merged, into }: LayersToMerge,
  context: PlanContext,
): Promise<string | undefined> {
  const overlay = above.at(-1);
  if (!overlay) return undefined;
  return await withPlace({ device, image: overlay.path }, async () => {
    const name = await nameAsBefore(overlay, into, merged.at(-1), context);
    judgeBacking(overlay, { name, format: into.format });
    return name;
  });
}

/** When all is copied. What shows through is the same on either. */
export function planRelink(
  { above, into: { format } }: LayersToMerge,
  name: string | undefined,
): ImageChange[] {
  const link = above.at(-1);
  if (!link || name === undefined) return [];
  return [{ link, isLast: true, write: async (file) => await changeBacking(file, { name, format }) }];
}

/** Whether whoever opens the one by its owner and permissions opens the other. */
export function hasAccessOf({ stat: one }: ChainLink, { stat: other }: ChainLink): boolean {
  return one.mode === other.mode && one.ownerId === other.ownerId && one.groupId === other.groupId;
}
