// The `devices` folder: a view of the table for other programs, so that QEMU opens devices/vda.
//
//     devices -> .imgtx/view/40              the names: links for what chains look up beside vda
//     .imgtx/view/40/vda -> ../40.now/vda
//     .imgtx/view/40.now -> 42.devices       the generation that is shown
//     .imgtx/view/42.devices/vda -> ../../../a.qcow2
//
// A generation adds the names that are new with it to the folder that is shown, and has a folder of its own for its
// devices alone. What says the same as a link of the present generation is a second name of that: half of all new links, and an
// inode less each. Where a name would have to lead elsewhere than now, the names get a new folder as well.
//
// Invariants
// - Nothing in imgtx reads an image through it, and `view-plan.ts` derives it from the table alone.
// - What is shown changes by one rename, of `devices` or of the link to the generation. Until then no link that the
//   present generation needs is touched. What was built and not shown is nobody's, and built anew.
// - Only links and folders are removed. Other programs may put files into `devices`, and so into the folder of
//   names: they stay, as does anything but imgtx's own link under the name `devices`.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import { clearTheWay, inTheWay } from "../workspace/in-the-way.ts";
import type { DeviceTable } from "../table/device-table.ts";
import { isBelow, pathBelow } from "../table/stored-path.ts";
import { planView, type View } from "./view-plan.ts";
import { pathsOf, refuseForeignDevices, type Workspace } from "../workspace/workspace.ts";

/** Whether `devices` shows this table. */
export async function isViewPresent(workspace: Workspace, table: DeviceTable): Promise<boolean> {
  const view = planView(table);
  const shown = await findShown(workspace);
  if (shown?.below !== view.below) return false;
  const { storage } = workspace;
  const { number } = shown;
  if ((await readLinkIfThere(workspace, nowOf(workspace, number))) !== devicesName(table.generation))
    return false;
  for (const [path, target] of linksOfDevices(workspace, table.generation, view))
    if (!(await leadsTo(workspace, path, target))) return false;
  for (const [path, target] of linksOfNames(workspace, number, view))
    if (!(await leadsTo(workspace, path, target))) return false;
  return (await storage.stat(posix.join(workspace.root, shown.target))) !== undefined;
}

/** Builds the table's view and flips to it. */
export async function showView(workspace: Workspace, table: DeviceTable): Promise<void> {
  await buildView(workspace, table);
  await flipView(workspace);
  await removeOldViews(workspace, table);
}

/**
 * The first step: all that needs space on the disk, where nobody sees it yet. `present` is the table whose view is shown;
 * without it all is built anew.
 */
export async function buildView(
  workspace: Workspace,
  next: DeviceTable,
  present?: DeviceTable,
): Promise<void> {
  await refuseForeignDevices(workspace);
  const view = planView(next);
  const shown = present && (await findShown(workspace));
  await removeFreshLink(workspace);
  await makeFolders(workspace, pathsOf(workspace).views);
  const alike = present ? linksByTarget(workspace, present) : new Map<string, string>();
  await buildDevices(workspace, next.generation, view, alike);
  if (
    present &&
    shown &&
    (await addNames(workspace, shown, { present: planView(present), next: view, alike }))
  ) {
    await workspace.storage.makeSymlink(devicesName(next.generation), freshLink(workspace));
    return;
  }
  const number = next.generation;
  const folder = folderOf(workspace, number);
  await removeView(workspace, folder);
  await makeFolders(workspace, posix.join(folder, view.below));
  for (const at of view.folders) await makeFolders(workspace, posix.join(folder, at));
  for (const [path, target] of linksOfNames(workspace, number, view))
    await workspace.storage.makeSymlink(target, path, alike.get(target));
  await clearTheWay(workspace.storage, nowOf(workspace, number));
  await workspace.storage.makeSymlink(devicesName(next.generation), nowOf(workspace, number));
  await workspace.storage.makeSymlink(posix.join(`.imgtx/view/${number}`, view.below), freshLink(workspace));
}

/** The second. */
export async function flipView(workspace: Workspace): Promise<void> {
  const { storage } = workspace;
  const fresh = freshLink(workspace);
  const { devices } = pathsOf(workspace);
  const isOfNames = (await storage.readSymlink(fresh)).startsWith(OWN_LINK);
  const shown = isOfNames ? undefined : await findShown(workspace);
  await storage.rename(fresh, shown ? nowOf(workspace, shown.number) : devices);
}

/** The last one. The devices of the generation before stay, for who is just going through them. */
export async function removeOldViews(workspace: Workspace, table: DeviceTable): Promise<void> {
  const { views } = pathsOf(workspace);
  const { generation } = table;
  const shown = await findShown(workspace);
  const before = devicesName(generation - 1);
  for (const name of await workspace.storage.readFolder(views)) {
    const [, number, kind] = OWN_NAME.exec(name) ?? [];
    if (number === undefined) continue;
    const path = `${views}/${name}`;
    if (kind === ".devices" && Number(number) !== generation && name !== before)
      await removeView(workspace, path);
    if (kind === ".devices" || Number(number) === shown?.number) continue;
    if ((await readLinkIfThere(workspace, nowOf(workspace, Number(number)))) === before) continue;
    if (kind === "") await removeView(workspace, path);
    else await clearTheWay(workspace.storage, path);
  }
  if (shown) await trimNames(workspace, shown.number, planView(table));
}

