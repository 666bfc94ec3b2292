// What must not be overwritten: the images that a command reads from, by whatever name, and those that a
// device of a workspace stands on, or a snapshot keeps. Locks tell the first as long as they are taken, and then blame
// a process; of the second nobody tells, while no guest runs.

import { posix } from "node:path";
import { identityOf, type OpenedImage, shellQuote } from "../../../format/index.ts";
import type { DeviceOnFile } from "../../../device/index.ts";
import type { FileStat } from "../../../storage/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import type { ImgInvocation } from "../command.ts";
import { settlePath } from "./beside.ts";
import { sourceOptions } from "./images.ts";

export interface GuardedTarget {
  /** As it was given, for the message. */
  readonly name: string;
  /** Absolute. */
  readonly path: string;
  /** Guest data is written into the image that is there, as a guest does; else the image is made anew. */
  readonly isKept?: boolean;
}

/** E_FAILED, with nothing changed, for a target that must not be overwritten. One that is new is no such. */
export async function guardTargets(
  invocation: ImgInvocation,
  targets: readonly GuardedTarget[],
  sources: readonly OpenedImage[],
): Promise<void> {
  for (const target of targets) {
    const there = await invocation.context.storage.stat(target.path);
    if (there === undefined) await refuseOwnFolder(invocation, target);
    if (there?.kind !== "file" && there?.kind !== "device") continue;
    // Under qemu-img's name its own words say it, as long as locks are taken.
    if (invocation.program === "imgtx" || sourceOptions(invocation).forceShare) {
      await refuseSources(target, there, sources);
    }
    await refuseDevices(invocation, target, there);
    await settlePath(invocation, target.path);
  }
}

/** Whether both names lead to one file. */
export async function isOneFile(
  { context }: Pick<ImgInvocation, "context">,
  path: string,
  other: string,
): Promise<boolean> {
  const [one, two] = [await context.storage.stat(path), await context.storage.stat(other)];
  return one !== undefined && two !== undefined && isSame(one, two);
}

/** A workspace's own folder is no place for a new file: `devices/NAME` among those, where no device has that name. */
async function refuseOwnFolder({ context }: ImgInvocation, { name, path }: GuardedTarget): Promise<void> {
  const folder = posix.dirname(path);
  // Without it nothing is made, and what makes it says so.
  if ((await context.storage.stat(folder)) === undefined) return;
  const canonical = `${await context.storage.realPath(folder)}/${posix.basename(path)}`;
  if (!canonical.includes("/.imgtx/")) return;
  const { assertOutsideOwnFolder } = await import("../../../device/index.ts");
  try {
    assertOutsideOwnFolder(canonical);
  } catch (error) {
    throw error instanceof ImgtxError ? error.within(`${name}: `) : error;
  }
}

async function refuseSources(
  { name }: GuardedTarget,
  there: FileStat,
  sources: readonly OpenedImage[],
): Promise<void> {
  for (const { chain } of sources) {
    for (const [depth, link] of chain.links.entries()) {
      const isData = link.dataFile !== undefined && isSame(await link.dataFile.file.stat(), there);
      if (!isSame(link.stat, there) && !isData) continue;
      const which = isData
        ? ": it is the source's data file"
        : depth > 0
          ? ": it is a backing image of the source"
          : "";
      throw new ImgtxError("E_FAILED", `${name}: source and target are the same file${which}`, {
        image: link.path,
        hint: "nothing was changed; name another target",
      });
    }
  }
}

async function refuseDevices(
  invocation: ImgInvocation,
  { name, path, isKept = false }: GuardedTarget,
  there: FileStat,
): Promise<void> {
  const found = await deviceOn(invocation, path, there);
  // What a guest may write to, so may its operator.
  if (found === undefined || (isKept && found.isActive)) return;
  throw standsOn(name, path, found, "name another target");
}

/** The device that stands on a file, or stood on it, in the workspaces of its folder, the current one, and the named one. */
export async function deviceOn(
  { context, workspace }: ImgInvocation,
  path: string,
  there: FileStat,
): Promise<DeviceOnFile | undefined> {
  const { storage, cwd } = context;
  const { findDeviceOnFile } = await import("../../../device/index.ts");
  const paths = [path, await storage.realPath(path)];
  const folders = [
    ...paths.map((one) => posix.dirname(one)),
    cwd,
    ...(workspace === undefined ? [] : [workspace]),
  ];
  return await findDeviceOnFile(storage, folders, paths, there);
}

export function standsOn(
  name: string,
  path: string,
  { device, root, keptBy, isPresent }: DeviceOnFile,
  instead: string,
): ImgtxError {
  if (keptBy) {
    const { number } = keptBy;
    const called = keptBy.name === null ? "" : ` (${keptBy.name})`;
    const command = `imgtx --workspace ${shellQuote(root)}`;
    return new ImgtxError(
      "E_FAILED",
      `${name}: snapshot ${number}${called} of the workspace '${root}' keeps it, of '${device}'`,
      {
        image: path,
        hint:
          "nothing was changed; nobody writes to it any more: " +
          (isPresent
            ? `\`${command} rollback ${device} --to ${number}\` puts '${device}' on a new overlay over what it keeps`
            : `\`${command} snapshot-show ${number}\` shows what it keeps`),
      },
    );
  }
  return new ImgtxError("E_FAILED", `${name}: device '${device}' of the workspace '${root}' stands on it`, {
    image: path,
    hint:
      `nothing was changed; ${instead}, or take the device out with ` +
      `\`imgtx --workspace ${shellQuote(root)} device remove ${device}\``,
  });
}

function isSame(one: FileStat, other: FileStat): boolean {
  return identityOf(one) === identityOf(other);
}
