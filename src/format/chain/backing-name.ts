// The names of other images that an image stores: what they resolve to, and what to store.
//
// Invariant: resolution is QEMU's, because QEMU opens the chain when imgtx is done. A relative name is put
// after the folder part of the overlay's name as it was opened; no symbolic link is resolved and no `..`
// is folded, so that imgtx and QEMU end at the same file.

import { ImgtxError } from "../../errors/index.ts";
import type { FileStat, Storage } from "../../storage/index.ts";
import { dirname, join, relative } from "node:path";
import { BACKING_NAME_BYTES_MAX } from "../qcow2/codec/limits.ts";
import { quoteName, shellQuote } from "../quote-name.ts";
import { identityOf } from "../fingerprint.ts";
import type { ImageFormat } from "../image-format.ts";
import { JSON_PREFIX, readJsonFile } from "./json-name.ts";

/** Whether QEMU takes the name for a protocol (`nbd:…`, `json:…`): a colon before the first slash. */
export function isProtocolName(name: string): boolean {
  return /^[^/:]*:/.test(name);
}

const FILE_PREFIX = "file:";

/**
 * The file that a name means which has QEMU's `file:` in front; undefined for any other name. As QEMU prints it:
 * one that then looks like a protocol's has ./ in front.
 */
export function stripFilePrefix(name: string): string | undefined {
  if (!name.startsWith(FILE_PREFIX)) return undefined;
  const plain = name.slice(FILE_PREFIX.length);
  return isProtocolName(plain) ? `./${plain}` : plain;
}

/** The file that a protocol's name means, where imgtx follows it: `file:NAME`, `json:{…}`. Undefined for any other name. */
export function localFileOf(name: string): string | undefined {
  const found = readJson(name);
  return found !== undefined && "file" in found ? found.file : stripFilePrefix(name);
}

/** The format that a name says by itself. */
export function formatInName(name: string): ImageFormat | undefined {
  const found = readJson(name);
  return found !== undefined && "file" in found ? found.format : undefined;
}

function readJson(name: string): ReturnType<typeof readJsonFile> | undefined {
  return name.startsWith(JSON_PREFIX) ? readJsonFile(name) : undefined;
}

/** E_UNSUPPORTED for names of protocols that imgtx does not follow. */
export function requireLocalName(name: string, overlayPath: string): void {
  if (localFileOf(name) === undefined) requirePlainPath(name, overlayPath);
}

/** The same for a name that is to be stored: but for `file:`, no protocol's. */
export function requirePlainPath(name: string, overlayPath: string): void {
  if (!isProtocolName(name) || stripFilePrefix(name) !== undefined) return;
  const found = readJson(name);
  const why = found !== undefined && "why" in found ? `: ${found.why}` : "";
  throw new ImgtxError("E_UNSUPPORTED", `${quoteName(name)} is a protocol name to QEMU, not a path${why}`, {
    image: overlayPath,
    field: "backing_file_name",
    hint: explainPlainPaths(overlayPath),
  });
}

/** How an image with such a name becomes one that imgtx follows. */
export function explainPlainPaths(overlayPath: string): string {
  return (
    "imgtx follows plain paths, file:NAME, and json:{…} of local files with the driver qcow2 or raw; a file with a " +
    `colon in its name is stored as ./NAME; \`imgtx img rebase -u -b NAME -F FORMAT ${shellQuote(overlayPath)}\` stores one`
  );
}

/**
 * Where QEMU finds the backing file of an overlay that was opened by overlayPath: beside it, or where the file of a
 * protocol's name is relative, in the current folder. All paths absolute.
 */
export function composeBackingPath(overlayPath: string, name: string, currentFolder: string): string {
  const local = localFileOf(name);
  if (local !== undefined) return local.startsWith("/") ? local : `${currentFolder}/${local}`;
  if (name.startsWith("/")) return name;
  return overlayPath.slice(0, overlayPath.lastIndexOf("/") + 1) + name;
}

/**
 * The name under which an overlay in overlayFolder finds the image at backingPath, relative to that folder.
 * Both absolute; the folder and the image exist, and the image is `known` where it was looked at already. E_REFUSED where no
 * relative name leads there, E_UNSUPPORTED where it is longer than the format allows.
 */
export async function makeRelativeName(
  storage: Storage,
  overlayFolder: string,
  backingPath: string,
  known?: FileStat,
): Promise<string> {
  const backing = known ?? (await storage.stat(backingPath));
  if (backing === undefined) {
    throw new ImgtxError("E_NOT_FOUND", "the backing image is not there", { image: backingPath });
  }
  // The names as given first: they survive a move of the folder that holds both. A symbolic link on the way
  // makes the kernel's `..` differ from the name's, so the real folders are the second try.
  const asGiven = relative(overlayFolder, backingPath);
  for (const find of [() => asGiven, () => relativeToRealFolders(storage, overlayFolder, backingPath)]) {
    const candidate = await find();
    const name = isProtocolName(candidate) ? `./${candidate}` : candidate;
    const composed = composeBackingPath(`${overlayFolder}/`, name, overlayFolder);
    const found = composed === backingPath ? backing : await storage.stat(composed);
    if (found && identityOf(found) === identityOf(backing)) {
      return requireStorableName(name, backingPath);
    }
  }
  throw new ImgtxError("E_REFUSED", `no relative name leads from ${overlayFolder} to the backing image`, {
    image: backingPath,
    hint: "leave out --relative to store its absolute path",
  });
}

/** The name, if a header can hold one of its length. E_UNSUPPORTED else. */
export function requireStorableName(name: string, backingPath: string): string {
  const lengthBytes = new TextEncoder().encode(name).length;
  if (lengthBytes <= BACKING_NAME_BYTES_MAX) return name;
  throw new ImgtxError(
    "E_UNSUPPORTED",
    `Backing file name too long: ${lengthBytes} bytes, and qcow2 stores at most ${BACKING_NAME_BYTES_MAX}`,
    {
      image: backingPath,
      field: "backing_file_size",
      hint: "move the images closer together, or use --relative",
    },
  );
}

async function relativeToRealFolders(
  storage: Storage,
  overlayFolder: string,
  backingPath: string,
): Promise<string> {
  const realBackingFolder = await storage.realPath(dirname(backingPath));
  const basename = backingPath.slice(backingPath.lastIndexOf("/") + 1);
  return relative(await storage.realPath(overlayFolder), join(realBackingFolder, basename));
}
