// Takes space on a file system before anything is written that must not run out of it.
//
// Invariants
// - What is taken has no name: it is given back when the process ends, however that comes, and no crash leaves it.
// - Where a file system has no files without names, or gives no blocks in advance, the free space is only looked at.

import { closeSync, constants, openSync, statfsSync } from "node:fs";
import { ImgtxError } from "../../errors/index.ts";
import type { NativeAccess } from "./native-access.ts";
import type { Reservation } from "../storage.ts";
import { errnoName, explainError } from "../system-error.ts";
import { quietly } from "../quietly.ts";

/** O_TMPFILE of Linux, which Node has no name for: its own bit, and O_DIRECTORY. */
const O_TMPFILE = 0o20000000 | (constants.O_DIRECTORY ?? 0);
const MODE = 0o600;
const FULL: ReadonlySet<string> = new Set(["ENOSPC", "EDQUOT"]);

/** E_NO_SPACE where the folder's file system has not that much. */
export async function reserveSpace(
  folder: string,
  lengthBytes: number,
  native: NativeAccess,
): Promise<Reservation> {
  // Looked at first: a call that takes what there is before it fails would leave nothing to others meanwhile.
  assertFree(folder, lengthBytes);
  const calls = native.optional();
  const descriptor = calls && openNameless(folder);
  if (descriptor === undefined) return TAKES_NOTHING;
  let isOpen = true;
  const close = (): void => {
    if (isOpen) closeSync(descriptor);
    isOpen = false;
  };
  try {
    await calls?.allocate(descriptor, { start: 0, lengthBytes });
  } catch (error) {
    close();
    if (FULL.has(errnoName(error) ?? "")) throw isFull(folder, lengthBytes, error);
    return TAKES_NOTHING;
  }
  return { release: async () => await Promise.resolve(close()) };
}

const TAKES_NOTHING: Reservation = { release: async () => await Promise.resolve() };

function openNameless(folder: string): number | undefined {
  // Not on NFS, FUSE and others, and nowhere before Linux 3.11: the free space has to do.
  return quietly(() => openSync(folder, constants.O_RDWR | O_TMPFILE, MODE), undefined);
}

function assertFree(folder: string, lengthBytes: number): void {
  let freeBytes: bigint;
  try {
    const { bavail, bsize } = statfsSync(folder, { bigint: true });
    freeBytes = bavail * bsize;
  } catch (error) {
    throw explainError(error, "ask for the free space of", folder);
  }
  if (freeBytes < BigInt(lengthBytes)) throw isFull(folder, lengthBytes, undefined);
}

function isFull(folder: string, lengthBytes: number, cause: unknown): ImgtxError {
  return new ImgtxError("E_NO_SPACE", `fewer than ${lengthBytes} bytes are free in '${folder}'`, {
    image: folder,
    hint: "make room there, then run the command again",
    ...(cause !== undefined && { cause }),
  });
}
