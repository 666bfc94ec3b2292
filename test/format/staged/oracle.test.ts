// A staged change of a real image as QEMU sees it: nothing before the mark, nobody while it is half applied, and a sound
// image after.

import { guestOffset, guestRange } from "../../../src/units/index.ts";
import { copyFileSync, readFileSync } from "node:fs";
import { expect } from "vitest";
import { openForWriting } from "../../../src/format/open/open-for-writing.ts";
import { planFileFence } from "../../../src/format/qcow2/change/fence-image.ts";
import { resizeImage } from "../../../src/format/qcow2/change/resize-image.ts";
import {
  type Guard,
  RedoLog,
  sectorsOfFence,
  StagedStorage,
  surveyImage,
} from "../../../src/format/staged/index.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { run, runWell } from "../../helpers/qemu-programs.ts";
import { applySealed } from "./disks.ts";

const qemu = oracle("qemu-img", "qemu-io");
const MIB = 1024 ** 2;
const GATE = { allowPaths: ["/"], currentFolder: "/" };

async function change(storage: Storage, image: string): Promise<void> {
  const writer = await openForWriting(storage, image, { format: "qcow2", gate: GATE });
  await writer.write(new Uint8Array(300_000).fill(9), guestOffset(123_392));
  await writer.discard(guestRange(MIB, MIB));
  await writer.close();
  await resizeImage(storage, image, { format: "qcow2", gate: GATE }, 300 * MIB);
}

qemu.test.each([
  "cluster_size=512",
  "cluster_size=4k,refcount_bits=1",
  "cluster_size=64k",
  "cluster_size=16k,extended_l2=on,lazy_refcounts=on",
])("QEMU sees the old image, then none, then the new one: %s", async (options) => {
  const folder = makeFolder();
  const [image, direct] = [`${folder}/a.qcow2`, `${folder}/direct.qcow2`];
  runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, "8M");
  runWell("qemu-io", "-f", "qcow2", "-c", "write -P 7 3k 3M", image);
  copyFileSync(image, direct);
  const before = readFileSync(image);
  const storage = makeNodeStorage();
  await change(storage, direct);

  const staged = new StagedStorage(storage);
  await staged.stage(image, { transaction: "t", log: ".imgtx-t-0.redo", guardedBy: "fence" });
  await change(staged, image);
  const file = await storage.openFile(image, "write");
  const fence = await planFileFence(file, "t");
  if (fence === undefined) throw new Error("no place for a fence");
  const { start, lengthBytes } = sectorsOfFence(fence);
  await staged.include(image, start, lengthBytes);
  const [sealed] = await staged.seal();
  await staged.close();
  expect(readFileSync(image).equals(before)).toBe(true);
  runWell("qemu-img", "check", "-q", image);

  await file.write(fence.after, fence.offset);
  const guard: Guard = { kind: "fence", fence };
  for (const calls of [0, 1, 3, 5]) {
    expect((await applySealed(storage, sealed!, guard, calls)).wasCut).toBe(true);
    expect(run("qemu-img", "check", "-q", image).output).toContain("frozen by imgtx t");
  }
  await applySealed(storage, sealed!, guard);
  runWell("qemu-img", "check", "-q", image);
  expect(readFileSync(image).equals(readFileSync(direct))).toBe(true);

  // A guest goes on with it: it is finished, whatever recovery thinks of the log.
  runWell("qemu-io", "-f", "qcow2", "-c", "write -P 5 200M 2M", "-c", "discard 100k 1M", image);
  const used = readFileSync(image);
  const log = await RedoLog.open(storage, `${folder}/${sealed!.log}`, sealed!.end, "read");
  expect(await surveyImage(log, file, guard)).toEqual({ state: "used" });
  await applySealed(storage, sealed!, guard);
  expect(readFileSync(image).equals(used)).toBe(true);
  await Promise.all([log.close(), file.close()]);
});
