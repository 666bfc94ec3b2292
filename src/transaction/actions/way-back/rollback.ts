// rollback: devices go back to what a snapshot keeps of them, each on a new overlay over its sealed image. Nothing that a
// snapshot keeps is written to, so going forward again is the same command: what was active is sealed in turn, as a
// snapshot of its own.
//
// Invariant: a sealed image is put under a device only while it, and all that it stands on, looks as it did.

import {
  type ChainEntry,
  type DeviceEntry,
  type DeviceTable,
  filesOfEntry,
  requireDevice,
  type SealedDevice,
  type Snapshot,
  withDevices,
  withTrusted,
} from "../../../device/index.ts";
import { ImgtxError, unlessItFails } from "../../../errors/index.ts";
import { type Chain, writeImage } from "../../../format/index.ts";
import type { PlannedVolume } from "../../journal/index.ts";
import type { Note } from "../../notes/notes.ts";
import { isDeviceAt } from "../../images/devices.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { RollbackRequest } from "../../requests/way-back-requests.ts";
import {
  type Action,
  assertTargetsDiffer,
  type Plan,
  type PlanContext,
  type VolumesWanted,
} from "../plan/action.ts";
import { chainEntriesOf, deviceEntryOf, notesOnMirrorLeft } from "../plan/chain-entry.ts";
import { assertNotFrozen } from "../plan/fencing.ts";
import {
  entryOn,
  noteOnDepth,
  onPromised,
  type PlacedOverlay,
  type PlannedOverlay,
  placeOverlay,
  planNewOverlay,
  targetExists,
  wantVolume,
} from "../plan/new-overlay.ts";
import { assertNothingStandsOn } from "../plan/overlays-of.ts";
import { planGivingBack } from "./give-back.ts";
import { BEFORE, findPlace, findSealed, sayShort } from "./going-back.ts";
import { describeObstacle, findDoubts } from "./looks.ts";
import { withTimesLeft } from "./sealed-times.ts";

export const rollback: Action<RollbackRequest> = {
  saying: { noun: "rollback", done: "rolled back", planned: "would be rolled back" },
  volumes: planVolumes,
  async plan(request, context): Promise<Plan> {
    const { isDiscarding, ...files } = request;
    const { snapshot, kept, sealed } = await findSealed(request, context);
    const planned: Awaited<ReturnType<typeof planOne>>[] = [];
    const taken = new Set<string>();
    let { table } = context;
    for (const one of sealed) {
      const device = await planOne(one, snapshot, context, { taken, request, table });
      taken.add(device.after.image);
      table = withDevices(table, [{ device: device.device, after: device.after }]);
      planned.push(device);
    }
    assertTargetsDiffer(planned.map(({ device, after }) => ({ device, path: after.image })));
    const made = planned.filter(({ placed }) => placed.toMake.length > 0);
    const left = isDiscarding ? [] : planned.filter(({ isThere }) => isThere).map(({ device }) => device);
    const [first] = planned;
    const back = await planGivingBack(
      snapshot,
      files,
      { device: first?.device ?? "", isKeeping: left.length > 0 },
      context,
    );
    const { kept: keptFiles } = back;
    const name = `${BEFORE}${sayShort(snapshot)}`;
    return {
      devices: planned.map(({ device }) => device),
      ...(left.length > 0 && {
        snapshot: {
          name: freeName(context.table, name),
          message: null,
          devices: left,
          ...(keptFiles.length > 0 && { files: keptFiles }),
        },
      }),
      // What is given back is told with the first device.
      reports: planned.map(({ report: { files: own, notes, ...report } }, index) => ({
        ...report,
        files: index === 0 ? [...own, ...back.files] : own,
        notes: index === 0 ? [...notes, ...back.notes, ...notesOnGone(snapshot, kept, sealed)] : notes,
      })),
      changes: planned.map(({ device, after }) => ({ device, after })),
      allowPaths: [],
      filesToMake: [...made.flatMap(({ placed }) => placed.toMake), ...back.toMake],
      async fillFiles(files) {
        for (const [index, file] of files.entries()) {
          const plan = made[index]?.overlay.overlay;
          if (plan) await writeImage({ file }, plan);
        }
        await back.fill(files.slice(made.length));
      },
      redo: [...planned.flatMap(({ placed }) => placed.redo), ...back.redo],
      removes: planned.flatMap(({ removes }) => removes),
      chains: [...planned, back].flatMap(({ chains }) => chains),
    };
  },
};

