// The `devices` folder: a view of the table for other programs, so that QEMU opens devices/vda.
//
// QEMU resolves a relative backing file name beside the name that it was given, without following links
// (facts of its block layer: path_combine). So beside the link vda the view has a link for each relative
// name that the chain would look up there, with real folders in between. Names that climb (`../base.img`)
// work because the view lies as many folders deep as the deepest climb.
//
// Invariants
// - Derived from the table alone. Nothing in imgtx reads an image through it.
// - A name that two chains need for different files would give one of the guests a wrong disk: then the
//   later device is left out of the view, and the caller is told.
// - A view is built whole under its own name and flipped with one rename of `devices`. One that was built
//   and not flipped to is nobody's, and built anew.
// - Only links and folders go with an old view. Other programs may put files into `devices`, and so into the
//   view's folder: they stay, as does anything but imgtx's own link under the name `devices`.

import { posix } from "node:path";
import { isProtocolName } from "../format/index.ts";
import { ImgtxError } from "../errors/index.ts";
import { shellQuote } from "../format/index.ts";
import type { DeviceEntry } from "./device-entry.ts";
import type { DeviceTable } from "./device-table.ts";
import { clearTheWay, inTheWay } from "./in-the-way.ts";
import { isInside, pathBelow } from "./stored-path.ts";
import { pathsOf, refuseForeignDevices, type Workspace } from "./workspace.ts";

export interface View {
  /** What `devices` points to, relative to the workspace: .imgtx/view/42, with a folder per climb. */
  readonly folder: string;
  /** Path of each link, relative to .imgtx/view/N, with the absolute path that it leads to. */
  readonly links: ReadonlyMap<string, string>;
  /** Folders that lookups go through, in the same form. */
  readonly folders: ReadonlySet<string>;
  readonly omitted: readonly Omitted[];
}

/** A device that can't be shown. */
interface Omitted {
  readonly device: string;
  /** A clause. */
  readonly why: string;
  /** The relative name that stands in the way, and who stores it; null: the device's own name does. */
  readonly name: { readonly overlay: string; readonly image: string; readonly format: string } | null;
}

/** Images choose their backing names: one that climbs on and on must not make paths too long to be made. */
const MOST_CLIMBS = 64;

/** Names the folders that climbs go up through; unlikely as the name of an image. */
const CLIMB = "up";

export function planView(table: DeviceTable): View {
  const wanted = table.devices.map((device) => ({ device: device.name, lookups: lookupsOf(device) }));
  const climbs = Math.max(0, ...wanted.map(({ lookups }) => highestClimb(lookups)).filter(isClimbable));
  const climbed = Array.from({ length: climbs }, (_, depth) => CLIMB.concat(`/${CLIMB}`.repeat(depth)));
  const below = climbed.at(-1) ?? "";
  const names = new Set(wanted.map(({ device }) => posix.join(below, device)));
  const links = new Map<string, string>();
  const folders = new Set(climbed);
  const omitted: Omitted[] = [];
  for (const { device, lookups } of wanted) {
    if (!isClimbable(highestClimb(lookups))) {
      omitted.push({
        device,
        why: `a backing file name of its chain climbs more than ${MOST_CLIMBS} folders`,
        name: lookups.find(({ at }) => !isClimbable(countClimbs(at)))?.stored ?? null,
      });
      continue;
    }
    const own = new Map<string, string>();
    const ownFolders = new Set<string>();
    const clash = lookups.find(({ at, image }, depth) => {
      const link = posix.join(below, at);
      const through = foldersThrough(posix.join(below, "x"), at);
      if ((own.get(link) ?? links.get(link) ?? image) !== image) return true;
      if (folders.has(link) || ownFolders.has(link) || (depth > 0 && names.has(link))) return true;
      if (through.some((folder) => links.has(folder) || own.has(folder) || names.has(folder))) return true;
      own.set(link, image);
      for (const folder of through) ownFolders.add(folder);
      return false;
    });
    if (clash) {
      const why = `'${clash.at}' would lead to another device's image there`;
      omitted.push({ device, why, name: clash.stored });
      continue;
    }
    for (const [link, image] of own) links.set(link, image);
    for (const folder of ownFolders) folders.add(folder);
  }
  return { folder: posix.join(`.imgtx/view/${table.generation}`, below), links, folders, omitted };
}

