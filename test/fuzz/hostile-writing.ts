// Writing to a hostile image: imgtx refuses it, and nothing has changed; or takes it, and leaves it no worse.
//
// Invariant: what a check finds without errors before, it finds without errors after, whether the writes went
// through or ended in a typed error half way. Of an image with wrong refcounts no more is asked than that it ends:
// a cluster in use that they call free may be given out, as QEMU gives it out.

import { guestRange } from "../../src/units/index.ts";
import { type CheckResult } from "../../src/format/index.ts";
import { openForWriting } from "../../src/format/open/open-for-writing.ts";
import { ImgtxError } from "../../src/errors/index.ts";
import { GATE, judge } from "./hostile-operations.ts";
import { GOLDEN_PATH, IMAGE_PATH, SECRET_PATH } from "./hostile-subject.ts";
import type { MemoryDisk } from "./memory-storage.ts";

type WritableImage = Awaited<ReturnType<typeof openForWriting>>;

const OUTSIDE: readonly string[] = [SECRET_PATH, GOLDEN_PATH];

/** before: what a check said of the image; undefined where it refused to. */
export async function tryWriting(disk: MemoryDisk, before: CheckResult | undefined): Promise<void> {
  const image = await openRefusing(disk);
  const isSound = before !== undefined && before.corruptions + before.checkErrors === 0;
  let failure: unknown;
  try {
    await writeAbout(image, isSound);
  } catch (error) {
    failure = error;
  } finally {
    await image.close();
  }
  for (const path of OUTSIDE) {
    if (disk.require(path).changes > 0) throw new Error(`writing to the image changed ${path}`);
  }
  if (isSound) {
    const lines: string[] = [];
    const after = await judge(disk.storage, lines);
    if (after.corruptions + after.checkErrors > 0) {
      throw new Error(`sound before, and after writing: ${lines.slice(0, 3).join("; ")}`, { cause: failure });
    }
  }
  if (failure !== undefined) throw failure;
}

async function openRefusing(disk: MemoryDisk): Promise<WritableImage> {
  try {
    return await openForWriting(disk.storage, IMAGE_PATH, { format: "qcow2", gate: GATE });
  } catch (error) {
    if (error instanceof ImgtxError && disk.require(IMAGE_PATH).changes > 0) {
      throw new Error(`refused for writing, and changed all the same: ${error.message}`, { cause: error });
    }
    throw error;
  }
}

async function writeAbout(image: WritableImage, isSound: boolean): Promise<void> {
  const { virtualSizeBytes } = image;
  const rangeAt = (eighths: number, lengthBytes: number) => {
    const start = Math.floor((virtualSizeBytes * eighths) / 8 / 512) * 512;
    return guestRange(start, Math.min(lengthBytes, virtualSizeBytes - start));
  };
  const write = async (eighths: number, lengthBytes: number): Promise<void> => {
    const range = rangeAt(eighths, lengthBytes);
    const bytes = Buffer.alloc(range.lengthBytes, 0xa5 + eighths);
    await image.write(bytes, range.start);
    const back = Buffer.alloc(bytes.length);
    await image.read(back, range.start);
    if (isSound && !back.equals(bytes))
      throw new Error(`what was written at ${range.start} does not read back`);
  };
  await write(0, 3000);
  await write(4, 70_000);
  await image.writeZeroes(rangeAt(2, 9000), true);
  await image.discard(rangeAt(6, 200_000));
  await image.writeZeroes(rangeAt(0, 512), false);
  await write(5, 512);
  await write(1, 1536);
  await image.flush("fuzz");
}
