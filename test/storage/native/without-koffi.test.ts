// Where koffi can't be loaded imgtx still reads, and refuses to lock: so it refuses to write.

import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { acquireImageLocks, lockFile, makeNodeStorage } from "../../../src/storage/index.ts";
import { pattern, readAll } from "../conformance.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const NO_WAIT = { waitMs: 0, onWait: () => undefined };
const BLOCK = 64 * 1024;

function makeCrippledStorage() {
  let attempts = 0;
  const storage = makeNodeStorage({
    loadSystemCalls() {
      attempts += 1;
      throw new Error("Cannot find module '@koromix/koffi-linux-x64'\nRequire stack: …");
    },
  });
  return { storage, root: makeFolder(), attempts: () => attempts };
}

test("every lock is refused with the reason and the mend, and nothing is created by trying", async () => {
  const { storage, root, attempts } = makeCrippledStorage();
  const file = await storage.createFile(`${root}/a`, 0o600);
  const range = { start: 0, lengthBytes: 1 };
  const calls = [
    () => file.lock(range, "shared"),
    () => file.wouldConflict(range, "exclusive"),
    () => lockFile(storage, file, range, NO_WAIT, "the workspace"),
    () => acquireImageLocks(storage, [{ file, role: "reader" }], NO_WAIT),
  ];
  for (const call of calls) {
    const failure = await failureOf(call);
    expect(failure).toMatchObject({ code: "E_UNSUPPORTED", exitCode: 12, image: `${root}/a` });
    expect(failure.message).toBe(
      `Could not lock '${root}/a': koffi could not be loaded (Cannot find module '@koromix/koffi-linux-x64')`,
    );
    expect(failure.hint).toContain("npm install --include=optional");
  }
  expect(attempts()).toBe(1);
  await file.close();
});

test("everything that is read counts as data up to the end", async () => {
  const { storage, root } = makeCrippledStorage();
  const file = await storage.createFile(`${root}/a`, 0o600);
  await file.truncate(8 * BLOCK);
  expect(await file.seekData(BLOCK)).toBe(BLOCK);
  expect(await file.seekHole(BLOCK)).toBe(8 * BLOCK);
  expect(await file.seekData(8 * BLOCK)).toBeUndefined();
  expect(await file.seekHole(9 * BLOCK)).toBe(9 * BLOCK);
  await file.close();
});

test("copies, punched holes and renames come out the same", async () => {
  const { storage, root } = makeCrippledStorage();
  const source = await storage.createFile(`${root}/a`, 0o600);
  await source.write(pattern(3 * BLOCK), 0);
  const target = await storage.createFile(`${root}/b`, 0o600);
  expect(await target.cloneFrom(source)).toBe(false);
  await target.copyRangeFrom(source, BLOCK, 10, 2 * BLOCK);
  await target.punchHole({ start: 20, lengthBytes: 5 * BLOCK });
  const bytes = await readAll(target);
  expect(bytes.length).toBe(2 * BLOCK + 10);
  expect([...bytes.subarray(10, 20)]).toEqual([...pattern(3 * BLOCK).subarray(BLOCK, BLOCK + 10)]);
  expect(bytes.subarray(20).every((byte) => byte === 0)).toBe(true);
  expect((await failureOf(() => storage.renameWithoutReplacing(`${root}/a`, `${root}/b`))).code).toBe(
    "E_EXISTS",
  );
  await storage.renameWithoutReplacing(`${root}/a`, `${root}/c`);
  expect(await storage.readFolder(root)).toEqual(["b", "c"]);
  await storage.makeFolder(`${root}/folder`, 0o700);
  const failure = await failureOf(() => storage.renameWithoutReplacing(`${root}/folder`, `${root}/d`));
  expect(failure.code).toBe("E_UNSUPPORTED");
  expect(await storage.readFolder(root)).toEqual(["b", "c", "folder"]);
  await source.close();
  await target.close();
});

// A process of its own: what the tests before it have loaded stays loaded here.
test("neither koffi nor fs-extra is loaded before a call needs it", () => {
  const script = `
    import assert from "node:assert";
    import { createRequire } from "node:module";
    import { makeNodeStorage } from "./src/storage/index.ts";
    const isLoaded = (name) =>
      Object.keys(createRequire(import.meta.url).cache).some((path) => /node_modules\\/.*$/.exec(path)?.[0].includes(name));
    const root = process.argv[1];
    const storage = makeNodeStorage();
    const file = await storage.createFile(root + "/a", 0o600);
    await file.write(Buffer.from("content"), 0);
    await file.flush("content");
    await storage.flushFolder(root, "name");
    await storage.rename(root + "/a", root + "/b");
    await storage.removeFolder(root + "/none");
    assert.equal(isLoaded("koffi"), false);
    assert.equal(isLoaded("fs-extra"), false);
    assert.equal(file.lock({ start: 0, lengthBytes: 1 }, "shared"), true);
    assert.equal(isLoaded("koffi"), true);
    await file.close();
    process.stdout.write("as claimed");
  `;
  const options = ["--import", "./test/tooling/typescript.mjs", "--input-type=module", "--eval", script];
  const { stdout, stderr } = spawnSync("node", [...options, makeFolder()], { encoding: "utf8" });
  expect({ stdout, stderr }).toEqual({ stdout: "as claimed", stderr: "" });
});