/** E_REFUSED where a device of the next table would not be shown, and no such device is in the present one. */
export function assertShown(present: DeviceTable, next: DeviceTable): void {
  const before = new Set(planView(present).omitted.map(({ device }) => device));
  const hidden = planView(next).omitted.find(({ device }) => !before.has(device));
  if (!hidden) return;
  const { device, why, name } = hidden;
  const isThere = present.devices.some(({ chain }) => chain.some(({ image }) => image === name?.overlay));
  throw new ImgtxError("E_REFUSED", `devices/${device} could not be shown: ${why}`, {
    device,
    ...(name && { image: name.overlay, field: "backing_file_name" }),
    hint: `QEMU looks a relative backing file name up in 'devices': ${wayAround(name, isThere)}, or keep the devices in two workspaces`,
  });
}

function wayAround(name: Omitted["name"], isThere: boolean): string {
  if (!name) return "take another name for the device";
  const { overlay, image, format } = name;
  const rebase = `qemu-img rebase -u -F ${format} -b ${shellQuote(image)} ${shellQuote(overlay)}`;
  const absolute = `make it absolute while no guest runs, \`${rebase}\``;
  return isThere ? absolute : `leave --relative out for a new overlay, or ${absolute}`;
}

/** Whether `devices` shows this table. */
export async function isViewPresent(workspace: Workspace, table: DeviceTable): Promise<boolean> {
  const { storage } = workspace;
  const view = planView(table);
  if ((await readLinkIfThere(workspace, pathsOf(workspace).devices)) !== view.folder) return false;
  for (const [at, image] of view.links) {
    const path = posix.join(generationFolder(workspace, table.generation), at);
    if ((await readLinkIfThere(workspace, path)) !== linkTarget(workspace, path, image)) return false;
  }
  return (await storage.stat(posix.join(workspace.root, view.folder))) !== undefined;
}

/** Builds the table's view and flips to it. */
export async function showView(workspace: Workspace, table: DeviceTable): Promise<void> {
  await buildView(workspace, table);
  await flipView(workspace);
  await removeOldViews(workspace, table.generation);
}

/** The first step: all that needs space on the disk, where nobody sees it yet. */
export async function buildView(workspace: Workspace, table: DeviceTable): Promise<void> {
  const { storage } = workspace;
  const view = planView(table);
  const folder = generationFolder(workspace, table.generation);
  await refuseForeignDevices(workspace);
  await removeView(workspace, folder);
  await makeFolders(workspace, posix.join(workspace.root, view.folder));
  for (const at of view.folders) await makeFolders(workspace, posix.join(folder, at));
  for (const [at, image] of view.links) {
    const path = posix.join(folder, at);
    await storage.makeSymlink(linkTarget(workspace, path, image), path);
  }
  await removeFreshLink(workspace);
  await storage.makeSymlink(view.folder, freshLink(workspace));
}

/** The second. */
export async function flipView(workspace: Workspace): Promise<void> {
  await workspace.storage.rename(freshLink(workspace), pathsOf(workspace).devices);
}

/** Takes back the first step. */
export async function discardView(workspace: Workspace, generation: number): Promise<void> {
  await removeFreshLink(workspace);
  await removeView(workspace, generationFolder(workspace, generation));
}

interface Lookup {
  /** The path that QEMU composes, relative to `devices`, not normalised. */
  readonly at: string;
  readonly image: string;
  /** Where the name is stored; null for the device's own. */
  readonly stored: Omitted["name"];
}

