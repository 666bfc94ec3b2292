// migrate: begins to move a device's chain to another place. The device gets a new overlay where it is, which
// takes its writes from now on, and a twin of that overlay in the other place, as its mirror. The twin stands on
// a copy of the parent chain, which `mirror` makes beside it, and `reopen` changes over to it.
//
// The twin names that copy as the chain's own overlay names its parent once it has moved: by the parent's name, beside
// itself. So neither file may have that name. Making the copy opens the parent chain alone, and the guest writes on.

import { posix } from "node:path";
import { type DeviceEntry, type DeviceTable, type MirrorEntry, requireDevice } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { type Chain, writeImage } from "../../format/index.ts";
import type { PlannedReport } from "../journal/index.ts";
import type { Action, PlanContext } from "./plan/action.ts";
import { activeLayer, settleChain } from "./plan/chain-entry.ts";
import { NOT_MADE_YET } from "../journal/index.ts";
import { tellOfFences } from "./plan/fencing.ts";
import {
  entryOn,
  type PlacedOverlay,
  placeOverlay,
  planNewOverlay,
  type PlannedOverlay,
  targetExists,
  assertOverlayFormat,
} from "./plan/new-overlay.ts";
import { isDeviceAt } from "../images/devices.ts";
import type { ImageChange } from "../images/redo.ts";
import type { Note } from "../notes/notes.ts";
import type { MigrateRequest } from "../requests/request.ts";
import { hasMirror } from "./plan/mirroring.ts";

export const migrate: Action<MigrateRequest> = {
  saying: { noun: "migration", done: "migration begun", planned: "would be migrated" },
  takenBackBy: "undo",
  async plan(request, context) {
    const { device } = request;
    const entry = requireDevice(context.table, device);
    assertMayMigrate(entry, request);
    // What the twin is known to be in sync with, from now on.
    const opened = await context.openChain(entry.image, entry.format, device);
    const present = await settleChain(context.storage.host, opened);
    const path = await targetPath(request.newSource, device, context);
    const dest = await targetPath(request.dest, device, context);
    if (path === dest) {
      throw new ImgtxError("E_DUPLICATE", "the overlay and its twin have the same path", {
        device,
        image: dest,
        hint: "give each a file of its own",
      });
    }
    const choice = { relative: request.relative, options: {} };
    const overlay = await planNewOverlay(device, present, path, choice, context);
    const twin = await planTwin(device, present, dest, context);
    assertParentKeepsItsName(device, twin, { path, dest });
    const both = [overlay, twin.planned];
    const placed: PlacedOverlay[] = [];
    for (const planned of both) placed.push(await place(planned, present, request, context));
    const [own, other] = placed;
    if (!own || !other) throw new Error("both have a place");
    const after = entryOn(entry, { ...overlay, chain: own.chain });
    const fresh = both.filter((_, index) => (placed[index]?.toMake.length ?? 0) > 0);
    return {
      devices: [device],
      reports: [
        reportOf(entry, present, context.table, {
          path,
          dest,
          parent: twin.parent,
          notes: placed.flatMap(({ notes }) => notes),
        }),
      ],
      changes: [{ device, after: { ...after, mirror: twinOf(dest, other.chain, after.chain) } }],
      allowPaths: [],
      filesToMake: placed.flatMap(({ toMake }) => toMake),
      async fillFiles(files) {
        for (const [index, file] of files.entries()) {
          const planned = fresh[index];
          if (planned) await writeImage({ file }, planned.overlay);
        }
      },
      redo: placed.flatMap(({ redo }) => redo),
      chains: [present, ...placed.flatMap(({ volumes }) => volumes)].map((chain) => ({ device, chain })),
    };
  },
};

