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
  requireSnapshot,
  type SealedDevice,
  type Snapshot,
  withDevices,
  withTrusted,
} from "../../../device/index.ts";
import { ImgtxError, unlessItFails } from "../../../errors/index.ts";
import { type Chain, writeImage } from "../../../format/index.ts";
import { readTime } from "../../../units/index.ts";
import type { Note } from "../../notes.ts";
import type { RollbackRequest } from "../../way-back-requests.ts";
import { type Action, assertNamedOnce, type Plan, type PlanContext } from "../plan/action.ts";
import { chainEntriesOf, deviceEntryOf, notesOnMirrorLeft } from "../plan/chain-entry.ts";
import { assertNotFrozen } from "../plan/fencing.ts";
import { entryOn, noteOnDepth, planNewOverlay } from "../plan/new-overlay.ts";
import { nameOverlay } from "../plan/new-overlay.ts";
import { assertNothingStandsOn } from "../plan/overlays-of.ts";
import { planGivingBack } from "./give-back.ts";
import { describeObstacle, findDoubts } from "./looks.ts";
import { withTimesLeft } from "./sealed-times.ts";

export const rollback: Action<RollbackRequest> = {
  saying: { noun: "rollback", done: "rolled back", planned: "would be rolled back" },
  async plan({ devices: named, to, isDiscarding, ...files }, context): Promise<Plan> {
    assertNamedOnce(named);
    const snapshot = await findSnapshot(named, to, context);
    const kept = snapshot.devices.filter(({ device }) => named.length === 0 || named.includes(device));
    const sealed = kept.filter(({ device }) => context.table.devices.some(({ name }) => name === device));
    if (sealed.length === 0) throw keepsNone(snapshot, kept);
    const planned: Awaited<ReturnType<typeof planOne>>[] = [];
    const taken = new Set<string>();
    let { table } = context;
    for (const one of sealed) {
      const device = await planOne(one, snapshot, context, { taken, isDiscarding, table });
      taken.add(device.overlay.toMake.path);
      table = withDevices(table, [{ device: device.device, after: device.after }]);
      planned.push(device);
    }
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
      filesToMake: [...planned.map(({ overlay }) => overlay.toMake), ...back.toMake],
      async fillFiles(files) {
        for (const [index, file] of files.entries()) {
          const plan = planned[index]?.overlay.overlay;
          if (plan) await writeImage({ file }, plan);
        }
        await back.fill(files.slice(planned.length));
      },
      redo: back.redo,
      removes: planned.flatMap(({ removes }) => removes),
      chains: [...planned, back].flatMap(({ chains }) => chains),
    };
  },
};

const BEFORE = "before rollback to ";

/** By which it is called: one that a rollback made by its number, or names would grow with each. */
function sayShort({ number, name }: Pick<Snapshot, "number" | "name">): string {
  return name === null || name.startsWith(BEFORE) ? String(number) : name;
}

function freeName({ snapshots }: DeviceTable, name: string): string {
  const taken = new Set(snapshots.map((ref) => ref.name));
  const short = name.slice(0, 120);
  for (let number = 1; ; number += 1) {
    const candidate = number === 1 ? short : `${short} (${number})`;
    if (!taken.has(candidate)) return candidate;
  }
}

/** The one that is named, by name, number or time; else the newest that keeps one of the devices. */
async function findSnapshot(
  named: readonly string[],
  to: string | undefined,
  context: PlanContext,
): Promise<Snapshot> {
  const { table, snapshots } = context;
  for (const device of named) requireDevice(table, device);
  const until = to === undefined || isKnown(table, to) ? undefined : readTime(to);
  if (to !== undefined && until === undefined) {
    const snapshot = await snapshots.read(requireSnapshot(table, to));
    const missing = named.find((name) => snapshot.devices.every(({ device }) => device !== name));
    if (missing !== undefined) throw keepsNot(snapshot, missing);
    return snapshot;
  }
  const wanted = named.length === 0 ? table.devices.map(({ name }) => name) : named;
  // Not by halves: where the clock was set back, they do not stand in the order of their times.
  for (const ref of table.snapshots.toReversed()) {
    const snapshot = await snapshots.read(ref);
    if (until !== undefined && Date.parse(snapshot.created) > until) continue;
    if (snapshot.devices.some(({ device }) => wanted.includes(device))) {
      const missing = named.find((name) => snapshot.devices.every(({ device }) => device !== name));
      if (missing !== undefined) throw keepsNot(snapshot, missing);
      return snapshot;
    }
  }
  throw new ImgtxError(
    "E_NOT_FOUND",
    to === undefined
      ? "no snapshot keeps any of the devices"
      : `no snapshot of the devices is as old as ${to}`,
    { hint: "`imgtx snapshot-list` lists them" },
  );
}

