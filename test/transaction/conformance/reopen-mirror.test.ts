// reopen to a device's own mirror: the device keeps its content, and everything else is as for any image.

import { existsSync, linkSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { posix } from "node:path";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { freeze, frozen, unfreeze } from "../../helpers/transaction/freezing.ts";
import { isSameToGuest, startGuest } from "../../helpers/transaction/migrating.ts";
import { mirror, stagingFiles, stateOf, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io", "timeout");

/** vda with a full mirror, vdb with a raw one. */
async function makeMirrored(): Promise<Workbench> {
  const bench = await makeWorkbench();
  await mirror(bench, { vda: "m.qcow2", vdb: "n.raw" });
  return bench;
}

const WRITE = "write -P 6 8k 12k";

async function mirrors(bench: Workbench): Promise<(string | undefined)[]> {
  return (await bench.devices()).map((device) => device.mirror?.image);
}

/** That it is refused so, and that nothing changes. */
async function expectRefusal(bench: Workbench, file: string, expected: object): Promise<void> {
  const before = snapshotWorkspace(bench.root);
  const failure = await failureOf(async () => await bench.reopen("vda", file));
  expect(failure).toMatchObject({ device: "vda", changed: false, ...expected });
  expect(snapshotWorkspace(bench.root)).toEqual(before);
}

describe("a device goes over to its mirror", () => {
  test("that is in sync, which is not written to", async () => {
    const bench = await makeMirrored();
    const [content, before] = [await bench.content(), stateOf(bench.at("m.qcow2"))];
    const { actions } = await bench.reopen("vda", "m.qcow2");
    expect(actions).toMatchObject([{ kind: "reopen", files: [] }]);
    expect(actions[0]?.notes).toContain("the mirror was in sync with the device");
    expect(stateOf(bench.at("m.qcow2"))).toEqual(before);
    expect(await bench.content()).toEqual(content);
    expect((await bench.images())["vda"]).toBe("m.qcow2");
    expect((await mirrors(bench))[0]).toBeUndefined();
  });

  qemu.test("that is not in sync, with all that was written since", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", WRITE);
    const [content, source] = [await bench.content(), stateOf(bench.at("a.qcow2"))];
    const { actions } = await bench.reopen("vda", "m.qcow2");
    expect(actions).toMatchObject([{ files: [{ path: bench.at("m.qcow2"), change: "change" }] }]);
    expect(await bench.content()).toEqual(content);
    expect(isSameToGuest(bench.at("a.qcow2"), bench.at("m.qcow2"))).toBe(true);
    expect(stateOf(bench.at("a.qcow2"))).toEqual(source);
    expect(stagingFiles(bench)).toEqual([]);
  });

  qemu.test("that is raw and not in sync", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("b.raw"), "raw", WRITE);
    const content = await bench.content();
    await bench.reopen("vdb", "n.raw");
    expect((await bench.images())["vdb"]).toBe("n.raw");
    expect(await bench.content()).toEqual(content);
  });

  qemu.test.each([
    ["the mirror", ["m.qcow2"]],
    ["both", ["a.qcow2", "m.qcow2"]],
  ])("after somebody has written to %s, by comparing", async (_, files) => {
    const bench = await makeMirrored();
    for (const [index, file] of files.entries()) {
      writeGuest(bench.at(file), "qcow2", `write -P ${index + 1} ${index * 20}k 44k`);
    }
    const content = await bench.content();
    await bench.reopen("vda", "m.qcow2");
    expect(await bench.content()).toEqual(content);
    expect(isSameToGuest(bench.at("a.qcow2"), bench.at("m.qcow2"))).toBe(true);
  });

  qemu.test.each(["top", "none"] as const)("that was made with --sync %s", async (sync) => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "m.qcow2" }, { sync });
    const before = await bench.content();
    await bench.snapshot({ vda: "a1.qcow2" });
    writeGuest(bench.at("a1.qcow2"), "qcow2", WRITE);
    const content = await bench.content();
    expect(content).not.toEqual(before);
    await bench.reopen("vda", "m.qcow2");
    expect(await bench.content()).toEqual(content);
  });

  qemu.test("in a transaction, and the mirror is as it was until the commit, or for good", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", WRITE);
    const [content, before] = [await bench.content(), stateOf(bench.at("m.qcow2"))];
    const tree = snapshotWorkspace(bench.root);
    await bench.begin();
    await bench.reopen("vda", "m.qcow2");
    expect(stateOf(bench.at("m.qcow2"))).toEqual(before);
    await bench.abort();
    expect(snapshotWorkspace(bench.root)).toEqual(tree);
    await bench.begin();
    await bench.reopen("vda", "m.qcow2");
    expect(stateOf(bench.at("m.qcow2"))).toEqual(before);
    await bench.commit();
    expect(await bench.content()).toEqual(content);
    expect(stagingFiles(bench)).toEqual([]);
  });

  qemu.test("after a resync in the same transaction", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", WRITE);
    const content = await bench.content();
    await bench.begin();
    await mirror(bench, { vda: undefined });
    await bench.reopen("vda", "m.qcow2");
    await bench.commit();
    expect(await bench.content()).toEqual(content);
    expect(isSameToGuest(bench.at("a.qcow2"), bench.at("m.qcow2"))).toBe(true);
  });

  test("while it is frozen, and stays frozen, where the mirror is in sync", async () => {
    const bench = await makeMirrored();
    const content = await bench.content();
    await bench.run(freeze(["vda"]));
    await mirror(bench, { vda: undefined });
    await bench.reopen("vda", "m.qcow2");
    expect(await frozen(bench)).toEqual(["vda"]);
    await bench.run(unfreeze(["vda"]));
    expect(await bench.content()).toEqual(content);
  });

  qemu.test("that is not in sync, which a freeze in between does not hide", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", WRITE);
    const content = await bench.content();
    await bench.run(freeze(["vda"]));
    await bench.run(unfreeze(["vda"]));
    await bench.reopen("vda", "m.qcow2");
    expect(await bench.content()).toEqual(content);
  });

  qemu.test("in words alone by a dry run", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", WRITE);
    const before = snapshotWorkspace(bench.root);
    const { actions, changed } = await bench.reopen("vda", "m.qcow2", { dryRun: true });
    expect({ changed, actions }).toMatchObject({
      changed: false,
      actions: [{ after: bench.at("m.qcow2"), files: [{ change: "change" }] }],
    });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  qemu.test("and back to its image, which has then the content that it had", async () => {
    const bench = await makeMirrored();
    const content = await bench.content();
    await bench.reopen("vda", "m.qcow2");
    writeGuest(bench.at("m.qcow2"), "qcow2", WRITE);
    expect(await bench.content()).not.toEqual(content);
    await bench.reopen("vda", "a.qcow2");
    expect(await bench.content()).toEqual(content);
  });
});

