// snapshot and snapshot-group: a new overlay over the active layer of each device. The images below are
// not written to; each device then writes to its overlay. What was active is sealed: the snapshot keeps it.

import {
  assertSnapshotName,
  type DeviceEntry,
  type DeviceTable,
  requireDevice,
  trustedBy,
  withDevices,
  withTrusted,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  addFirstBitmap,
  type Chain,
  checkOverlayIsEmpty,
  judgeFirstBitmap,
  type Qcow2ImagePlan,
  writeImage,
} from "../../format/index.ts";
import { isDeviceAt } from "../images/devices.ts";
import { planFilesBeside, type PlannedBeside } from "../images/files-beside.ts";
import type { ImageChange } from "../images/redo.ts";
import {
  type Action,
  assertNamedOnce,
  assertTargetsDiffer,
  type Plan,
  type PlanContext,
  type VolumesWanted,
} from "./plan/action.ts";
import { planBitmapChange } from "./plan/in-place.ts";
import { activeLayer, placeOf } from "./plan/chain-entry.ts";
import { tellOfFences } from "./plan/fencing.ts";
import {
  noteOnDepth,
  entryOn,
  nameOverlay,
  onPromised,
  type PlacedOverlay,
  placeOverlay,
  planNewOverlay,
  targetExists,
  assertOverlayFormat,
  type VolumeSize,
  wantVolume,
} from "./plan/new-overlay.ts";
import type { PlannedVolume } from "../journal/index.ts";
import type { Note } from "../notes/notes.ts";
import type { SnapshotRequest, SnapshotTarget } from "../requests/way-back-requests.ts";

interface PlannedTarget {
  readonly target: SnapshotTarget;
  readonly path: string;
  readonly before: string;
  readonly chain: Chain;
  readonly after: DeviceEntry;
  /** Undefined where an existing overlay is taken. */
  readonly overlay: Qcow2ImagePlan | undefined;
  readonly placed?: PlacedOverlay;
  readonly notes: readonly Note[];
  /** The bitmap that an existing overlay gets. */
  readonly redo?: ImageChange;
}

export const snapshot: Action<SnapshotRequest> = {
  saying: { noun: "snapshot", done: "snapshot taken", planned: "would be snapshotted" },
  takenBackBy: "undo",
  volumes: planVolumes,
  async plan(request, context): Promise<Plan> {
    const { name = null, message = null } = request;
    if (name !== null) assertFree(name, context.table);
    const targets = targetsOf(request, context);
    const devices = targets.map(({ device }) => device);
    assertNamedOnce(devices);
    const planned: PlannedTarget[] = [];
    const taken = new Set<string>();
    let { table } = context;
    for (const target of targets) {
      const one = await planTarget(target, request, { ...context, table }, taken);
      taken.add(one.path);
      table = withDevices(table, [{ device: target.device, after: one.after }]);
      planned.push(one);
    }
    assertTargetsDiffer(planned.map(({ target: { device }, path }) => ({ device, path })));
    const fresh = planned.filter(({ placed }) => placed !== undefined && placed.toMake.length > 0);
    const [first = ""] = devices;
    const beside = await planFilesBeside(request.withFiles ?? [], first, context);
    const { kept } = beside;
    return {
      devices,
      snapshot: { name, message, devices, ...(kept.length > 0 && { files: kept }) },
      reports: planned.map((one, index) => reportOf(one, request, index === 0 ? beside : undefined)),
      changes: planned.map(({ target, after }) => ({ device: target.device, after })),
      allowPaths: [],
      filesToMake: [...planned.flatMap(({ placed }) => placed?.toMake ?? []), ...beside.toMake],
      async fillFiles(files) {
        for (const [index, file] of files.entries()) {
          const overlay = fresh[index]?.overlay;
          if (!overlay) continue;
          await writeOverlay(file, overlay, request);
        }
        await beside.fill(files.slice(fresh.length));
      },
      redo: planned.flatMap(({ redo, placed }) => [redo ?? [], placed?.redo ?? []].flat()),
      chains: [
        ...planned.flatMap(({ target: { device }, chain, placed }) =>
          [chain, ...(placed?.volumes ?? [])].map((one) => ({ device, chain: one })),
        ),
        ...beside.chains,
      ],
    };
  },
};

async function writeOverlay(
  file: Parameters<ImageChange["write"]>[0],
  overlay: Qcow2ImagePlan,
  { bitmap }: SnapshotRequest,
): Promise<void> {
  await writeImage({ file }, overlay);
  if (bitmap !== undefined) await addFirstBitmap(file, bitmap);
}

function targetsOf(
  { targets, isOfAll = false }: SnapshotRequest,
  { table, root }: PlanContext,
): readonly SnapshotTarget[] {
  if (!isOfAll) return targets;
  if (table.devices.length === 0) {
    throw new ImgtxError("E_NO_DEVICE", "the workspace has no device that could be snapshotted", {
      image: root,
      hint: "add one with `imgtx device add NAME FILE`",
    });
  }
  return table.devices.map(({ name: device }) => ({ device, file: undefined, format: "qcow2" }));
}