/** A volume for each device that has a provisioner, of which the overlay is not there. */
async function planVolumes(
  request: RollbackRequest,
  context: PlanContext,
): Promise<VolumesWanted | undefined> {
  const { snapshot, sealed } = await findSealed(request, context);
  const { overlays: named = [] } = request;
  const overlays = [...named];
  const volumes: PlannedVolume[] = [];
  for (const one of sealed) {
    const { device } = one;
    const before = requireDevice(context.table, device);
    if (!before.provision) continue;
    const { chain, path } = await findPlace(one, snapshot, context, {
      taken: new Set(overlays.map(({ file }) => file)),
      request,
    });
    if (named.every((other) => other.device !== device)) overlays.push({ device, file: path });
    const size = { volumeBytes: request.volumeBytes, hasBitmap: false };
    volumes.push(...(await wantVolume(before, chain, path, { ...PLAIN, ...size }, context)));
  }
  return { volumes, request: { ...request, overlays } };
}

const PLAIN = { relative: undefined, options: {} };

function freeName({ snapshots }: DeviceTable, name: string): string {
  const taken = new Set(snapshots.map((ref) => ref.name));
  const short = name.slice(0, 120);
  for (let number = 1; ; number += 1) {
    const candidate = number === 1 ? short : `${short} (${number})`;
    if (!taken.has(candidate)) return candidate;
  }
}

async function planOne(
  sealed: SealedDevice,
  snapshot: Snapshot,
  context: PlanContext,
  how: {
    readonly taken: ReadonlySet<string>;
    readonly request: RollbackRequest;
    /** With those that go back before this one. */
    readonly table: DeviceTable;
  },
) {
  const { device } = sealed;
  const { isDiscarding } = how.request;
  const before = requireDevice(context.table, device);
  assertNotFrozen(before, "going back would move it to another image");
  const { kept, top, chain, path } = await findPlace(sealed, snapshot, context, how);
  const doubts = judgeSealed(device, snapshot, await withTimesLeft(kept, context), chain);
  const overlay = await planNewOverlay(device, chain, path, PLAIN, { ...context, table: how.table });
  const placed = await placeBack(before, overlay, chain, how.request, context);
  const marks = new Map(
    kept.map(({ image, sealedBy, isMade }) => [
      image,
      { ...(sealedBy !== undefined && { sealedBy }), ...(isMade !== undefined && { isMade }) },
    ]),
  );
  const entry = withTrusted(deviceEntryOf(device, chain, before), sealed.trusted ?? []);
  const after = entryOn(entry, {
    ...overlay,
    chain: placed.chain.map((one) => ({ ...one, ...marks.get(one.image) })),
  });
  // Where what the device leaves can't be opened, going back is the way out.
  const present = await unlessItFails(() => context.openChain(before.image, before.format, device));
  const removes = isDiscarding && present ? await findDiscarded(before, present, context) : [];
  const files = [
    { path: after.image, change: "create" as const },
    ...removes.map((file) => ({ path: file, change: "remove" as const })),
  ];
  return {
    device,
    overlay,
    placed,
    after,
    removes,
    isThere: present !== undefined,
    chains: [chain, ...(present ? [present] : []), ...placed.volumes].map((one) => ({ device, chain: one })),
    report: {
      kind: "rollback" as const,
      device,
      before: before.image,
      after: after.image,
      format: after.format,
      files,
      notes: [
        { code: "back to a snapshot", number: snapshot.number, image: top.image } as const,
        ...(present && removes.length === 0 && isDiscarding
          ? [{ code: "image left", image: before.image } as const]
          : []),
        ...notesOnMirrorLeft(before),
        ...doubts,
        ...noteOnDepth(device, chain),
        ...placed.notes,
      ],
    },
  };
}

