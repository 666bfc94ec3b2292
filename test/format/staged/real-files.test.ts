// Staging on a real file system: holes, links and locks as the kernel has them.

import { readdirSync, statSync, symlinkSync, truncateSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { applyLog, RedoLog, removeRedoLog, StagedStorage } from "../../../src/format/staged/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const MIB = 1024 ** 2;

test("a sparse image is staged by a link's name, applied, and is as sparse as it should be", async () => {
  const folder = makeFolder();
  const image = `${folder}/a.raw`;
  writeFileSync(image, Buffer.alloc(3 * MIB, 5));
  truncateSync(image, 4096 * MIB);
  symlinkSync("a.raw", `${folder}/link`);
  const storage = makeNodeStorage();
  const staged = new StagedStorage(storage);
  const logPath = await staged.stage(`${folder}/link`, {
    transaction: "t",
    log: ".imgtx-t-0.redo",
    guardedBy: "digests",
  });
  expect(readdirSync(folder)).toEqual([".imgtx-t-0.redo", "a.raw", "link"]);
  expect(statSync(logPath).mode & 0o777).toBe(0o600);
  const before = statSync(image, { bigint: true });
  const file = await staged.openFile(image, "write");
  await file.write(Buffer.from("staged"), 2048 * MIB + 700);
  await file.punchHole({ start: MIB, lengthBytes: 4000 * MIB });
  await file.write(Buffer.from("again"), 2048 * MIB + 700);
  await file.truncate(8192 * MIB);
  expect(file.lock({ start: 100, lengthBytes: 1 }, "shared")).toBe(true);
  expect(await file.seekData(MIB)).toBe(2048 * MIB);
  expect(await file.seekHole(0)).toBe(MIB);
  await file.close();
  const [sealed] = await staged.seal();
  await staged.close();
  const untouched = statSync(image, { bigint: true });
  expect([untouched.mtimeNs, untouched.ctimeNs]).toEqual([before.mtimeNs, before.ctimeNs]);
  expect(sealed).toMatchObject({ image, pages: 1, freedPages: 512, sizeAfter: 8192 * MIB });
  expect(statSync(logPath).size).toBeLessThan(MIB / 4);
  const log = await RedoLog.open(storage, logPath, sealed!.end, "read");
  const target = await storage.openFile(image, "write");
  await applyLog(log, target, { kind: "digests" });
  const bytes = new Uint8Array(6);
  await target.read(bytes, 2048 * MIB + 700);
  expect(Buffer.from(bytes).toString()).toBe("again\0");
  await Promise.all([target.close(), log.close()]);
  await removeRedoLog(storage, logPath);
  const after = statSync(image);
  expect(after.size).toBe(8192 * MIB);
  expect(after.blocks * 512).toBeLessThan(2 * MIB);
  expect(readdirSync(folder)).toEqual(["a.raw", "link"]);
});

test("a change that opens for writing what has no log is stopped before it touches it", async () => {
  const folder = makeFolder();
  const [image, other] = [`${folder}/a.raw`, `${folder}/other.raw`];
  for (const file of [image, other]) writeFileSync(file, Buffer.alloc(4096, 5));
  const staged = new StagedStorage(makeNodeStorage());
  await staged.stage(image, { transaction: "t", log: ".imgtx-t-0.redo", guardedBy: "digests" });
  const opening = staged.whileChanging(async () => await staged.openFile(other, "write"));
  await expect(opening).rejects.toMatchObject({ code: "E_INTERNAL", image: other });
  await (await staged.whileChanging(async () => await staged.openFile(image, "write"))).close();
  await (await staged.openFile(other, "write")).close();
  await staged.close();
});
