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
// - A view is built whole under its own name and flipped with one rename of `devices`.

import { posix } from "node:path";
import type { DeviceEntry, DeviceTable } from "./device-table.ts";
import { isInside } from "./stored-path.ts";
import { pathsOf, type Workspace } from "./workspace.ts";

export interface View {
  /** What `devices` points to, relative to the workspace: .imgtx/view/42, with a folder per climb. */
  readonly folder: string;
  /** Path of each link, relative to .imgtx/view/N, with the absolute path that it leads to. */
  readonly links: ReadonlyMap<string, string>;
  readonly omitted: readonly { readonly device: string; readonly clash: string }[];
}

const CLIMB = "d";

export function planView(table: DeviceTable): View {
  const wanted = table.devices.map((device) => ({ device: device.name, links: linksOf(device) }));
  const climbs = Math.max(0, ...wanted.flatMap(({ links }) => links.map(({ at }) => countClimbs(at))));
  const below = Array.from({ length: climbs }, () => CLIMB).join("/");
  const names = new Set(wanted.map(({ device }) => posix.join(below, device)));
  const links = new Map<string, string>();
  const folders = new Set<string>();
  const omitted: { device: string; clash: string }[] = [];
  for (const { device, links: relative } of wanted) {
    const own = relative.map(({ at, image }) => ({ at: posix.join(below, at), image }));
    const clash = own.find(({ at, image }, index) => {
      if ((links.get(at) ?? image) !== image || folders.has(at)) return true;
      if (foldersAbove(at).some((folder) => links.has(folder) || names.has(folder))) return true;
      return index > 0 && names.has(at);
    });
    if (clash) {
      omitted.push({ device, clash: posix.relative(below, clash.at) });
      continue;
    }
    for (const { at, image } of own) {
      links.set(at, image);
      for (const folder of foldersAbove(at)) folders.add(folder);
    }
  }
  return { folder: posix.join(`.imgtx/view/${table.generation}`, below), links, omitted };
}

/** Whether `devices` shows this table. */
export async function isViewPresent(workspace: Workspace, table: DeviceTable): Promise<boolean> {
  const { storage } = workspace;
  const view = planView(table);
  if ((await readLinkIfThere(workspace, pathsOf(workspace).devices)) !== view.folder) return false;
  for (const [at, image] of view.links) {
    const path = posix.join(generationFolder(workspace, table), at);
    if ((await readLinkIfThere(workspace, path)) !== linkTarget(workspace, path, image)) return false;
  }
  return (await storage.stat(posix.join(workspace.root, view.folder))) !== undefined;
}

/** Builds the table's view and flips to it. The view of the generation before stays, for who has it open. */
export async function showView(workspace: Workspace, table: DeviceTable): Promise<void> {
  const { storage } = workspace;
  const paths = pathsOf(workspace);
  const view = planView(table);
  const folder = generationFolder(workspace, table);
  await storage.removeFolder(folder);
  await makeFolders(workspace, posix.join(workspace.root, view.folder));
  for (const [at, image] of view.links) {
    const path = posix.join(folder, at);
    await makeFolders(workspace, posix.dirname(path));
    await storage.makeSymlink(linkTarget(workspace, path, image), path);
  }
  const fresh = `${paths.own}/devices.new`;
  if (await storage.statLink(fresh)) await storage.removeFile(fresh);
  await storage.makeSymlink(view.folder, fresh);
  await storage.rename(fresh, paths.devices);
  await removeOldViews(workspace, table.generation);
}

function linksOf(device: DeviceEntry): { at: string; image: string }[] {
  const links = [{ at: device.name, image: device.image }];
  let folder = ".";
  for (const { name, image } of device.chain.slice(1)) {
    // Behind an absolute name QEMU is out of the view for good.
    if (name === null || posix.isAbsolute(name)) break;
    const at = posix.join(folder, name);
    links.push({ at, image });
    folder = posix.dirname(at);
  }
  return links;
}

function countClimbs(path: string): number {
  return path.split("/").filter((part) => part === "..").length;
}

function foldersAbove(path: string): string[] {
  const folder = posix.dirname(path);
  return folder === "." ? [] : [folder, ...foldersAbove(folder)];
}

/** Relative inside the workspace, so that it can be moved; absolute to what lies outside. */
function linkTarget(workspace: Workspace, path: string, image: string): string {
  return isInside(workspace.root, image) ? posix.relative(posix.dirname(path), image) : image;
}

function generationFolder(workspace: Workspace, table: DeviceTable): string {
  return `${pathsOf(workspace).views}/${table.generation}`;
}

async function readLinkIfThere(workspace: Workspace, path: string): Promise<string | undefined> {
  const there = await workspace.storage.statLink(path);
  return there?.kind === "symlink" ? await workspace.storage.readSymlink(path) : undefined;
}

async function makeFolders(workspace: Workspace, folder: string): Promise<void> {
  if (await workspace.storage.statLink(folder)) return;
  await makeFolders(workspace, posix.dirname(folder));
  await workspace.storage.makeFolder(folder, 0o755);
}

async function removeOldViews(workspace: Workspace, generation: number): Promise<void> {
  const { views } = pathsOf(workspace);
  for (const name of await workspace.storage.readFolder(views)) {
    const number = /^\d+$/.test(name) ? Number(name) : undefined;
    if (number !== undefined && number !== generation && number !== generation - 1) {
      await workspace.storage.removeFolder(`${views}/${name}`);
    }
  }
}