/** Takes back the first step: what the present generation does not need. */
export async function discardView(workspace: Workspace, present: DeviceTable): Promise<void> {
  const number = present.generation + 1;
  const shown = await findShown(workspace);
  await removeFreshLink(workspace);
  await removeView(workspace, `${pathsOf(workspace).views}/${devicesName(number)}`);
  if (shown?.number === number) return;
  if (await readLinkIfThere(workspace, nowOf(workspace, number)))
    await workspace.storage.removeFile(nowOf(workspace, number));
  await removeView(workspace, folderOf(workspace, number));
  if (shown) await trimNames(workspace, shown.number, planView(present));
}

/** Where `devices` leads. */
interface Shown {
  readonly target: string;
  /** Of the folder of names: the generation that it was made for. */
  readonly number: number;
  readonly below: string;
}

const OWN_LINK = ".imgtx/view/";
const OWN_NAME = /^(\d{1,15})(|\.now|\.devices)$/;

async function findShown(workspace: Workspace): Promise<Shown | undefined> {
  const target = await readLinkIfThere(workspace, pathsOf(workspace).devices);
  const [, number, below = ""] = /^\.imgtx\/view\/(\d{1,15})(?:\/(.+))?$/s.exec(target ?? "") ?? [];
  return target === undefined || number === undefined ? undefined : { target, number: Number(number), below };
}

/** The folder of a generation's devices. Links that are right stay: they may be shown, where the table was lost with the power. */
async function buildDevices(
  workspace: Workspace,
  generation: number,
  view: View,
  alike: Alike,
): Promise<void> {
  const { storage } = workspace;
  const folder = `${pathsOf(workspace).views}/${devicesName(generation)}`;
  await makeFolders(workspace, folder);
  const there = new Set(await storage.readFolder(folder));
  for (const name of there) {
    if (view.devices.has(name)) continue;
    if (!(await removeView(workspace, `${folder}/${name}`))) await clearTheWay(storage, `${folder}/${name}`);
  }
  for (const [path, target] of linksOfDevices(workspace, generation, view)) {
    if (there.has(posix.basename(path))) {
      if ((await readLinkIfThere(workspace, path)) === target) continue;
      await clearTheWay(storage, path);
    }
    await storage.makeSymlink(target, path, alike.get(target));
  }
}

/** Paths of links, by what they say. */
type Alike = ReadonlyMap<string, string>;

/**
 * Of the devices of the present generation. The next one's links that say the same become second names of these: those of devices
 * that stay on their images, and of images that a new overlay names as its backing file.
 */
function linksByTarget(workspace: Workspace, present: DeviceTable): Alike {
  const links = linksOfDevices(workspace, present.generation, planView(present));
  return new Map(links.map(([path, target]) => [target, path]));
}

/**
 * Adds to the names that are shown those that the next generation has beside them. False where one of them would take the place of
 * what the present one needs, or of another program's file, or where folders are gone; what was added until then is in nobody's way.
 */
async function addNames(
  workspace: Workspace,
  shown: Shown,
  { present, next, alike }: { readonly present: View; readonly next: View; readonly alike: Alike },
): Promise<boolean> {
  if (shown.below !== next.below || shown.below !== present.below) return false;
  const folder = folderOf(workspace, shown.number);
  // A power cut may have taken folders, and left the link that shows them.
  for (const at of ["", ...present.folders])
    if ((await workspace.storage.statLink(posix.join(folder, at)))?.kind !== "folder") return false;
  const known = new Map(linksOfNames(workspace, shown.number, present));
  const added: [string, string][] = [];
  for (const link of linksOfNames(workspace, shown.number, next)) {
    const [path, target] = link;
    const now = known.get(path);
    if (now === undefined) added.push(link);
    else if (now !== target) return false;
  }
  if (added.some(([path]) => present.folders.has(pathBelow(folder, path)))) return false;
  for (const at of next.folders) {
    if (present.folders.has(at)) continue;
    const path = posix.join(folder, at);
    if (known.has(path) || !(await clearForeign(workspace, path, "folder"))) return false;
    await makeFolders(workspace, path);
  }
  for (const [path, target] of added) {
    if (await makeFirst(workspace, path, target, alike)) continue;
    if ((await readLinkIfThere(workspace, path)) === target) continue;
    if (!(await clearForeign(workspace, path, "symlink"))) return false;
    await workspace.storage.makeSymlink(target, path, alike.get(target));
  }
  return true;
}

