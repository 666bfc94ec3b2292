// mirror: copies devices, each into a new image, or brings the mirrors that they have in sync. The copies are
// made side by side. The devices themselves are only read.

import { posix } from "node:path";
import {
  type ChainEntry,
  type DeviceEntry,
  type DeviceTable,
  findDevice,
  type MirrorEntry,
  requireDevice,
  withDevices,
} from "../../device/index.ts";
import { ImgtxError, settleAll } from "../../errors/index.ts";
import { type Chain, type ChainLink, identityOf, probeFormat } from "../../format/index.ts";
import {
  type Action,
  assertNamedOnce,
  assertTargetsDiffer,
  type FillTools,
  type PlanContext,
} from "./plan/action.ts";
import { activeLayer, chainEntriesOf, settleChain } from "./plan/chain-entry.ts";
import {
  findMissingParent,
  type PlannedCopy,
  planResync,
  requireMirror,
  hasMirror,
} from "./plan/mirroring.ts";
import { type NewCopy, planFresh, chooseCopy } from "./plan/new-copy.ts";
import { planTracking } from "./plan/tracking.ts";
import { isMadeOfNothing, isUnfinished } from "./plan/volume-copy.ts";
import type { PlannedReport } from "../journal/index.ts";
import type { MirrorRequest, MirrorTarget } from "../requests/request.ts";

interface PlannedTarget extends PlannedCopy {
  readonly entry: DeviceEntry;
  readonly report: PlannedReport;
}

export const mirror: Action<MirrorRequest> = {
  saying: { noun: "mirror", done: "mirrored", planned: "would be mirrored" },
  mayDoNothing: true,
  isResumable: true,
  renewal: {
    isMove: false,
    // Of those that a later statement has not taken back.
    requests(devices, _changes, table) {
      const targets = devices.filter((device) => findDevice(table, device)?.mirror).map(renewed(table));
      return targets.length === 0 ? [] : [{ kind: "mirror", targets }];
    },
  },

  verifies: ({ targets }) => targets.flatMap(({ device, verify }) => (verify ? device : [])),

  async plan({ targets }, context) {
    assertNamedOnce(targets.map(({ device }) => device));
    const planned: PlannedTarget[] = [];
    for (const target of targets) planned.push(await planTarget(target, context));
    assertTargetsDiffer(
      planned.flatMap(({ entry, mirror: copy }) =>
        [copy.image, copy.chain[0]?.dataFile?.image ?? []]
          .flat()
          .map((path) => ({ device: entry.name, path })),
      ),
    );
    return {
      devices: targets.map(({ device }) => device),
      reports: planned.map(({ report }) => report),
      changes: planned.flatMap(({ entry, mirror: copy }) =>
        entry.mirror === copy ? [] : [{ device: entry.name, after: { ...entry, mirror: copy } }],
      ),
      allowPaths: [],
      redo: planned.flatMap(({ redo }) => redo),
      copies: planned.flatMap(({ copies = [] }) => copies),
      renewable: true,
      filesToMake: planned.flatMap(({ filesToMake }) => filesToMake),
      async fillFiles(files, tools) {
        let first = 0;
        const fills = planned.map(async (copy) => {
          const start = first;
          first += copy.filesToMake.length;
          if (first > start) await copy.fillFiles(files.slice(start, first), toolsFrom(start, tools));
        });
        await settleAll(fills);
      },
      chains: planned.flatMap(({ entry, chains }) => chains.map((chain) => ({ device: entry.name, chain }))),
    };
  },
};

/** The same for files that are a part of all, from an index on. */
function toolsFrom(start: number, tools: FillTools): FillTools {
  return {
    ...tools,
    isFresh: (index) => tools.isFresh(start + index),
    resumeAt: (index) => tools.resumeAt(start + index),
    isMarkDue: (index) => tools.isMarkDue(start + index),
    keepMark: async (index, offset) => await tools.keepMark(start + index, offset),
  };
}

async function planTarget(target: MirrorTarget, context: PlanContext): Promise<PlannedTarget> {
  const { device } = target;
  const entry = requireDevice(context.table, device);
  const path =
    target.file === undefined ? requireMirror(entry).image : await context.canonicalPath(target.file, device);
  const copy = await planCopy(entry, target, path, context);
  // As large as it is now: it may have been resized since the table was written. A guest may have it open while what
  // lies below is copied for a migration: that opens it not.
  const present = copy.chains.map(activeLayer).find((top) => top.path === entry.image);
  const { virtualSizeBytes } = present ?? entry;
  return {
    ...copy,
    entry: { ...entry, virtualSizeBytes },
    report: {
      kind: "mirror",
      device,
      before: entry.image,
      after: entry.image,
      format: entry.format,
      files: [
        ...copy.filesToMake.map((file) => ({
          path: file.path,
          change: file.copiedInto === undefined ? ("create" as const) : ("change" as const),
        })),
        ...(copy.copies ?? []).map(({ into }) => ({ path: into, change: "create" as const })),
      ],
      notes: copy.notes,
    },
  };
}

