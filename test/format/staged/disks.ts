// Small disks in memory for the tests of staging, and an application of a log that is cut off.

import {
  applyLog,
  type Guard,
  RedoLog,
  type SealedLog,
  StagedStorage,
} from "../../../src/format/staged/index.ts";
import type { Storage, StorageFile } from "../../../src/storage/index.ts";
import { MemoryDisk } from "../../fuzz/memory-storage.ts";

/** Thrown in the place of the call that a crash prevents. */
class Cut extends Error {}

/** A disk with copies of these files. */
export function diskWith(files: ReadonlyMap<string, Uint8Array>): MemoryDisk {
  const disk = new MemoryDisk();
  for (const [path, bytes] of files) disk.put(path, Buffer.from(bytes));
  return disk;
}

/**
 * The file, with its calls counted that change something. From the nth on none of them is made, but for the first bytes
 * of a write.
 */
function cutting(
  file: StorageFile,
  calls: number,
  tornBytes: number,
): { file: StorageFile; counted: () => number } {
  let done = 0;
  const may = (): void => {
    if (done === calls) throw new Cut();
    done += 1;
  };
  const cut = new Proxy(file, {
    get(target, name): unknown {
      const value: unknown = Reflect.get(target, name, target);
      if (typeof value !== "function") return value;
      const call = value.bind(target) as (...rest: unknown[]) => unknown;
      if (!["write", "truncate", "punchHole"].includes(String(name))) return call;
      return async (...rest: unknown[]) => {
        const [bytes, offset] = rest;
        if (done === calls && bytes instanceof Uint8Array) {
          await call(bytes.subarray(0, Math.min(tornBytes, bytes.length - 1)), offset);
        }
        may();
        await call(...rest);
      };
    },
  });
  return { file: cut, counted: () => done };
}

/** As the engine takes a statement back: the logs are taken up where they were sealed before it. */
export async function resumeAt(
  staged: StagedStorage,
  storage: Storage,
  sealed: readonly SealedLog[],
): Promise<StagedStorage> {
  await staged.close();
  const resumed = new StagedStorage(storage);
  for (const one of sealed) await resumed.resume(one.image, one, "write");
  return resumed;
}

/**
 * Opens the log that was sealed, as recovery would, and applies it; cut off before its nth change, if that is said, or
 * after the first bytes of that.
 */
export async function applySealed(
  storage: Storage,
  sealed: SealedLog,
  guard: Guard,
  calls = Number.POSITIVE_INFINITY,
  tornBytes = 0,
): Promise<{ changes: number; wasCut: boolean }> {
  const folder = sealed.image.slice(0, sealed.image.lastIndexOf("/"));
  const log = await RedoLog.open(storage, `${folder}/${sealed.log}`, sealed.end, "read");
  const target = await storage.openFile(sealed.image, "write");
  const { file, counted } = cutting(target, calls, tornBytes);
  try {
    await applyLog(log, file, guard);
    return { changes: counted(), wasCut: false };
  } catch (error) {
    if (!(error instanceof Cut)) throw error;
    return { changes: counted(), wasCut: true };
  } finally {
    await log.close();
    await target.close();
  }
}
