// Images on block devices that go: the device stays, and its head is cleared, so that it holds nothing that is recognised.
//
// Invariants
// - Cleared is only the very device that was planned, and where its fence says that nobody has written to it since before
//   the mark; or where the caller has kept writers from it.
// - Under a fence the first sector, which has that, goes last: who was cut off is gone on with. Else it goes first, so
//   that half of an image passes for none.

import { claimUnused, type Fingerprint, isSameFile, isZero } from "../../format/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import type { KeptFile } from "../requests/request.ts";
import { AS_IMAGE, HEAD_BYTES } from "./devices.ts";
import { endOfFailure } from "./removal.ts";
import { SECTOR_BYTES } from "../../units/index.ts";

interface HowToLetGo {
  /** As the plan saw it. */
  readonly expected: Fingerprint | undefined;
  /** Whether the caller holds QEMU's locks on it, and has since before the mark. */
  readonly isLocked: boolean;
  readonly isFenced: (file: StorageFile) => Promise<boolean>;
  /** Why it stays, whatever it holds. */
  readonly findReason: (file: StorageFile) => Promise<string | undefined>;
}

/** Durably. What became of it: it was not there, or holds nothing any more, or stays as it is, and why. */
export async function letGo(
  storage: Storage,
  path: string,
  how: HowToLetGo,
): Promise<"absent" | "removed" | KeptFile> {
  let file: StorageFile | undefined;
  try {
    file = await storage.openFile(path, "write", AS_IMAGE);
    const why = await whyStays(storage, file, how);
    if (why === "gone already") return "removed";
    if (why !== undefined) return { path, why };
    await clearHead(file, await how.isFenced(file));
    return "removed";
  } catch (error) {
    return endOfFailure(error, path, NOT_OURS);
  } finally {
    await file?.close();
  }
}

/** It is mounted by now, or somebody else's. */
const NOT_OURS: ReadonlySet<string> = new Set(["E_REFUSED", "E_NO_PERMISSION", "E_READ_ONLY"]);

async function whyStays(
  storage: Storage,
  file: StorageFile,
  { expected, isLocked, isFenced, findReason }: HowToLetGo,
): Promise<string | undefined> {
  if (!expected || !isSameFile(expected, await file.stat())) return "another device has its name";
  const held = isLocked ? undefined : await claimUnused(storage, file);
  if (held !== undefined) return held;
  // By whoever was cut off, or somebody else: nothing is to be done.
  if (await isCleared(file)) return "gone already";
  const needed = await findReason(file);
  if (needed !== undefined) return needed;
  return isLocked || (await isFenced(file))
    ? undefined
    : "whether somebody has written to it since it was merged can't be told";
}

async function clearHead(file: StorageFile, isFenced: boolean): Promise<void> {
  const { sizeBytes } = await file.stat();
  const first = { start: 0, lengthBytes: Math.min(SECTOR_BYTES, sizeBytes) };
  const rest = {
    start: first.lengthBytes,
    lengthBytes: Math.min(HEAD_BYTES, sizeBytes) - first.lengthBytes,
  };
  for (const range of isFenced ? [rest, first] : [first, rest]) {
    await file.punchHole(range);
    await file.flush("head of a volume that goes");
  }
}

async function isCleared(file: StorageFile): Promise<boolean> {
  const head = new Uint8Array(SECTOR_BYTES);
  return isZero(head.subarray(0, await file.read(head, 0)));
}
