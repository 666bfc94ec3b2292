// Whether layers of a chain may be merged into an image below them: what would be lost of them, and who else stands on
// what changes or goes.

import { ImgtxError, withPlace } from "../../../errors/index.ts";
import { type ChainLink, type FolderOverlays, identityOf } from "../../../format/index.ts";
import type { Note } from "../../notes.ts";
import type { MergeRequest } from "../../request.ts";
import type { PlanContext } from "./action.ts";
import { findOverlaysOf, noteUnread, somethingStandsOnIt } from "./overlays-of.ts";

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
      throw new ImgtxError("E_REFUSED", "it is fenced, and nothing may be written to it", {
        ...place,
        hint: `\`imgtx unfreeze\` of the device that was frozen ends that; \`imgtx unfreeze --force ${device}\` lifts a forgotten fence`,
      });
    }
  }
  for (const link of merged) {
    const snapshots = link.header?.nbSnapshots ?? 0;
    if (snapshots === 0 || keep) continue;
    throw new ImgtxError(
      "E_REFUSED",
      `it has internal snapshots, which would be lost with it: ${snapshots}`,
      {
        device,
        image: link.path,
        hint: "--keep leaves the image; `qemu-img snapshot -d` takes the snapshots away",
      },
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

/** What a longer image below has behind the end of what is merged would show. */
function assertSizesFit({ device, above, merged, into }: Omit<LayersToMerge, "below">): void {
  const [top] = merged;
  const shown = above.at(-1)?.virtualSizeBytes ?? into.virtualSizeBytes;
  const end = top?.virtualSizeBytes ?? 0;
  const wanted = into.virtualSizeBytes;
  if (Math.min(shown, wanted) <= end) return;
  throw new ImgtxError(
    "E_REFUSED",
    `it has ${wanted} bytes, and '${top?.path ?? ""}' ${end}: what it has behind that would show`,
    {
      device,
      image: into.path,
      hint:
        above.length === 0
          ? `\`imgtx resize ${device} ${wanted}\` first makes the disk as large, with zeros behind its end`
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
  { keep, rebaseSiblings }: MergeRequest,
  context: Pick<PlanContext, "table" | "storage" | "readGeneration" | "removedHere">,
): Promise<{ readonly siblings: Sibling[]; readonly unread: readonly Note[] }> {
  const chain = [...above, ...merged, into, ...below];
  const own = new Set(chain.map(({ stat }) => identityOf(stat)));
  for (const path of context.removedHere) {
    const stat = await context.storage.stat(path);
    if (stat) own.add(identityOf(stat));
  }
  // Each header is read once, whatever is merged.
  const folders = new Map<string, FolderOverlays>();
  const siblings: Sibling[] = [];
  for (const [index, link] of [...merged, into].entries()) {
    // What the uppermost one shows does not change, and it may stay.
    if (keep && index === 0) continue;
    await withPlace({ device, image: link.path }, async () => {
      const found = await findOverlaysOf(link.path, context, { except: own, chain, folders });
      if (found.length > 0 && rebaseSiblings !== true) {
        const what = `would ${link === into || keep ? "show another content" : "lose what it shows"}`;
        throw somethingStandsOnIt(found, what, SIBLINGS_HINT);
      }
      for (const path of found) siblings.push({ path, on: link });
    });
  }
  return { siblings, unread: noteUnread(folders) };
}

const SIBLINGS_HINT =
  "--rebase-siblings gives each first what it would lose; or remove what nobody needs any more";