async function planCopy(
  entry: DeviceEntry,
  target: MirrorTarget,
  path: string,
  context: PlanContext,
): Promise<PlannedCopy> {
  const missing = entry.mirror ? findMissingParent(entry.mirror) : undefined;
  const isMirror = entry.mirror?.image === path;
  if (entry.mirror && missing && (isMirror || missing.image === path)) {
    return await planParent(entry, entry.mirror, missing, { target, context });
  }
  const opened = await context.openChain(entry.image, entry.format, target.device);
  const present = await settleChain(context.storage.host, opened);
  const isBegunHere = context.copiedInto.get(path)?.kind === "fill";
  if (isMirror && (isBegunHere || (await isUnfinished(entry, context))))
    return await planAnew(entry, target, present, context);
  if (entry.mirror && isMirror && isMadeOfNothing(entry.mirror)) return keepAsMade(entry, target, present);
  if (isMirror) return await planSync(entry, target, present, context);
  return await planNew(entry, target, path, { present, context });
}

/**
 * What the twin of a migration stands on: a copy of what the device had when the migration began. Only that is
 * opened: a guest may go on writing to what lies above.
 */
async function planParent(
  { chain }: DeviceEntry,
  twin: MirrorEntry,
  missing: ChainEntry,
  { target, context }: { target: MirrorTarget; context: PlanContext },
): Promise<PlannedCopy> {
  const { device } = target;
  const source = chain.find(({ image }) => image === twin.source[1]?.image);
  if (source === undefined || (target.format !== undefined && target.format !== missing.format)) {
    throw new ImgtxError(
      "E_REFUSED",
      source === undefined
        ? `the chain that its migration began with is not in use any more`
        : `${twin.image} takes it for ${missing.format}, not ${target.format}`,
      {
        device,
        image: missing.image,
        hint:
          source === undefined
            ? `\`imgtx mirror --cancel ${device}\` forgets the migration; then begin it again`
            : "leave --format out",
      },
    );
  }
  const opened = await context.openChain(source.image, source.format, device);
  const parent = await settleChain(context.storage.host, opened);
  const copy = await chooseCopy({ ...target, format: missing.format }, missing.image, parent, context);
  const fresh = await planFresh(copy, target, parent, context);
  const [own] = twin.chain;
  const [made, ...below] = fresh.entries;
  if (!own || !made) throw new Error("a twin stands on an image");
  return {
    ...fresh,
    mirror: { ...twin, chain: [own, { ...made, name: missing.name }, ...below] },
    chains: [parent, ...fresh.chains],
    notes: [{ code: "twin stands on it", image: twin.image, device }, ...fresh.notes],
  };
}

/** A mirror on a block device that was begun, also by this transaction, and never was whole: as it was asked for then. */
async function planAnew(
  entry: DeviceEntry,
  target: MirrorTarget,
  present: Chain,
  context: PlanContext,
): Promise<PlannedCopy> {
  const { image, format, sync, bitmap } = requireMirror(entry);
  assertAsBefore(entry, target);
  const same = { ...target, format, sync, bitmap: target.bitmap || bitmap !== null };
  const without = { ...entry, mirror: null };
  const table = withDevices(context.table, [{ device: entry.name, after: without }]);
  return await planNew(without, same, image, { present, context: { ...context, table } });
}

function keepAsMade(entry: DeviceEntry, target: MirrorTarget, present: Chain): PlannedCopy {
  assertAsBefore(entry, target);
  return {
    mirror: { ...requireMirror(entry), source: chainEntriesOf(present) },
    filesToMake: [],
    fillFiles: async () => await Promise.resolve(),
    redo: [],
    chains: [present],
    notes: [],
  };
}

async function planSync(
  entry: DeviceEntry,
  target: MirrorTarget,
  present: Chain,
  context: PlanContext,
): Promise<PlannedCopy> {
  assertAsBefore(entry, target);
  return await planTracked(entry, present, target, context);
}

/** E_REFUSED where other options are given than the mirror was made with. */
function assertAsBefore(entry: DeviceEntry, target: MirrorTarget): void {
  const { format, sync, image } = requireMirror(entry);
  const other =
    target.format !== undefined && target.format !== format
      ? `its format is ${format}`
      : target.sync !== undefined && target.sync !== sync
        ? `it was made with --sync ${sync}`
        : undefined;
  if (other !== undefined) {
    throw new ImgtxError("E_REFUSED", `it is the mirror of '${entry.name}' already, and ${other}`, {
      device: entry.name,
      image,
      hint: `leave that option out to bring it in sync, or forget it with \`imgtx mirror --cancel ${entry.name}\``,
    });
  }
}

/** Together with the bitmap that marks what is written from then on. */
async function planTracked(
  entry: DeviceEntry,
  present: Chain,
  { verify, bitmap }: MirrorTarget,
  context: PlanContext,
): Promise<PlannedCopy> {
  const before = requireMirror(entry);
  const { copy } = await planResync(entry, present, context, {
    verify,
    always: bitmap && before.bitmap === null,
  });
  if (copy.filesToMake.length === 0) return copy;
  const tracking = await planTracking(entry.name, present, { before, isWanted: bitmap }, context);
  return {
    ...copy,
    mirror: { ...copy.mirror, bitmap: tracking.bitmap, witness: tracking.witness },
    redo: tracking.redo,
    notes: [...copy.notes, ...tracking.notes],
  };
}

