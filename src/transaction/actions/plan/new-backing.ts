// A device's active layer on another backing image, or on none: what pull and rebase have in common. What the device shows
// stays: what would be missing is copied up into the layer at the commit, and its header changes then.

import { posix } from "node:path";
import {
  type DeviceEntry,
  type MirrorEntry,
  requireDevice,
  trustedBy,
  withTrusted,
} from "../../../device/index.ts";
import { ImgtxError, withPlace } from "../../../errors/index.ts";
import {
  assertCopyable,
  assertMayStandOn,
  assertNoSnapshots,
  type Chain,
  type ChainLink,
  identityOf,
  isProtocolName,
  judgeBacking,
  makeRelativeName,
  pathsOfLink,
} from "../../../format/index.ts";
import type { PlannedReport } from "../../journal/index.ts";
import type { Note } from "../../notes/notes.ts";
import type { Plan, PlannedCopyStep, PlanContext } from "./action.ts";
import { activeLayer, chainEntriesOf, placeOf } from "./chain-entry.ts";
import { assertNotFrozen } from "./fencing.ts";
import { mirrorOfSameContent, mirrorOnSameContent } from "./mirror-scope.ts";

/** A device whose active layer may be given another backing image. */
export interface Standing {
  readonly entry: DeviceEntry;
  readonly chain: Chain;
  readonly top: ChainLink;
  /** What it stands on, the uppermost first. */
  readonly below: readonly ChainLink[];
}

/** E_REFUSED where its active layer may not be written to. isAlone: that is looked at by itself, whatever it stands on. */
export async function findStanding(
  device: string,
  context: PlanContext,
  { isAlone = false } = {},
): Promise<Standing> {
  const entry = requireDevice(context.table, device);
  assertNotFrozen(entry, "its image may not be written to");
  const chain = await context.openChain(entry.image, entry.format, device, [], { isAlone });
  const top = activeLayer(chain);
  assertMayBeCopiedUp(device, top, context);
  return { entry, chain, top, below: chain.links.slice(1) };
}

/** E_REFUSED where earlier statements of the transaction change it at the commit alone, in a way that has to come before. */
export function assertMayBeCopiedUp(
  device: string,
  { path: image }: ChainLink,
  { copiedInto, changedLast }: Pick<PlanContext, "copiedInto" | "changedLast">,
): void {
  const before = copiedInto.get(image);
  const isUpAlone =
    before === undefined ||
    (before.late === undefined && before.up !== undefined && before.up.until === undefined);
  if (isUpAlone && !changedLast.has(image)) return;
  throw new ImgtxError(
    "E_REFUSED",
    "what an earlier action does to it comes only with the commit of the transaction",
    {
      device,
      image,
      hint: "commit the transaction first",
    },
  );
}

/** What it is to stand on: the links of another chain, and the name that its header is to have. */
export interface NewStanding {
  readonly below: readonly ChainLink[];
  /** Undefined: it is to stand on nothing. */
  readonly name: string | undefined;
  readonly leavesOutEqual: boolean;
  readonly isCompressed: boolean;
  readonly notes: readonly Note[];
}

/** E_REFUSED, E_UNSUPPORTED, E_OUTSIDE or E_LOOP where it can't stand on that. */
export async function assertMayStand(
  { entry, top }: Standing,
  { below, name }: Pick<NewStanding, "below" | "name">,
  context: PlanContext,
): Promise<void> {
  await withPlace({ device: entry.name, image: top.path }, async () => {
    const [first] = below;
    const gate = context.gateOf(entry.name);
    const trusted = { ...gate, allowPaths: [...gate.allowPaths, ...trustedOf(below)] };
    await assertMayStandOn(context.storage, trusted, top, { links: below });
    judgeBacking(top, first && name !== undefined ? { name, format: first.format } : undefined);
  });
}

/** The operator named it himself. */
function trustedOf([first]: readonly ChainLink[]): readonly string[] {
  return first?.format === "raw" ? [first.path] : [];
}

/** The device's entry when its active layer stands on that. */
export function entryOnNew(
  { entry, top, chain }: Standing,
  standing: Pick<NewStanding, "below" | "name">,
): DeviceEntry {
  return entryWith(entry, chain, [top], standing);
}

/** The same where it stays on these, of which the lowest gets another backing image. */
export function entryWith(
  entry: DeviceEntry,
  chain: Chain,
  above: readonly ChainLink[],
  standing: Pick<NewStanding, "below" | "name">,
): DeviceEntry {
  const links = linksOn(above, standing);
  const place = placeOf({ links, close: () => Promise.reject(new Error("the chain is another's")) });
  const mirror = mirrorOfSameContent(entry.mirror, chain, place.chain);
  return { ...withTrusted(entry, [...trustedBy(entry), ...trustedOf(standing.below)]), ...place, mirror };
}

