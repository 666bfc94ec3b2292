// A device's chain, active layer on top and base at the bottom, one line an image: chains can be deep,
// so nothing is indented by depth.

import { shellQuote } from "../../format/index.ts";
import { formatBytes, sayTime } from "../../units/index.ts";
import type { DeviceDescription, MirrorStanding } from "../../transaction/index.ts";
import type { Canvas } from "./canvas.ts";
import { foldLabelled, widthOf, withName, wordsOf } from "./layout.ts";

const SNAPSHOTS_TOLD = 3;

export function drawChains(devices: readonly DeviceDescription[], canvas: Canvas): string[] {
  const users = usersOfImages(devices);
  return devices.flatMap((device, index) => [
    ...(index === 0 ? [] : [""]),
    ...drawChain(device, users, canvas),
  ]);
}

function drawChain(
  device: DeviceDescription,
  users: ReadonlyMap<string, readonly string[]>,
  canvas: Canvas,
): string[] {
  const { paint, branch } = canvas;
  const chain = device.chain.length > 0 ? device.chain : [{ image: device.image, format: device.format }];
  const abouts = chain.map(({ image, format }, depth) => {
    const others = (users.get(image) ?? []).filter((name) => name !== device.name);
    const role = depth === 0 ? ["active layer"] : depth === chain.length - 1 ? ["base"] : [];
    const fence = device.fences.includes(image) ? ["fenced"] : [];
    return [
      format,
      ...role,
      ...fence,
      ...(others.length > 0 ? [`also under ${others.join(", ")}`] : []),
    ].join(", ");
  });
  const column = columnOf(chain, abouts, canvas);
  const lines = chain.flatMap(({ image }, depth) => {
    const last = depth === chain.length - 1 && device.problem === null;
    const about = paint.dim(abouts[depth] ?? "");
    const head = `${paint.dim(last ? branch.last : branch.more)} ${depth === 0 ? paint.green(image) : image}`;
    if (column === 0) return [head, `${paint.dim(last ? " " : branch.bar)}      ${about}`];
    return [`${head}${" ".repeat(column - widthOf(image))}${about}`];
  });
  const problem = device.problem === null ? [] : [`${paint.dim(branch.last)} ${paint.red(device.problem)}`];
  return [...drawHead(device, canvas), ...lines, ...problem];
}

function drawHead(device: DeviceDescription, canvas: Canvas): string[] {
  const { paint } = canvas;
  const facts = [
    device.virtualSizeBytes === null ? undefined : formatBytes(device.virtualSizeBytes),
    device.frozen ? drawFrozen(device) : undefined,
    device.mirror === null ? undefined : drawMirror(device.mirror),
    device.snapshots === undefined || device.snapshots.length === 0
      ? undefined
      : saySnapshots(device.snapshots),
    device.unfinishedCopy ? drawUnfinished(device.unfinishedCopy) : undefined,
    device.provision === undefined ? undefined : `volumes by ${device.provision.map(shellQuote).join(" ")}`,
    device.transaction === null ? undefined : `in transaction ${device.transaction}`,
  ].filter((fact) => fact !== undefined);
  const { name } = device;
  if (facts.length === 0) return [paint.bold(name)];
  const how = { spaces: 4, paintLabel: paint.bold, paint: paint.dim };
  return foldLabelled(wordsOf(`${name}  ${facts.join(", ")}`), name, canvas, how);
}

/** `snapshots 27 (nightly), 26 and 12 more` */
function saySnapshots(snapshots: NonNullable<DeviceDescription["snapshots"]>): string {
  const names = snapshots.map(({ number, name }) => withName(number, name));
  const more = names.length > SNAPSHOTS_TOLD ? ` and ${names.length - SNAPSHOTS_TOLD} more` : "";
  return `snapshot${names.length === 1 ? "" : "s"} ${names.slice(0, SNAPSHOTS_TOLD).join(", ")}${more}`;
}

/** `mirror /b/m.qcow2 (qcow2), 3 MiB behind, last in sync 2012-03-05 14:03:11Z` */
function drawMirror(mirror: NonNullable<DeviceDescription["mirror"]>): string {
  const { image, format, syncedAt, standing } = mirror;
  const isInSync = standing?.problem === null && standing.behindBytes === 0;
  const last = syncedAt === null || isInSync ? [] : [`last in sync ${sayTime(syncedAt)}`];
  return [`mirror ${image} (${format})`, ...(standing ? [sayStanding(standing)] : []), ...last].join(", ");
}

/** `in sync`, `up to 3 MiB behind`, `behind: unknown, compare`, `missing` */
export function sayStanding({ behindBytes, problem, isMissing }: MirrorStanding): string {
  if (problem !== null) return isMissing ? "missing" : "broken";
  if (behindBytes === null) return "behind: unknown, compare";
  return behindBytes === 0 ? "in sync" : `up to ${formatBytes(behindBytes)} behind`;
}

/** `unfinished copy /disks/m.qcow2 (3 GiB so far)` */
function drawUnfinished({ image, copiedBytes }: NonNullable<DeviceDescription["unfinishedCopy"]>): string {
  return `unfinished copy ${image} (${formatBytes(copiedBytes)} so far)`;
}

/** Where what is said of the images begins, so that it stands in a column; 0 where it has to go below. */
function columnOf(chain: DeviceDescription["chain"], abouts: readonly string[], { columns }: Canvas): number {
  const widestImage = Math.max(...chain.map(({ image }) => widthOf(image)));
  const widestAbout = Math.max(...abouts.map((about) => widthOf(about)));
  const fits = columns === undefined || "├─ ".length + widestImage + 2 + widestAbout <= columns;
  return fits ? widestImage + 2 : 0;
}

function usersOfImages(devices: readonly DeviceDescription[]): ReadonlyMap<string, readonly string[]> {
  const users = new Map<string, string[]>();
  for (const { name, chain } of devices) {
    for (const { image } of chain) users.set(image, [...(users.get(image) ?? []), name]);
  }
  return users;
}

/** `frozen since 2012-03-05 14:03:11Z by root` */
export function drawFrozen({ frozenSince, frozenBy }: DeviceDescription): string {
  const since = frozenSince === null ? "" : ` since ${sayTime(frozenSince)}`;
  return `frozen${since}${frozenBy === null ? "" : ` by ${frozenBy}`}`;
}
