// The gate that every implicit open passes: a file that nobody named on the command line, but an image.
//
// Invariants
// - A raw backing image or an external data file is opened only where somebody trusts the place: in the
//   folder of the image that names it or below, in the workspace, or under an allowed path. What a guest
//   wrote into a header must not lead to a host's files (CVE-2015-5163, CVE-2024-32498).
// - A block device is opened only where its own name, or a folder of /dev, is allowed, whatever its format: being beside
//   the image, or holding a qcow2 image, says nothing there. A name in an image leads nobody to a disk.
// - Places are compared by real path, and the answer is the real path, so that what was judged is what is
//   opened: a symbolic link that changes in between is not followed.
// - A qcow2 backing image may be anywhere: it must parse, and what it names passes here in turn.
// - root does not read for others: what an image names must be readable to each user that owns an image above it,
//   or be allowed by its path. A tenant would else name another tenant's image, and have root copy it.

import { ImgtxError } from "../../errors/index.ts";
import type { OpenOptions, Storage } from "../../storage/index.ts";
import { basename, dirname } from "node:path";
import { canOpen, opensForOthers } from "./owner-access.ts";
import { quoteName, shellQuote } from "../quote-name.ts";

export interface GateOptions {
  /** Absolute path of the workspace folder; undefined where there is none. */
  readonly workspaceRoot?: string | undefined;
  /** Absolute paths of folders (or single files) that the user trusts. One that does not exist trusts nothing. */
  readonly allowPaths: readonly string[];
  /** What a relative data file name is relative to, as for QEMU: the folder of the command that names the image. Absolute. */
  readonly currentFolder: string;
  /** Whether an image that somebody named himself may be a block device. Default: no. */
  readonly allowsDevices?: boolean;
  /** The device that keeps what it trusts, for the hint of a refusal. */
  readonly device?: string | undefined;
}

/** A name stored in an image, on its way to be opened. */
export interface ImplicitOpen {
  readonly what: "raw backing image" | "external data file" | "backing image on a block device";
  /** Where the name resolves to. */
  readonly path: string;
  readonly storedName: string;
  /** The image that stores it, as it was opened. */
  readonly overlayPath: string;
}

/** The real path to open. E_OUTSIDE where nobody trusts it, E_NOT_FOUND where nothing is there. */
export async function passGate(storage: Storage, gate: GateOptions, target: ImplicitOpen): Promise<string> {
  const realPath = await storage.realPath(target.path);
  if ((await storage.stat(realPath))?.kind === "device")
    return await passDevice(storage, gate, target, realPath);
  // Beside the overlay, by both its names: where the link is that it was opened by, and where it really is.
  if (isInside(realPath, dirname(await storage.realPath(target.overlayPath)))) return realPath;
  for (const place of [dirname(target.overlayPath), gate.workspaceRoot, ...gate.allowPaths]) {
    if (place === undefined || (await storage.stat(place)) === undefined) continue;
    if (isInside(realPath, await storage.realPath(place))) return realPath;
  }
  const where = `the ${target.what} ${quoteName(realPath)} lies outside of the image's folder and the workspace`;
  throw notTrusted(gate, target, where, realPath);
}

/** The gate for the name of a backing image, whose format is known. The path to open. */
export async function passBacking(
  storage: Storage,
  gate: GateOptions,
  target: Omit<ImplicitOpen, "what">,
  format: string | undefined,
): Promise<{ readonly path: string; readonly opening: OpenOptions }> {
  const isDevice = (await storage.stat(target.path))?.kind === "device";
  if (format !== "raw" && !isDevice) return { path: target.path, opening: {} };
  const what = isDevice ? "backing image on a block device" : "raw backing image";
  return { path: await passGate(storage, gate, { ...target, what }), opening: OPENING_PASSED };
}

/** How what passed the gate is opened: by its real path, whatever it is. */
export const OPENING_PASSED: OpenOptions = { refuseSymlink: true, mayBeDevice: true };