function lookupsOf(device: DeviceEntry): Lookup[] {
  const lookups: Lookup[] = [{ at: device.name, image: device.image, stored: null }];
  let folder = "";
  for (const [index, { name, image, format }] of device.chain.slice(1).entries()) {
    // After an absolute name, or file:NAME, QEMU is out of the view for good.
    if (name === null || posix.isAbsolute(name) || isProtocolName(name)) break;
    const at = folder + name;
    lookups.push({ at, image, stored: { overlay: device.chain[index]?.image ?? "", image, format } });
    folder = at.slice(0, at.lastIndexOf("/") + 1);
  }
  return lookups;
}

function highestClimb(lookups: readonly Lookup[]): number {
  return Math.max(...lookups.map(({ at }) => countClimbs(at)));
}

function isClimbable(climbs: number): boolean {
  return climbs <= MOST_CLIMBS;
}

/** How many folders above `devices` the path goes at its highest. */
function countClimbs(path: string): number {
  let depth = 0;
  let lowest = 0;
  for (const part of path.split("/")) {
    if (part === "..") depth -= 1;
    else if (part !== "." && part !== "") depth += 1;
    lowest = Math.min(lowest, depth);
  }
  return -lowest;
}

/** Every folder that the kernel goes through to look up the path: `a/../b.img` needs a folder `a`. */
function foldersThrough(device: string, path: string): string[] {
  const parts = posix
    .dirname(device)
    .split("/")
    .filter((part) => part !== ".");
  const folders: string[] = [];
  for (const part of path.split("/").slice(0, -1)) {
    if (part === "..") parts.pop();
    else if (part !== "." && part !== "") parts.push(part);
    if (parts.length > 0) folders.push(parts.join("/"));
  }
  return folders;
}

/** Relative inside the workspace, so that it can be moved; absolute to what lies outside. */
function linkTarget(workspace: Workspace, path: string, image: string): string {
  const { root } = workspace;
  if (!isInside(root, image)) return image;
  const climb = "../".repeat(pathBelow(root, path).split("/").length - 1);
  return climb + pathBelow(root, image);
}

function generationFolder(workspace: Workspace, generation: number): string {
  return `${pathsOf(workspace).views}/${generation}`;
}

async function readLinkIfThere(workspace: Workspace, path: string): Promise<string | undefined> {
  const there = await workspace.storage.statLink(path);
  return there?.kind === "symlink" ? await workspace.storage.readSymlink(path) : undefined;
}

function freshLink(workspace: Workspace): string {
  return `${pathsOf(workspace).own}/devices.new`;
}

async function removeFreshLink(workspace: Workspace): Promise<void> {
  await clearTheWay(workspace.storage, freshLink(workspace));
}

async function makeFolders(workspace: Workspace, folder: string): Promise<void> {
  const there = await workspace.storage.statLink(folder);
  if (there && there.kind !== "folder") throw inTheWay(folder, "a folder of its view");
  if (there) return;
  await makeFolders(workspace, posix.dirname(folder));
  await workspace.storage.makeFolder(folder, 0o755);
}

/** Removes links, and folders that nothing else is in. True when all of it is gone. */
async function removeView(workspace: Workspace, folder: string): Promise<boolean> {
  const { storage } = workspace;
  if ((await storage.statLink(folder))?.kind !== "folder") return false;
  let isEmpty = true;
  for (const name of await storage.readFolder(folder)) {
    const path = `${folder}/${name}`;
    if (await readLinkIfThere(workspace, path)) await storage.removeFile(path);
    else if (!(await removeView(workspace, path))) isEmpty = false;
  }
  if (isEmpty) await storage.removeFolder(folder);
  return isEmpty;
}

/** The last one. The view of the generation before stays, for who has it open. */
export async function removeOldViews(workspace: Workspace, generation: number): Promise<void> {
  const { views } = pathsOf(workspace);
  for (const name of await workspace.storage.readFolder(views)) {
    const number = /^\d+$/.test(name) ? Number(name) : undefined;
    if (number !== undefined && number !== generation && number !== generation - 1) {
      await removeView(workspace, `${views}/${name}`);
    }
  }
}
