// What a rollback goes back to: the snapshot, those of its devices that go, and for each the chain that is sealed, and where its
// new overlay comes to be.

import {
  requireDevice,
  requireSnapshot,
  type SealedDevice,
  type Snapshot,
  type DeviceTable,
} from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import { readTime } from "../../../units/index.ts";
import type { RollbackRequest } from "../../requests/way-back-requests.ts";
import { assertNamedOnce, type PlanContext } from "../plan/action.ts";
import { nameOverlay } from "../plan/new-overlay.ts";

export const BEFORE = "before rollback to ";

/** By which it is called: one that a rollback made by its number, or names would grow with each. */
export function sayShort({ number, name }: Pick<Snapshot, "number" | "name">): string {
  return name === null || name.startsWith(BEFORE) ? String(number) : name;
}

/** What goes back, and to what. E_REFUSED for a device that does not, and has a file named. */
export async function findSealed(
  { devices: named, to, overlays = [] }: RollbackRequest,
  context: PlanContext,
): Promise<{
  readonly snapshot: Snapshot;
  readonly kept: readonly SealedDevice[];
  readonly sealed: readonly SealedDevice[];
}> {
  assertNamedOnce(named);
  const snapshot = await findSnapshot(named, to, context);
  const kept = snapshot.devices.filter(({ device }) => named.length === 0 || named.includes(device));
  const sealed = kept.filter(({ device }) => context.table.devices.some(({ name }) => name === device));
  if (sealed.length === 0) throw keepsNone(snapshot, kept);
  const stray = overlays.find((one) => sealed.every(({ device }) => device !== one.device));
  if (stray !== undefined) throw keepsNot(snapshot, stray.device);
  return { snapshot, kept, sealed };
}

/** The chain that a device goes back to, and where its new overlay comes to be. */
export async function findPlace(
  { device, trusted }: SealedDevice,
  snapshot: Snapshot,
  context: PlanContext,
  { taken, request }: { readonly taken: ReadonlySet<string>; readonly request: RollbackRequest },
) {
  const { provision } = requireDevice(context.table, device);
  const chainKept = await context.snapshots.chainOf(snapshot, device);
  const [top] = chainKept;
  if (!top) throw new Error("a sealed device has an image");
  const chain = await context.openChain(top.image, top.format, device, trusted);
  const hint = `name its file: \`imgtx rollback ${device}=FILE --to ${snapshot.number}\``;
  const file =
    request.overlays?.find((one) => one.device === device)?.file ??
    (await nameOverlay(
      { name: device, image: top.image, provision },
      { after: sayShort(snapshot), taken, hint },
      context,
    ));
  return { kept: chainKept, top, chain, path: await context.canonicalPath(file, device) };
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
    return keepingAll(await snapshots.read(requireSnapshot(table, to)), named);
  }
  const wanted = named.length === 0 ? table.devices.map(({ name }) => name) : named;
  // Not by halves: where the clock was set back, they do not stand in the order of their times.
  for (const ref of table.snapshots.toReversed()) {
    const snapshot = await snapshots.read(ref);
    if (until !== undefined && Date.parse(snapshot.created) > until) continue;
    if (snapshot.devices.some(({ device }) => wanted.includes(device))) return keepingAll(snapshot, named);
  }
  throw new ImgtxError(
    "E_NOT_FOUND",
    to === undefined
      ? "no snapshot keeps any of the devices"
      : `no snapshot of the devices is as old as ${to}`,
    { hint: "`imgtx snapshot-list` lists them" },
  );
}

/** E_REFUSED where it keeps one of them not. */
function keepingAll(snapshot: Snapshot, named: readonly string[]): Snapshot {
  const missing = named.find((name) => snapshot.devices.every(({ device }) => device !== name));
  if (missing !== undefined) throw keepsNot(snapshot, missing);
  return snapshot;
}

function isKnown({ snapshots }: DeviceTable, wanted: string): boolean {
  return snapshots.some(({ number, name }) => name === wanted || String(number) === wanted);
}

function keepsNot(snapshot: Snapshot, device: string): ImgtxError {
  const names = snapshot.devices.map((one) => one.device).join(", ");
  return new ImgtxError("E_REFUSED", `snapshot ${sayShort(snapshot)} does not keep '${device}'`, {
    device,
    hint: `it keeps ${names}; \`imgtx snapshot-list ${device}\` lists those that keep '${device}'`,
  });
}

function keepsNone(snapshot: Snapshot, kept: readonly SealedDevice[]): ImgtxError {
  return new ImgtxError(
    "E_REFUSED",
    `no device that snapshot ${sayShort(snapshot)} keeps is in the table any more: ${kept.map(({ device }) => device).join(", ")}`,
    { hint: "add it again with `imgtx device add NAME FILE`, and go back then" },
  );
}