/** The same of a mirror, which is as much in sync as it was. */
export function mirrorWith(
  mirror: MirrorEntry,
  chain: Chain,
  above: readonly ChainLink[],
  standing: Pick<NewStanding, "below" | "name">,
): MirrorEntry {
  return mirrorOnSameContent(mirror, chain, chainEntriesOf({ links: linksOn(above, standing) }));
}

function linksOn(
  above: readonly ChainLink[],
  { below: [first, ...rest], name }: Pick<NewStanding, "below" | "name">,
): ChainLink[] {
  return [...above, ...(first ? [{ ...first, name }, ...rest] : [])];
}

/** The parts of a plan that move one device. */
export async function planNewStanding(
  kind: PlannedReport["kind"],
  standing: Standing,
  after: NewStanding,
  context: PlanContext,
) {
  await assertMayStand(standing, after, context);
  return {
    report: reportOf(kind, standing, after.notes),
    change: { device: standing.entry.name, after: entryOnNew(standing, after) },
    copies: [await planCopyUp(standing, after, context)],
  };
}

/** The copy step by which a layer may stand on another image. Refused where what it has can't stay what it is. */
export async function planCopyUp(
  { entry, top, below }: Pick<Standing, "entry" | "top" | "below">,
  after: Omit<NewStanding, "notes">,
  { storage, gate }: PlanContext,
): Promise<PlannedCopyStep> {
  await withPlace({ device: entry.name, image: top.path }, async () => {
    await assertNoSnapshots(top);
    await assertCopyable(storage, { path: top.path, format: top.format }, gate);
  });
  const [first] = after.below;
  return {
    kind: "up",
    from: below[0]?.path ?? first?.path ?? top.path,
    files: differing(below, after.below).flatMap(pathsOfLink),
    into: top.path,
    format: top.format,
    up: {
      onto:
        first && after.name !== undefined
          ? { path: first.path, format: first.format, name: after.name }
          : null,
      leavesOutEqual: after.leavesOutEqual,
      isCompressed: after.isCompressed,
    },
  };
}

export function reportOf(
  kind: PlannedReport["kind"],
  { entry: { name: device }, top: { path, format } }: Standing,
  notes: readonly Note[],
  changes = true,
): PlannedReport {
  const files = changes ? [{ path, change: "change" as const }] : [];
  return { kind, device, before: path, after: path, format, files, notes };
}

/** What the device stands on: the uppermost of these. */
export function noteOnStanding([first]: readonly ChainLink[], isAlready: boolean): Note {
  return first
    ? { code: "stands on", image: first.path, isAlready }
    : { code: "stands on nothing", isAlready };
}

/** Images that only one of two chains has: what both have shows the same in both. */
function differing(one: readonly ChainLink[], other: readonly ChainLink[]): ChainLink[] {
  const keys = (links: readonly ChainLink[]) => new Set(links.map(({ stat }) => identityOf(stat)));
  const [first, second] = [keys(one), keys(other)];
  return [
    ...one.filter(({ stat }) => !second.has(identityOf(stat))),
    ...other.filter(({ stat }) => !first.has(identityOf(stat))),
  ];
}

/** The name under which the image is to be stored in the header of the other one. */
export async function nameFor(
  { storage }: Pick<PlanContext, "storage">,
  overlay: ChainLink,
  image: string,
  isRelative: boolean,
): Promise<string> {
  return isRelative ? await makeRelativeName(storage, posix.dirname(overlay.path), image) : image;
}

/** The same for an image that another one stores, the overlay being what is to: relative names stay relative. */
export async function nameAsBefore(
  overlay: ChainLink,
  image: ChainLink,
  storedBy: ChainLink | undefined,
  context: Pick<PlanContext, "storage">,
): Promise<string> {
  const { name = image.path } = image;
  const isRelative = !name.startsWith("/") && !isProtocolName(name);
  if (isRelative && storedBy && posix.dirname(storedBy.path) === posix.dirname(overlay.path)) return name;
  return await nameFor(context, overlay, image.path, isRelative);
}

/** What the plan of several such devices is made of. */
export function joinStandings(
  devices: readonly string[],
  parts: readonly {
    readonly report: PlannedReport;
    readonly change: Plan["changes"][number] | undefined;
    readonly copies: readonly PlannedCopyStep[];
    readonly chains: Plan["chains"];
  }[],
): Pick<Plan, "devices" | "reports" | "changes" | "copies" | "chains" | "allowPaths"> {
  return {
    devices,
    allowPaths: [],
    reports: parts.map(({ report }) => report),
    changes: parts.flatMap(({ change }) => change ?? []),
    copies: parts.flatMap(({ copies }) => copies),
    chains: parts.flatMap(({ chains }) => chains),
  };
}