function reportOf(
  entry: DeviceEntry,
  present: Chain,
  table: DeviceTable,
  {
    path,
    dest,
    parent,
    notes,
  }: { path: string; dest: string; parent: string | undefined; notes: readonly Note[] },
): PlannedReport {
  const { name: device } = entry;
  return {
    kind: "migrate",
    device,
    before: entry.image,
    after: path,
    format: "qcow2",
    files: [
      { path, change: "create" },
      { path: dest, change: "create" },
    ],
    notes: [
      ...present.links.flatMap((link) => link.warnings),
      ...tellOfFences(entry, present, table),
      ...notes,
      ...(parent === undefined ? [] : [{ code: "copy the chain", image: parent, device } as const]),
      { code: "change over", image: dest, device },
    ],
  };
}

function twinOf(image: string, chain: MirrorEntry["chain"], source: MirrorEntry["source"]): MirrorEntry {
  return { image, format: "qcow2", sync: "top", chain, source, bitmap: null };
}

interface Twin {
  readonly planned: PlannedOverlay;
  /** Where the copy of the parent chain is to be; undefined where the twin stands on the parent itself. */
  readonly parent: string | undefined;
}

/** By a relative name, so that it finds the copy of its parent beside itself, as the overlay finds the parent. */
async function planTwin(device: string, present: Chain, dest: string, context: PlanContext): Promise<Twin> {
  const top = activeLayer(present);
  const name = posix.basename(top.path);
  const backingName = name.includes(":") ? `./${name}` : name;
  const planned = await planNewOverlay(
    device,
    present,
    dest,
    { backingName, relative: true, options: {} },
    context,
  );
  const parent = posix.join(posix.dirname(dest), name);
  const [twin, below] = planned.chain;
  if (!twin || !below) throw new Error("an overlay has a backing image");
  if (parent === top.path) return { planned, parent: undefined };
  const isThere = (await context.storage.statLink(parent)) !== undefined;
  // What is on a volume is looked at when the chain is copied there.
  if (isThere && !(await isDeviceAt(context.storage, parent))) {
    throw new ImgtxError("E_EXISTS", "where the copy of the parent chain would be, there is a file already", {
      device,
      image: parent,
      hint: "move it away, or choose another folder for DEST",
    });
  }
  const copy = { ...below, image: parent, fingerprint: NOT_MADE_YET, dataFile: null };
  return { planned: { ...planned, chain: [twin, copy] }, parent };
}

/** The copy of the parent has the parent's own name, by which the twin finds it: no other file may take it. */
function assertParentKeepsItsName(
  device: string,
  { parent }: Twin,
  { path, dest }: { readonly path: string; readonly dest: string },
): void {
  if (parent !== dest && parent !== path) return;
  const [argument, which] = parent === dest ? ["DEST", "the twin"] : ["FILE", "the new overlay"];
  throw new ImgtxError("E_REFUSED", `the copy of the parent chain is to have this name, not ${which}`, {
    device,
    image: parent,
    hint: `choose another name for ${argument} than '${posix.basename(parent)}', which its backing image has`,
  });
}

function assertMayMigrate(
  { image, mirror }: DeviceEntry,
  { device, destFormat, sourceFormat }: MigrateRequest,
): void {
  for (const format of [destFormat, sourceFormat]) assertOverlayFormat(device, format);
  if (mirror) throw hasMirror(device, mirror, image);
}

async function place(
  planned: PlannedOverlay,
  below: Chain,
  { device, overwrite = false }: MigrateRequest,
  context: PlanContext,
): Promise<PlacedOverlay> {
  const how = {
    device,
    below,
    isOverwriting: overwrite,
    write: async (file: Parameters<ImageChange["write"]>[0]): Promise<void> => {
      await writeImage({ file }, planned.overlay);
    },
  };
  return await placeOverlay(planned, how, context);
}

/** Where a file is to be made, or a block device is. */
async function targetPath(file: string, device: string, context: PlanContext): Promise<string> {
  const path = await context.canonicalPath(file, device);
  const there = await context.storage.statLink(path);
  if (there && !(await isDeviceAt(context.storage, path))) throw targetExists(device, path, there, "");
  return path;
}