/** Of new names nearly all are free: false where one is not. */
async function makeFirst(
  { storage }: Workspace,
  path: string,
  target: string,
  alike: Alike,
): Promise<boolean> {
  try {
    await storage.makeSymlink(target, path, alike.get(target));
    return true;
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_EXISTS") return false;
    throw error;
  }
}

/** Takes away what is left there of names that nothing needs, but for what may stay. False where it is another program's. */
async function clearForeign(
  workspace: Workspace,
  path: string,
  wanted: "folder" | "symlink",
): Promise<boolean> {
  const there = await workspace.storage.statLink(path);
  if (!there || (wanted === "folder" && there.kind === "folder")) return true;
  if (there.kind === "folder") return await removeView(workspace, path);
  if (there.kind === "symlink") await workspace.storage.removeFile(path);
  return there.kind === "symlink";
}

/** Removes from a folder of names the links that a view does not need, and folders that are empty then. */
async function trimNames(workspace: Workspace, number: number, view: View): Promise<void> {
  const folder = folderOf(workspace, number);
  const needed = new Set(linksOfNames(workspace, number, view).map(([path]) => path));
  const trim = async (at: string): Promise<void> => {
    for (const name of await workspace.storage.readFolder(posix.join(folder, at))) {
      const inside = posix.join(at, name);
      const path = posix.join(folder, inside);
      if (needed.has(path)) continue;
      if (view.folders.has(inside)) await trim(inside);
      else if ((await workspace.storage.statLink(path))?.kind === "symlink")
        await workspace.storage.removeFile(path);
      else await removeView(workspace, path);
    }
  };
  if ((await workspace.storage.statLink(folder))?.kind === "folder") await trim("");
}

/** Path and target of each link in a folder of names. */
function linksOfNames(
  workspace: Workspace,
  number: number,
  { below, devices, names }: View,
): [string, string][] {
  const folder = folderOf(workspace, number);
  const up = "../".repeat(below === "" ? 1 : below.split("/").length + 1);
  const target = posix.basename(nowOf(workspace, number));
  return [
    ...[...devices.keys()].map((name): [string, string] => [
      posix.join(folder, below, name),
      `${up}${target}/${name}`,
    ]),
    ...[...names].map(([at, image]): [string, string] => {
      const path = `${folder}/${at}`;
      return [path, linkTarget(workspace, path, image)];
    }),
  ];
}

/** The same of a generation's devices. */
function linksOfDevices(workspace: Workspace, generation: number, { devices }: View): [string, string][] {
  const folder = `${pathsOf(workspace).views}/${devicesName(generation)}`;
  return [...devices].map(([name, image]) => [
    `${folder}/${name}`,
    linkTarget(workspace, `${folder}/${name}`, image),
  ]);
}

/** Relative inside the workspace, so that it can be moved; absolute to what lies outside. */
function linkTarget(workspace: Workspace, path: string, image: string): string {
  const { root } = workspace;
  if (!isBelow(root, image)) return image;
  const climb = "../".repeat(pathBelow(root, path).split("/").length - 1);
  return climb + pathBelow(root, image);
}

function folderOf(workspace: Workspace, number: number): string {
  return `${pathsOf(workspace).views}/${number}`;
}

function nowOf(workspace: Workspace, number: number): string {
  return `${folderOf(workspace, number)}.now`;
}

function devicesName(generation: number): string {
  return `${generation}.devices`;
}

async function readLinkIfThere(workspace: Workspace, path: string): Promise<string | undefined> {
  const there = await workspace.storage.statLink(path);
  return there?.kind === "symlink" ? await workspace.storage.readSymlink(path) : undefined;
}

/** Of tens of thousands of links nearly all are right: each is read at once, and looked at only where that fails. */
async function leadsTo(workspace: Workspace, path: string, target: string): Promise<boolean> {
  try {
    return (await workspace.storage.readSymlink(path)) === target;
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    return (await readLinkIfThere(workspace, path)) === target;
  }
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
    const kind = (await storage.statLink(path))?.kind;
    if (kind === "symlink") await storage.removeFile(path);
    else if (!(await removeView(workspace, path))) isEmpty = false;
  }
  if (isEmpty) await storage.removeFolder(folder);
  return isEmpty;
}

/** Removes all views of a workspace that has gone, but for what somebody else has put there. */
export async function removeViews(workspace: Workspace): Promise<void> {
  await removeView(workspace, pathsOf(workspace).views);
}

/** The first file among the views that is no link of theirs: whoever wrote it meant `devices/`. */
export async function findForeignFile(workspace: Workspace): Promise<string | undefined> {
  const find = async (folder: string): Promise<string | undefined> => {
    for (const name of await workspace.storage.readFolder(folder)) {
      const path = `${folder}/${name}`;
      const kind = (await workspace.storage.statLink(path))?.kind;
      const found = kind === "folder" ? await find(path) : kind === "symlink" ? undefined : path;
      if (found !== undefined) return found;
    }
    return undefined;
  };
  const { views } = pathsOf(workspace);
  return (await workspace.storage.statLink(views))?.kind === "folder" ? await find(views) : undefined;
}