describe("a device does not go over to its mirror", () => {
  qemu.test.each([["a.qcow2"], ["m.qcow2"]])("while somebody writes to %s", async (file) => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", WRITE);
    const guest = await startGuest(bench.at(file));
    const failure = await failureOf(async () => await bench.reopen("vda", "m.qcow2"));
    await guest.stop();
    expect(failure).toMatchObject({ code: "E_LOCKED", exitCode: 10, image: bench.at(file), changed: false });
    expect((await bench.images())["vda"]).toBe("a.qcow2");
    expect(stagingFiles(bench)).toEqual([]);
  });

  qemu.test("while it is frozen and the mirror is not in sync, with a hint", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", WRITE);
    await bench.run(freeze(["vda"]));
    await expectRefusal(bench, "m.qcow2", { code: "E_REFUSED", exitCode: 14 });
    await mirror(bench, { vda: undefined });
    await bench.reopen("vda", "m.qcow2");
    expect(await frozen(bench)).toEqual(["vda"]);
  });

  test("that has gone", async () => {
    const bench = await makeMirrored();
    rmSync(bench.at("m.qcow2"));
    await expectRefusal(bench, "m.qcow2", { exitCode: 14 });
  });

  test("by a format that it does not have", async () => {
    const bench = await makeMirrored();
    const request = { kind: "reopen" as const, device: "vda", file: bench.at("m.qcow2"), force: false };
    const failure = await failureOf(async () => await bench.run({ ...request, format: "raw" }));
    expect(failure).toMatchObject({ code: "E_REFUSED", exitCode: 14 });
    await bench.run({ ...request, format: "qcow2" });
  });

  test.each([
    ["a symbolic link", symlinkSync],
    ["a second name", linkSync],
  ])("by %s, which would leave behind what was written since", async (_, link) => {
    const bench = await makeMirrored();
    link(bench.at("m.qcow2"), bench.at("other-name.qcow2"));
    await expectRefusal(bench, "other-name.qcow2", { code: "E_REFUSED", exitCode: 14 });
  });
});

test("a device that is reopened elsewhere has its mirror no more, and is told so once", async () => {
  const bench = await makeMirrored();
  bench.makeQcow2("other.qcow2", 31);
  const { actions } = await bench.reopen("vda", "other.qcow2");
  expect(actions[0]?.notes.filter((note) => note.includes(bench.at("m.qcow2")))).toHaveLength(1);
  expect((await mirrors(bench))[0]).toBeUndefined();
  expect(existsSync(bench.at("m.qcow2"))).toBe(true);
});

qemu.test(
  "a commit that fails while it brings the mirror in sync once more lets none commit the rest",
  async () => {
    const bench = await makeMirrored();
    const content = await bench.content();
    await bench.begin();
    await bench.reopen("vda", "m.qcow2");
    await bench.savepoint("vda is moved");
    await bench.reopen("vdb", "n.raw");
    writeGuest(bench.at("b.raw"), "raw", WRITE);
    const full = watchStorage(makeNodeStorage(), ({ name, path }) => {
      if (name === "createFile" && posix.basename(path).startsWith(".imgtx-"))
        throw new ImgtxError("E_NO_SPACE", "the disk is full");
    });
    const failed = await failureOf(async () => await bench.through(full).commit());
    expect(failed).toMatchObject({ code: "E_NO_SPACE" });
    for (const dryRun of [true, false]) {
      const refusal = await failureOf(async () => await bench.commit(undefined, { dryRun }));
      expect(refusal).toMatchObject({ code: "E_CHANGED", changed: false, device: "vdb" });
    }
    await bench.rollbackTo("vda is moved");
    await bench.reopen("vdb", "n.raw");
    await bench.commit();
    expect(await bench.images()).toMatchObject({ vda: "m.qcow2", vdb: "n.raw" });
    expect(await bench.content()).not.toEqual(content);
    expect(readFileSync(bench.at("n.raw"))).toEqual(readFileSync(bench.at("b.raw")));
  },
);
