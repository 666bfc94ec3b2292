// Images that the commit has merged into others below them: they go when the table has moved, with their data files.
//
// Invariants
// - The journal goes after them, durably: until then recovery removes what is still there.
// - What goes is what was merged: its fence is up, so nobody has written to it; or it is as the plan read it, and where its times
//   leave a doubt, its device shows the same. Nobody has it open, and nothing stands on it or uses it, also of
//   another workspace that is found above it.
// - What stays is named, with the reason, and loses its fence. So does all that is below it.
// - Nothing goes with its fence up that has another name (a hard link): by that one nobody could open it any more.
// - A volume that a provisioner has made goes with its image: after that, when nothing is on it any more and nobody has it open.
//   One that can't be taken away is named, and is nothing to wait for.
// - An overlay that was to be pointed past it may have been left as it was, by force, and in a folder of its own: it is
//   looked for wherever the transaction changes an image, and a device is, and below the workspace.

import { posix } from "node:path";
import type { DeviceTable, Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { describeChanges, describeDoubt, takeFingerprint } from "../../format/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import { type Journal, lastSeen, liveStatements, type TransactionState } from "../journal/index.ts";
import { letGo } from "../images/let-go.ts";
import { diskIsAway, foldersOf, isDiskThere } from "../images/planned-folders.ts";
import { plannedGate } from "../images/planned-gate.ts";
import { OverlaySearch } from "../images/overlay-search.ts";
import { activateLayer, findLayerVolume, type LayerVolume, removeLayer } from "../images/volumes.ts";
import { findUses, removeUnless, whyElsewhere } from "../images/removal.ts";
import type { KeptFile, OnProgress } from "../requests/request.ts";
import { showsTheDevice } from "./copy-proof.ts";
import { isFenceUp, lowerFences } from "./leaving-fences.ts";

interface HowToRemove {
  /** Whether the caller holds QEMU's locks on the images: then nobody else writes to them. */
  readonly isLocked: boolean;
  /** Whether what takes long is left to others: E_UNFINISHED then. */
  readonly isBrief?: boolean;
  readonly onProgress?: OnProgress | undefined;
  /** Told of what is left where its disk is not there. Undefined: that is an error. */
  readonly onLeft?: ((file: KeptFile) => void) | undefined;
  /** Closes what the caller has open of an image that has gone, with its locks. Undefined: nothing. */
  readonly close?: ((image: string) => Promise<void>) | undefined;
}

/** Removes what the commit has emptied, durably. Returns what stays. */
export async function removeEmptied(
  workspace: Workspace,
  { state, held }: Pick<Journal, "state" | "held">,
  tables: Tables & { readonly present: DeviceTable },
  how: HowToRemove,
): Promise<KeptFile[]> {
  const files = liveStatements(state).flatMap(({ plan }) => plan.removes);
  if (files.length === 0) return [];
  const { storage } = workspace;
  const uses = await findUses(workspace, state.begin.id);
  const changed = liveStatements(state).flatMap(({ plan }) => plan.redo.map(({ image }) => image));
  const standing = new OverlaySearch(storage, workspace.root);
  await standing.readAround([], [...files, ...changed, ...uses.keys()]);
  const kept: KeptFile[] = [];
  const gone = new Set<string>();
  const { onLeft, close } = how;
  const known = { uses, standing, gone, ...tables };
  const layers: LayerVolume[] = [];
  for (const path of files) {
    const layer = await findLayerVolume(workspace, tables.present, path, held);
    if (layer) await activateLayer(workspace, layer);
    const above = kept.find((one) => lastSeen(state).get(one.path)?.fingerprint.headerSha256 !== null);
    const end = above
      ? { path, why: `'${above.path}' stands on it` }
      : await removeOne(workspace, state, path, { ...how, known });
    if (end === "removed") gone.add(path);
    // Where it is not there it was taken away already, or its provisioner sees to what is left of it.
    if (layer && typeof end === "string") {
      layers.push(layer);
      continue;
    }
    if (typeof end === "object") kept.push(end);
    else if (end === "absent" && !(await isDiskThere(storage, path, foldersOf(state)))) {
      const error = diskIsAway(path, "it is still to be removed");
      if (!onLeft) throw error;
      onLeft({ path, why: error.message });
    }
  }
  for (const folder of new Set(files.map((file) => posix.dirname(file)))) {
    if (await storage.stat(folder)) await storage.flushFolder(folder, "merged images gone");
  }
  const stays = kept.map(({ path }) => path);
  const lowered = await lowerFences(workspace, only(state, stays));
  const left: KeptFile[] = [];
  for (const layer of layers) {
    // It is open here, and what is in use is taken away by nobody.
    await close?.(layer.volume.path);
    const end = await removeLayer(workspace, layer);
    if (end) left.push(end);
  }
  return [...kept, ...lowered, ...left];
}

/** With the fences of these images alone, but for those that stay up. */
function only(state: TransactionState, images: readonly string[]): TransactionState {
  return { ...state, fences: state.fences.filter(({ image, kept }) => images.includes(image) && !kept) };
}

interface HowToJudge extends Pick<HowToRemove, "isLocked" | "isBrief" | "onProgress"> {
  readonly known: Known;
}

/** Those of the transaction. */
interface Tables {
  readonly own: DeviceTable;
  /** The one before. Undefined where others have moved on by now. */
  readonly closed: DeviceTable | undefined;
}

interface Known extends Tables {
  readonly uses: ReadonlyMap<string, string>;
  readonly standing: OverlaySearch;
  readonly gone: ReadonlySet<string>;
}

async function removeOne(
  workspace: Workspace,
  state: TransactionState,
  path: string,
  how: HowToJudge,
): ReturnType<typeof removeUnless> {
  const { storage } = workspace;
  const { isLocked, known } = how;
  const there = await storage.stat(path);
  if (there?.kind !== "device") {
    // Whether it is the file at all, and its disk is there, comes out after that.
    if (there && there.names > 1)
      await lowerFences(workspace, only(state, [path]), { onAway: () => undefined });
    const whyNeeded = async (file: StorageFile): Promise<string | undefined> =>
      (await whyUsed(workspace, path, known)) ?? (await sayWritten(workspace, state, file, how));
    return await removeUnless(storage, path, whyNeeded, { isLocked });
  }
  return await letGo(storage, path, {
    expected: lastSeen(state).get(path)?.fingerprint,
    isLocked,
    isFenced: async (file) => await isFenceUp(file, path, state),
    findReason: async () => await whyUsed(workspace, path, known),
  });
}

async function whyUsed(
  workspace: Workspace,
  path: string,
  { uses, standing, gone }: Known,
): Promise<string | undefined> {
  const use = uses.get(path);
  if (use !== undefined) return use;
  const overlay = (await standing.on(path)).find((one) => !gone.has(one));
  return overlay === undefined ? await whyElsewhere(workspace, path) : `'${overlay}' stands on it`;
}

/** Also where that can't be told: without a fence a guest's write that was durable may have lost its time to a power cut. */
async function sayWritten(
  workspace: Workspace,
  state: TransactionState,
  file: StorageFile,
  { isLocked, known: { closed, own }, isBrief, onProgress }: HowToJudge,
): Promise<string | undefined> {
  const { path } = file;
  if (await isFenceUp(file, path, state)) return undefined;
  const seen = lastSeen(state).get(path)?.fingerprint;
  if (!seen) throw new ImgtxError("E_INTERNAL", "what was merged is watched", { image: path });
  const now = await takeFingerprint(file, seen.headerSha256 !== null);
  const changes = describeChanges(seen, now);
  if (changes.length > 0) return `somebody has changed it: ${changes.join(", ")}`;
  const doubt = isLocked ? undefined : describeDoubt(seen, now);
  if (doubt === undefined) return undefined;
  // Guests open active layers. What is below one, and a data file, is found by its changes.
  const left = closed?.devices.find(({ image }) => image === path);
  if (closed && !left) return undefined;
  const device = left && own.devices.find(({ name }) => name === left.name);
  if (!left || !device) return `${UNTOLD}: ${doubt}`;
  const plan = liveStatements(state).find((one) => one.plan.removes.includes(path))?.plan;
  const gate = plannedGate(workspace, state, { plan, allowPaths: own.allowPaths });
  const shows = await showsTheDevice(workspace.storage, gate, { left, device }, { isBrief, onProgress });
  if (shows === true) return undefined;
  return shows === false
    ? `it differs from '${device.image}', where '${device.name}' is now: ${WRITTEN}`
    : `${UNTOLD}: ${doubt}`;
}

const UNTOLD = "whether somebody has written to it since the commit can't be told";
const WRITTEN = "somebody has written to one of the two since the commit";
