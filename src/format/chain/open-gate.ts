// The gate that every implicit open passes: a file that nobody named on the command line, but an image.
//
// Invariants
// - A raw backing image or an external data file is opened only where somebody trusts the place: in the
//   folder of the image that names it or below, in the workspace, or under an allowed path. What a guest
//   wrote into a header must not lead to a host's files (CVE-2015-5163, CVE-2024-32498).
// - Places are compared by real path, and the answer is the real path, so that what was judged is what is
//   opened: a symbolic link that changes in between is not followed.
// - A qcow2 backing image may be anywhere: it must parse, and what it names passes here in turn.
// - root does not read for others: what an image names must be readable to each user that owns an image above it,
//   or be allowed by its path. A tenant would else name another tenant's image, and have root copy it.

import { ImgtxError } from "../../errors/index.ts";
import type { Storage } from "../../storage/index.ts";
import { dirname } from "node:path";
import { canOpen, opensForOthers } from "./owner-access.ts";
import { quoteName, shellQuote } from "../quote-name.ts";

export interface GateOptions {
  /** Absolute path of the workspace folder; undefined where there is none. */
  readonly workspaceRoot?: string | undefined;
  /** Absolute paths of folders (or single files) that the user trusts. One that does not exist trusts nothing. */
  readonly allowPaths: readonly string[];
  /** What a relative data file name is relative to, as for QEMU: the folder of the command that names the image. Absolute. */
  readonly currentFolder: string;
  /** The device that keeps what it trusts, for the hint of a refusal. */
  readonly device?: string | undefined;
}

/** A name stored in an image, on its way to be opened. */
export interface ImplicitOpen {
  readonly what: "raw backing image" | "external data file";
  /** Where the name resolves to. */
  readonly path: string;
  readonly storedName: string;
  /** The image that stores it, as it was opened. */
  readonly overlayPath: string;
}

/** The real path to open. E_OUTSIDE where nobody trusts it, E_NOT_FOUND where nothing is there. */
export async function passGate(storage: Storage, gate: GateOptions, target: ImplicitOpen): Promise<string> {
  const realPath = await storage.realPath(target.path);
  // Beside the overlay, by both its names: where the link is that it was opened by, and where it really is.
  if (isInside(realPath, dirname(await storage.realPath(target.overlayPath)))) return realPath;
  for (const place of [dirname(target.overlayPath), gate.workspaceRoot, ...gate.allowPaths]) {
    if (place === undefined || (await storage.stat(place)) === undefined) continue;
    if (isInside(realPath, await storage.realPath(place))) return realPath;
  }
  throw new ImgtxError(
    "E_OUTSIDE",
    `the ${target.what} ${quoteName(realPath)} lies outside of the image's folder and the workspace`,
    {
      image: target.overlayPath,
      field: target.what === "external data file" ? "data_file_name" : "backing_file_name",
      hint:
        gate.device === undefined
          ? `if you trust the image that names it, allow it with --allow-path ${shellQuote(realPath)}`
          : `if you trust the image that names it, \`imgtx device trust ${gate.device} ${shellQuote(realPath)}\` allows it`,
    },
  );
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

function isInside(path: string, place: string): boolean {
  return path === place || path.startsWith(place.endsWith("/") ? place : `${place}/`);
}