/** Of the devices that have a provisioner, each target that is not there. */
async function planVolumes(
  request: SnapshotRequest,
  context: PlanContext,
): Promise<VolumesWanted | undefined> {
  const volumes: PlannedVolume[] = [];
  const targets: SnapshotTarget[] = [];
  const taken = new Set<string>();
  for (const target of targetsOf(request, context)) {
    const { device, file } = target;
    const entry = requireDevice(context.table, device);
    if (!entry.provision || request.reuse) {
      targets.push(target);
      continue;
    }
    const name = file ?? (await nameOverlay(entry, howToName(request, device, taken), context));
    const path = await context.canonicalPath(name, device);
    targets.push({ ...target, file: path });
    taken.add(path);
    const below = await context.openChain(entry.image, entry.format, device);
    const how = { relative: request.relative, options: request.overlay };
    volumes.push(...(await wantVolume(entry, below, path, { ...how, ...sizeOf(request) }, context)));
  }
  return { volumes, request: { ...request, targets, isOfAll: false } };
}

/** Said before anything is made. The commit looks once more. */
function assertFree(name: string, { snapshots }: DeviceTable): void {
  assertSnapshotName(name);
  const other = snapshots.find((ref) => ref.name === name);
  if (!other) return;
  throw new ImgtxError("E_EXISTS", `snapshot ${other.number} is called '${name}' already`, {
    hint: "`imgtx snapshot-list` lists them; give this one another --name",
  });
}

async function planTarget(
  target: SnapshotTarget,
  request: SnapshotRequest,
  context: PlanContext,
  taken: ReadonlySet<string>,
): Promise<PlannedTarget> {
  const { device } = target;
  const entry = requireDevice(context.table, device);
  assertOverlayFormat(target.device, target.format);
  const isFree = target.file === undefined;
  const file = target.file ?? (await nameOverlay(entry, howToName(request, device, taken), context));
  const path = await context.canonicalPath(file, device, isFree);
  const below = await context.openChain(entry.image, entry.format, device);
  const there = isFree && path === file ? undefined : await context.storage.statLink(path);
  const promisedBy = there ? undefined : entry.provision;
  const isVolume = there !== undefined && !request.reuse && (await isDeviceAt(context.storage, path));
  if (there && !isVolume) {
    if (!request.reuse)
      throw targetExists(device, path, there, "; an empty overlay made beforehand can be taken with --reuse");
    return await reuseTarget({ target, path, below, entry, context, bitmap: request.bitmap });
  }
  const planned = await planNewOverlay(
    device,
    below,
    path,
    { relative: request.relative, options: request.overlay },
    context,
  );
  if (request.bitmap !== undefined) judgeFirstBitmap(planned.overlay, path, request.bitmap);
  const how = {
    device,
    below,
    isOverwriting: request.overwrite === true,
    isVolume,
    write: async (newFile: Parameters<ImageChange["write"]>[0]) =>
      await writeOverlay(newFile, planned.overlay, request),
  };
  const placed = promisedBy
    ? await onPromised(planned, promisedBy, sizeOf(request), context)
    : await placeOverlay(planned, how, context);
  return {
    target,
    path,
    before: activeLayer(below).path,
    chain: below,
    after: entryOn(entry, { ...planned, chain: placed.chain }),
    overlay: planned.overlay,
    placed,
    notes: [
      ...below.links.flatMap((link) => link.warnings),
      ...tellOfFences(entry, below, context.table),
      ...noteOnDepth(device, below),
      ...placed.notes,
    ],
  };
}

function howToName(
  { name }: SnapshotRequest,
  device: string,
  taken: ReadonlySet<string>,
): Parameters<typeof nameOverlay>[1] {
  return { after: name ?? null, taken, hint: `name its file: \`imgtx snapshot ${device} FILE\`` };
}

function sizeOf({ volumeBytes, bitmap }: SnapshotRequest): VolumeSize {
  return { volumeBytes, hasBitmap: bitmap !== undefined };
}

async function reuseTarget(reuse: {
  target: SnapshotTarget;
  path: string;
  below: Chain;
  entry: DeviceEntry;
  context: PlanContext;
  bitmap: string | undefined;
}): Promise<PlannedTarget> {
  const { target, path, below, entry, context, bitmap: name } = reuse;
  const { device } = target;
  const over = await context.openChain(path, "qcow2", device);
  const objections = await checkOverlayIsEmpty(over, activeLayer(below));
  if (objections.length > 0) {
    throw new ImgtxError(
      "E_REFUSED",
      `it is not an empty overlay over the active layer: ${objections.join("; ")}`,
      {
        device,
        image: path,
        hint: "name a file that does not exist, or make the overlay anew",
      },
    );
  }
  return {
    target,
    path,
    before: activeLayer(below).path,
    chain: over,
    after: { ...withTrusted(entry, trustedBy(entry)), ...placeOf(over) },
    overlay: undefined,
    ...(name !== undefined && { redo: await planBitmapChange(activeLayer(over), [{ kind: "add", name }]) }),
    notes: [...over.links.flatMap((link) => link.warnings), ...tellOfFences(entry, below, context.table)],
  };
}

/** beside: what the snapshot keeps besides, which is told with the first device. */
function reportOf(one: PlannedTarget, request: SnapshotRequest, beside?: PlannedBeside) {
  return {
    kind: request.kind,
    device: one.target.device,
    before: one.before,
    after: one.path,
    format: "qcow2" as const,
    files: [
      { path: one.path, change: one.overlay ? ("create" as const) : ("reuse" as const) },
      ...(beside?.files ?? []),
    ],
    notes: [...one.notes, ...(beside?.notes ?? [])],
  };
}