async function planNew(
  entry: DeviceEntry,
  target: MirrorTarget,
  path: string,
  { present, context }: { present: Chain; context: PlanContext },
): Promise<PlannedCopy> {
  const { device } = target;
  if (entry.mirror) {
    const other = findDevice(context.table, posix.basename(path));
    const pair = other && `${device}=${entry.mirror.image} ${other.name}=FILE`;
    const hint = other && `'${other.name}' is a device: several are written as ${pair}`;
    throw hasMirror(device, entry.mirror, path, hint);
  }
  const copy = await chooseCopy(target, path, present, context);
  if (target.reuse && (await context.storage.statLink(path))) {
    return await planReuse(entry, copy, { present, context, target });
  }
  const fresh = await planFresh(copy, target, present, context);
  const tracking = await planTracking(device, present, { before: null, isWanted: target.bitmap }, context);
  return {
    ...fresh,
    redo: [...fresh.redo, ...tracking.redo],
    mirror: {
      image: path,
      format: copy.format,
      sync: copy.sync,
      chain: fresh.entries,
      source: chainEntriesOf(present),
      syncedAt: new Date(context.storage.host.now()).toISOString(),
      bitmap: tracking.bitmap,
      witness: tracking.witness,
    },
    chains: [present, ...fresh.chains],
    notes: [...fresh.notes, ...tracking.notes, ...present.links.flatMap((link) => link.warnings)],
  };
}

async function planReuse(
  entry: DeviceEntry,
  { path, format, sync }: NewCopy,
  { present, context, target }: { present: Chain; context: PlanContext; target: MirrorTarget },
): Promise<PlannedCopy> {
  const as = target.format ?? format;
  const there = await context.openChain(path, as, entry.name, [], { mayBeHalfCopied: true });
  assertNotOwn(entry, activeLayer(there), present);
  if (target.format === undefined) await assertLooksRight(entry, activeLayer(there));
  const adopted: MirrorEntry = {
    image: path,
    format: activeLayer(there).format,
    sync,
    chain: chainEntriesOf(there),
    // Of nothing that is known: it is compared from end to end.
    source: [],
    bitmap: null,
  };
  assertStandsRight(entry, adopted, present, there);
  return await planTracked({ ...entry, mirror: adopted }, present, target, context);
}

/** E_IN_USE where the file is one of those that it would be a copy of. */
function assertNotOwn({ name: device }: DeviceEntry, there: ChainLink, { links }: Chain): void {
  const own = links.flatMap(({ stat, dataFile }) => [identityOf(stat), dataFile?.path ?? []].flat());
  if (!own.includes(identityOf(there.stat)) && !own.includes(there.dataFile?.path ?? "")) return;
  throw new ImgtxError("E_IN_USE", `it is an image of '${device}' itself`, {
    device,
    image: there.path,
    hint: "name a file that does not exist",
  });
}

/** E_REFUSED for what would be taken for raw, which nobody said, and looks like something else. */
async function assertLooksRight(
  { name: device }: DeviceEntry,
  { path, format, file }: ChainLink,
): Promise<void> {
  if (format !== "raw") return;
  const head = new Uint8Array(512);
  const probed = probeFormat(head.subarray(0, await file.read(head, 0)));
  if (probed === undefined) return;
  throw new ImgtxError("E_REFUSED", `it looks like ${probed}, and the copy would be raw`, {
    device,
    image: path,
    hint: "say --format raw where that is right; what it holds is lost then",
  });
}

/** E_REFUSED where an image that is to be reused stands on other images than a new one would. */
function assertStandsRight(
  entry: DeviceEntry,
  { image, sync }: MirrorEntry,
  present: Chain,
  there: Chain,
): void {
  const wanted = sync === "full" ? undefined : present.links[sync === "top" ? 1 : 0];
  const below = there.links[1];
  const isSame =
    wanted === undefined
      ? below === undefined
      : below !== undefined && identityOf(below.stat) === identityOf(wanted.stat);
  if (isSame) return;
  throw new ImgtxError(
    "E_REFUSED",
    wanted === undefined
      ? `it has a backing file, ${below?.path}, and a full copy stands alone`
      : `its backing image is ${below === undefined ? "none" : below.path}, and has to be ${wanted.path}`,
    { device: entry.name, image, hint: "name a file that does not exist" },
  );
}

/** A bitmap that the transaction has made is made anew: it counts from what its image is now. */
function renewed(table: DeviceTable): (device: string) => MirrorTarget {
  return (device) => ({
    device,
    file: undefined,
    format: undefined,
    sync: undefined,
    compressed: false,
    options: {},
    relative: false,
    reuse: false,
    bitmap: (findDevice(table, device)?.mirror?.bitmap ?? null) !== null,
    verify: false,
  });
}