function isKnown({ snapshots }: DeviceTable, wanted: string): boolean {
  return snapshots.some(({ number, name }) => name === wanted || String(number) === wanted);
}

async function planOne(
  { device, ...sealed }: SealedDevice,
  snapshot: Snapshot,
  context: PlanContext,
  how: {
    readonly taken: ReadonlySet<string>;
    readonly isDiscarding: boolean;
    /** With those that go back before this one. */
    readonly table: DeviceTable;
  },
) {
  const before = requireDevice(context.table, device);
  assertNotFrozen(before, "going back would move it to another image");
  const kept = await context.snapshots.chainOf(snapshot, device);
  const [top] = kept;
  if (!top) throw new Error("a sealed device has an image");
  const chain = await context.openChain(top.image, top.format, device, sealed.trusted);
  const doubts = judgeSealed(device, snapshot, await withTimesLeft(kept, context), chain);
  const path = await nameOverlay({ name: device, image: top.image }, sayShort(snapshot), how.taken, context);
  const overlay = await planNewOverlay(
    device,
    chain,
    await context.canonicalPath(path, device),
    { relative: undefined, options: {} },
    { ...context, table: how.table },
  );
  const marks = new Map(
    kept.map(({ image, sealedBy, isMade }) => [
      image,
      { ...(sealedBy !== undefined && { sealedBy }), ...(isMade !== undefined && { isMade }) },
    ]),
  );
  const entry = withTrusted(deviceEntryOf(device, chain, before), sealed.trusted ?? []);
  const after = entryOn(entry, {
    ...overlay,
    chain: overlay.chain.map((one) => ({ ...one, ...marks.get(one.image) })),
  });
  // Where what the device leaves can't be opened, going back is the way out.
  const present = await unlessItFails(() => context.openChain(before.image, before.format, device));
  const removes = how.isDiscarding && present ? await findDiscarded(before, present, context) : [];
  const files = [
    { path: after.image, change: "create" as const },
    ...removes.map((file) => ({ path: file, change: "remove" as const })),
  ];
  return {
    device,
    overlay,
    after,
    removes,
    isThere: present !== undefined,
    chains: [{ device, chain }, ...(present ? [{ device, chain: present }] : [])],
    report: {
      kind: "rollback" as const,
      device,
      before: before.image,
      after: after.image,
      format: after.format,
      files,
      notes: [
        { code: "back to a snapshot", number: snapshot.number, image: top.image } as const,
        ...(present && removes.length === 0 && how.isDiscarding
          ? [{ code: "image left", image: before.image } as const]
          : []),
        ...notesOnMirrorLeft(before),
        ...doubts,
        ...noteOnDepth(device, chain),
      ],
    },
  };
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

function keepsNot(snapshot: Snapshot, device: string): ImgtxError {
  const names = snapshot.devices.map((one) => one.device).join(", ");
  return new ImgtxError("E_REFUSED", `snapshot ${sayShort(snapshot)} does not keep '${device}'`, {
    device,
    hint: `it keeps ${names}; \`imgtx snapshot-list ${device}\` lists those that keep '${device}'`,
  });
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

function keepsNone(snapshot: Snapshot, kept: readonly SealedDevice[]): ImgtxError {
  return new ImgtxError(
    "E_REFUSED",
    `no device that snapshot ${sayShort(snapshot)} keeps is in the table any more: ${kept.map(({ device }) => device).join(", ")}`,
    { hint: "add it again with `imgtx device add NAME FILE`, and go back then" },
  );
}