/** How an image is opened that somebody named himself. */
export function openingNamed({ allowsDevices = false }: Pick<GateOptions, "allowsDevices">): OpenOptions {
  return { mayBeDevice: allowsDevices };
}

/** /dev itself is no place to allow: all disks are in it. */
const DEVICES = "/dev";
const OTHERS_WRITE = 0o022;
const ROOT = 0;

/** By its real path, or by the name that its folder has it by: /dev/vg/lv is a link, which only root makes there. */
async function passDevice(
  storage: Storage,
  gate: GateOptions,
  target: ImplicitOpen,
  realPath: string,
): Promise<string> {
  const folder = await storage.realPath(dirname(target.path));
  const named = `${folder}/${basename(target.path)}`;
  for (const place of gate.allowPaths) {
    if ((await storage.stat(place)) === undefined) continue;
    const real = await storage.realPath(place);
    if (real === realPath) return realPath;
    if (isInside(named, real) && (await isFolderOfDevices(storage, real))) return realPath;
  }
  const what = target.what === "external data file" ? "external data file" : "backing image";
  throw notTrusted(
    gate,
    target,
    `the ${what} ${quoteName(named)} is a block device, and no image leads to one by itself`,
    named,
  );
}

/** Where nobody but root and udev make names: other file systems below /dev, as /dev/shm, are for files. */
async function isFolderOfDevices(storage: Storage, folder: string): Promise<boolean> {
  if (!isInside(folder, DEVICES) || folder === DEVICES) return false;
  const [all, stat] = [await storage.stat(DEVICES), await storage.stat(folder)];
  if (all === undefined || stat?.fileSystem !== all.fileSystem) return false;
  return stat.ownerId === ROOT && (stat.mode & OTHERS_WRITE) === 0;
}

function notTrusted(gate: GateOptions, target: ImplicitOpen, message: string, path: string): ImgtxError {
  return new ImgtxError("E_OUTSIDE", message, {
    image: target.overlayPath,
    field: target.what === "external data file" ? "data_file_name" : "backing_file_name",
    hint:
      gate.device === undefined
        ? `if you trust the image that names it, allow it with --allow-path ${shellQuote(path)}`
        : `if you trust the image that names it, \`imgtx device trust ${gate.device} ${shellQuote(path)}\` allows it`,
  });
}

/** E_OUTSIDE where root would open for one of the owners what that user could not open. */
export async function assertOwnersCanRead(
  storage: Storage,
  gate: GateOptions,
  target: { readonly path: string; readonly overlayPath: string; readonly what: string },
  ownerIds: Iterable<number>,
): Promise<void> {
  for (const ownerId of ownerIds) {
    if (!opensForOthers(storage.host, ownerId)) continue;
    const realPath = await storage.realPath(target.path);
    if (
      (await canOpen(storage, ownerId, realPath, {
        access: "read",
        ownImage: await storage.realPath(target.overlayPath),
      })) ||
      (await isAllowed(storage, gate, realPath))
    )
      continue;
    const owner = storage.host.nameOfUser(ownerId);
    throw new ImgtxError(
      "E_OUTSIDE",
      `the ${target.what} ${quoteName(realPath)} is not for ${owner}, who owns an image above it: ${owner} can't read it`,
      {
        image: target.overlayPath,
        field: target.what === "external data file" ? "data_file_name" : "backing_file_name",
        hint: `if ${owner} is to have what it holds, allow it with --allow-path ${shellQuote(realPath)}`,
      },
    );
  }
}

async function isAllowed(storage: Storage, gate: GateOptions, realPath: string): Promise<boolean> {
  for (const place of gate.allowPaths) {
    if ((await storage.stat(place)) && isInside(realPath, await storage.realPath(place))) return true;
  }
  return false;
}

/** Whether a real path lies in a folder, or is it. */
export function isInside(path: string, place: string): boolean {
  return path === place || path.startsWith(place.endsWith("/") ? place : `${place}/`);
}
