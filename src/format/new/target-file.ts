// The file of a new image: made, or an existing one emptied, as qemu-img does it; or a data file that is kept.
//
// Invariants
// - Nobody has the file open when it is emptied: it is locked before.
// - What was not finished is taken away: a file that was made here is removed, and one that was there before
//   is left empty. A half-made image that looks whole would be taken for the real one. Of a block device the beginning
//   is cleared, by which whatever stood there was recognised.

import { type GateOptions, openingNamed } from "../chain/open-gate.ts";
import { isFrozen } from "../open/open-for-writing.ts";
import { isFencedHead } from "../qcow2/codec/fence.ts";
import { readHead } from "../read-header.ts";
import { elseClosed, ImgtxError } from "../../errors/index.ts";
import { acquireImageLocks, type LockWaiting, type Storage, type StorageFile } from "../../storage/index.ts";

export interface TargetFile {
  /** Empty where it is not kept, open for reading and writing, and locked as a writer's until it is closed. */
  readonly file: StorageFile;
  readonly path: string;
  /** Whether nothing was at the path before. */
  readonly isNew: boolean;
  /** Takes away what was begun. Closes the file. */
  discard(): Promise<void>;
}

interface TargetOptions {
  readonly waiting: LockWaiting;
  readonly gate: Pick<GateOptions, "allowsDevices">;
}

const NEW_FILE_MODE = 0o644;

/** Errors begin with `Could not create 'PATH': `, but for that of the lock. */
export async function openTargetFile(
  storage: Storage,
  path: string,
  { waiting, gate }: TargetOptions,
): Promise<TargetFile> {
  const { file, isNew } = await openOrCreate(storage, path, gate);
  let isOurs = false;
  const discard = async (): Promise<void> => {
    try {
      if (isNew) await storage.removeFile(path);
      else await emptyFile(storage, file);
    } finally {
      await file.close();
    }
  };
  try {
    await acquireImageLocks(storage, [{ file, role: "writer" }], waiting);
    if (isFencedHead(await readHead(file))) throw couldNotCreate(path, isFrozen(path));
    isOurs = true;
    await emptyFile(storage, file);
  } catch (error) {
    // Without the lock it is not ours: a file made here may be somebody else's already, and stays. So does a
    // frozen image.
    if (isOurs) await discard();
    else await file.close();
    throw error;
  }
  return { file, path, isNew, discard };
}

/** A file that is there, and keeps what is in it: of what was begun only its length is taken back. */
export async function openKeptFile(
  storage: Storage,
  path: string,
  { waiting, gate }: TargetOptions,
): Promise<TargetFile> {
  return await elseClosed(await storage.openFile(path, "write", openingNamed(gate)), async (file) => {
    await acquireImageLocks(storage, [{ file, role: "writer" }], waiting);
    const { sizeBytes } = await file.stat();
    const discard = async (): Promise<void> => {
      try {
        await file.truncate(sizeBytes);
      } finally {
        await file.close();
      }
    };
    return { file, path, isNew: false, discard };
  });
}

/** Where QEMU looks for what an image is. */
const RECOGNISED_BYTES = 64 * 1024;

async function emptyFile(storage: Storage, file: StorageFile): Promise<void> {
  const { kind, sizeBytes } = await file.stat();
  if (kind === "device") {
    await file.punchHole({ start: 0, lengthBytes: RECOGNISED_BYTES });
    return;
  }
  if (sizeBytes === 0) return;
  await file.truncate(0);
  // ext4 takes what is written after such a truncation for the replacement of a precious file, and waits for
  // the disk when it is closed: for the first close, which is this one.
  await (await storage.openFile(file.path, "write")).close();
}

async function openOrCreate(
  storage: Storage,
  path: string,
  gate: TargetOptions["gate"],
): Promise<{ file: StorageFile; isNew: boolean }> {
  try {
    return { file: await storage.createFile(path, NEW_FILE_MODE), isNew: true };
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_EXISTS") throw error;
  }
  try {
    return { file: await storage.openFile(path, "write", openingNamed(gate)), isNew: false };
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.reason === undefined) throw error;
    throw error.reworded(`Could not create '${path}': ${error.reason}`, { doing: "create" });
  }
}

function couldNotCreate(path: string, error: ImgtxError): ImgtxError {
  return error.reworded(`Could not create '${path}': ${error.message}`);
}