/** In a new file, or on a block device: one that is there, or that a command has made, or would make. */
async function placeBack(
  { name: device, provision }: DeviceEntry,
  planned: PlannedOverlay,
  below: Chain,
  { overwrites = false, volumeBytes }: RollbackRequest,
  context: PlanContext,
): Promise<PlacedOverlay> {
  const { path } = planned.toMake;
  const there = await context.storage.statLink(path);
  if (!there && provision)
    return await onPromised(planned, provision, { volumeBytes, hasBitmap: false }, context);
  if (there && !(await isDeviceAt(context.storage, path))) throw targetExists(device, path, there, "");
  const write = async (file: Parameters<ImageChange["write"]>[0]): Promise<void> => {
    await writeImage({ file }, planned.overlay);
  };
  return await placeOverlay(planned, { device, below, isOverwriting: overwrites, write }, context);
}

/** The files of the layer that is left: only what imgtx made goes, and only where nobody needs it. */
async function findDiscarded(
  { name: device, image, made }: DeviceEntry,
  { links: [top] }: Chain,
  context: PlanContext,
): Promise<readonly string[]> {
  if (!top || made !== image || (await context.readInherited()).has(image)) return [];
  const hint = "leave --discard out: then it is kept, as a snapshot";
  if ((top.header?.nbSnapshots ?? 0) > 0) {
    throw new ImgtxError(
      "E_REFUSED",
      `what '${device}' is on can't be discarded: it has internal snapshots, which would be lost with it`,
      { device, image, hint },
    );
  }
  const what = "would lose what it shows";
  await assertNothingStandsOn(image, what, context).catch((error: unknown) => {
    if (!(error instanceof ImgtxError)) throw error;
    throw error.reworded(`what '${device}' is on can't be discarded: ${error.message}`, {
      device,
      image,
      hint,
    });
  });
  return [top.path];
}

/** E_CHANGED where the images are not what the snapshot keeps. Returns what can't be told of them. */
function judgeSealed(
  device: string,
  snapshot: Snapshot,
  kept: readonly ChainEntry[],
  chain: Chain,
): readonly Note[] {
  const now = chainEntriesOf(chain);
  const problems =
    now.length === kept.length ? [] : [`its chain has ${now.length} images, and had ${kept.length}`];
  const doubts: Note[] = [];
  for (const [depth, was] of kept.entries()) {
    const entry = now[depth];
    if (!entry) break;
    const files = filesOfEntry(entry);
    for (const [index, file] of filesOfEntry(was).entries()) {
      const present = files[index];
      const changes = describeObstacle(file, present);
      problems.push(...changes);
      if (present && changes.length === 0) doubts.push(...findDoubts(file, present, true));
    }
  }
  if (problems.length === 0) return doubts;
  throw new ImgtxError(
    "E_CHANGED",
    `snapshot ${sayShort(snapshot)} is not what it was: ${problems.join("; ")}`,
    {
      device,
      ...(kept[0] && { image: kept[0].image }),
      hint: `put the images back from a copy, with their times; \`imgtx snapshot-show ${snapshot.number}\` says which`,
    },
  );
}

/** On those that are in the table no more, and stay out of it. */
function notesOnGone(
  { number }: Snapshot,
  kept: readonly SealedDevice[],
  back: readonly SealedDevice[],
): readonly Note[] {
  return kept
    .filter((one) => !back.includes(one))
    .map(({ device, chain: [top] }) => ({
      code: "kept of no device",
      device,
      number,
      image: top?.image ?? "",
    }));
}
