// What a mirror is refused for, with nothing changed: targets that are somebody's, images that somebody has open,
// and disks without room.

import { execFileSync } from "node:child_process";
import { copyFileSync, readFileSync, rmSync, truncateSync } from "node:fs";
import { describe, expect, onTestFinished, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { ImgtxError } from "../../../src/errors/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { StorageDaemon } from "../../helpers/qmp/storage-daemon.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import {
  atNthAfterMark,
  expectRefused,
  IDENTICAL,
  judge,
  mirror,
  stagingFiles,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { failAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const daemon = oracle("qemu-storage-daemon", "qemu-img");

function makeImage(bench: Workbench, ...words: string[]): void {
  execFileSync("qemu-img", ["create", "-q", ...words], { cwd: bench.root });
}

describe("an existing target", () => {
  test.each(["an image", "text", "a folder"])("that is %s is refused without --reuse", async (what) => {
    const bench = await makeWorkbench();
    if (what === "an image") bench.makeQcow2("m.qcow2", 8);
    else bench.makeFile(what === "text" ? "m.qcow2" : "m.qcow2/inside", "the user's own");
    await expectRefused(bench, { vda: "m.qcow2" }, { code: "E_EXISTS", exitCode: 14, device: "vda" });
  });

  test("that is a data file is refused, --reuse or not", async () => {
    const bench = await makeWorkbench();
    bench.makeFile("m.data", "the user's own");
    const options = { dataFileName: bench.at("m.data") };
    for (const reuse of [false, true]) {
      await expectRefused(
        bench,
        { vda: "m.qcow2" },
        { code: "E_EXISTS", image: bench.at("m.data") },
        {
          reuse,
          options,
        },
      );
    }
  });

  qemu.test(
    "that an overlay stands on is refused: as a target, and as a mirror to bring in sync",
    async () => {
      const bench = await makeWorkbench();
      makeImage(bench, "-f", "qcow2", "m.img", "192k");
      bench.makeFile("clones/README", "a folder\n");
      makeImage(bench, "-f", "qcow2", "-b", "../m.img", "-F", "qcow2", "clones/clone.qcow2");
      const refused = { code: "E_IN_USE", image: bench.at("m.img"), device: "vdc" };
      await expectRefused(bench, { vdc: "m.img" }, refused, { reuse: true });
      rmSync(bench.at("clones/clone.qcow2"));
      await mirror(bench, { vdc: "m.img" }, { reuse: true });
      makeImage(bench, "-f", "qcow2", "-b", "../m.img", "-F", "qcow2", "clones/clone.qcow2");
      writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 55 0 10k");
      await expectRefused(bench, { vdc: undefined }, refused);
      expect(await failureOf(async () => await bench.reopen("vdc", "m.img"))).toMatchObject(refused);
    },
  );

  qemu.test.each([
    ["vda", "qcow2", undefined],
    ["vdb", "raw", undefined],
    ["vdb", "qcow2", "qcow2"],
    ["vdc", "qcow2", undefined],
  ])("for %s in %s, asked for as %s, is taken with --reuse", async (device, made, format) => {
    const bench = await makeWorkbench();
    makeImage(bench, "-f", made, "m.img", "192k");
    writeGuest(bench.at("m.img"), made, "write -P 55 0 100k");
    await mirror(bench, { [device]: "m.img" }, { reuse: true, format });
    expect(await judge(bench, device)).toBe(IDENTICAL);
    expect((await mirror(bench, { [device]: undefined })).changed).toBe(false);
  });

  qemu.test("that is like the device already is taken without a write to it", async () => {
    const bench = await makeWorkbench();
    copyFileSync(bench.at("b.raw"), bench.at("m.raw"));
    const before = readFileSync(bench.at("m.raw"));
    await mirror(bench, { vdb: "m.raw" }, { reuse: true });
    expect(readFileSync(bench.at("m.raw")).equals(before)).toBe(true);
    expect((await mirror(bench, { vdb: undefined })).changed).toBe(false);
  });

  qemu.test("with --sync top has to stand on the same image", async () => {
    const bench = await makeWorkbench();
    makeImage(bench, "-f", "qcow2", "-b", "base.raw", "-F", "raw", "right.qcow2");
    makeImage(bench, "-f", "qcow2", "-b", "b.raw", "-F", "raw", "wrong.qcow2");
    makeImage(bench, "-f", "qcow2", "alone.qcow2", "192k");
    const how = { reuse: true, sync: "top" as const };
    for (const name of ["wrong.qcow2", "alone.qcow2"]) {
      await expectRefused(bench, { vda: name }, { code: "E_REFUSED", device: "vda" }, how);
    }
    await expectRefused(bench, { vda: "right.qcow2" }, { code: "E_REFUSED" }, { reuse: true });
    await mirror(bench, { vda: "right.qcow2" }, how);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test("of another size, or that is no image, is refused with --reuse", async () => {
    const bench = await makeWorkbench();
    makeImage(bench, "-f", "qcow2", "big.qcow2", "1M");
    bench.makeFile("text.qcow2", "the user's own");
    await expectRefused(bench, { vda: "big.qcow2" }, { code: "E_REFUSED", exitCode: 14 }, { reuse: true });
    await expectRefused(bench, { vda: "text.qcow2" }, { device: "vda" }, { reuse: true });
    await expectRefused(bench, { vdb: "text.qcow2" }, { device: "vdb" }, { reuse: true });
  });

  qemu.test("that is qcow2 is not taken for a raw one that happens to be as large", async () => {
    const bench = await makeWorkbench();
    makeImage(bench, "-f", "qcow2", "m.img", "10M");
    truncateSync(bench.at("m.img"), 192 * 1024);
    await expectRefused(bench, { vdb: "m.img" }, { device: "vdb" }, { reuse: true });
    await mirror(bench, { vdb: "m.img" }, { reuse: true, format: "raw" });
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
  });

  test.each([
    ["another device's image", { vda: "c.qcow2" }],
    ["an image that another device stands on", { vdb: "base.raw" }],
    ["the device's own image", { vdc: "c.qcow2" }],
    ["the device's own base", { vda: "base.raw" }],
  ])("that is %s is refused with --reuse", async (_, files) => {
    const bench = await makeWorkbench();
    const format = Object.values(files).includes("base.raw") ? "raw" : undefined;
    await expectRefused(bench, files, { code: "E_IN_USE", exitCode: 14 }, { reuse: true, format });
    await expectRefused(bench, files, { code: "E_EXISTS" });
  });

  test("that is another device's mirror is refused", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" });
    await expectRefused(bench, { vda: "m.qcow2" }, { exitCode: 14 }, { reuse: true });
    await expectRefused(bench, { vda: "m.qcow2" }, { code: "E_EXISTS" });
  });
});

describe("a device with a mirror", () => {
  test.each([
    [{ vdc: "other.qcow2" }, {}, /it has a mirror already/],
    [{ vdc: "m.qcow2" }, { format: "raw" }, /it is the mirror of 'vdc' already, and its format is qcow2/],
    [{ vdc: "m.qcow2" }, { sync: "none" as const }, /and it was made with --sync full/],
  ])("given %j with %j is refused", async (files, how, message) => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" });
    await expectRefused(
      bench,
      files,
      { code: "E_REFUSED", message: expect.stringMatching(message) as string },
      how,
    );
  });

  test("keeps others from its mirror: it is no device, no active layer and no base of another", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" });
    const before = snapshotWorkspace(bench.root);
    for (const attempt of [
      async () => await bench.add("vdx", "m.qcow2"),
      async () => await bench.reopen("vda", "m.qcow2"),
    ]) {
      expect(await failureOf(attempt)).toMatchObject({ code: "E_IN_USE", exitCode: 14 });
    }
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  qemu.test("can be snapshotted, and removed, and the file of its mirror stays", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "m.qcow2", vdc: "n.qcow2" });
    await bench.snapshot({ vda: "a1.qcow2", vdc: "c1.qcow2" });
    expect((await bench.devices()).map(({ mirror: copy }) => copy?.sync)).toEqual([
      "full",
      undefined,
      "full",
    ]);
    await bench.remove("vda");
    expect(readFileSync(bench.at("m.qcow2")).length).toBeGreaterThan(0);
    await bench.add("vdm", "m.qcow2");
    await mirror(bench, { vdc: undefined });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });
});

describe("an image that QEMU has open", () => {
  async function open(bench: Workbench, name: string, readOnly: boolean): Promise<void> {
    const qemuDaemon = await StorageDaemon.start(bench.root);
    onTestFinished(async () => {
      await qemuDaemon.stop();
    });
    await qemuDaemon.open("it", bench.at(name), "qcow2", { "read-only": readOnly });
    if (readOnly) return;
    // Without an export QEMU takes no permission to write.
    const addr = { type: "unix", data: { path: bench.at("nbd.sock") } };
    await qemuDaemon.do("nbd-server-start", { addr });
    await qemuDaemon.do("block-export-add", { type: "nbd", id: "e", "node-name": "it", writable: true });
  }

  daemon.test("for writing is not mirrored", async () => {
    const bench = await makeWorkbench();
    await open(bench, "c.qcow2", false);
    const failure = await failureOf(async () => await mirror(bench, { vdc: "m.qcow2" }));
    expect(failure).toMatchObject({ code: "E_LOCKED", exitCode: 10, device: "vdc", changed: false });
    expect(stagingFiles(bench)).toEqual([]);
  });

  daemon.test("for reading is mirrored", async () => {
    const bench = await makeWorkbench();
    await open(bench, "c.qcow2", true);
    await mirror(bench, { vdc: "m.qcow2" });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  daemon.test("and that is a mirror is not brought in sync", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" });
    bench.makeQcow2("c.qcow2", 44);
    const before = stateOf(bench.at("m.qcow2"));
    await open(bench, "m.qcow2", true);
    const failure = await failureOf(async () => await mirror(bench, { vdc: undefined }));
    expect(failure).toMatchObject({
      code: "E_LOCKED",
      exitCode: 10,
      device: "vdc",
      image: bench.at("m.qcow2"),
    });
    expect(stateOf(bench.at("m.qcow2"))).toEqual(before);
    expect(stagingFiles(bench)).toEqual([]);
  });
});

describe("a disk without room", () => {
  const full = new ImgtxError("E_NO_SPACE", "no space left on device");

  test.each(["new", "old"])("for a mirror that is %s leaves nothing", async (which) => {
    const bench = await makeWorkbench();
    const isOld = which === "old";
    if (isOld) {
      await mirror(bench, { vdc: "m.qcow2" });
      bench.makeQcow2("c.qcow2", 44);
    }
    const before = snapshotWorkspace(bench.root);
    let writes = 0;
    const storage = failAt(
      makeNodeStorage(),
      ({ name, path }) => name === "file.write" && path.includes("/.imgtx-") && (writes += 1) > 3,
      full,
    );
    const files = { vdc: isOld ? undefined : "m.qcow2" };
    expect(await failureOf(async () => await mirror(bench.through(storage), files))).toMatchObject({
      code: "E_NO_SPACE",
      exitCode: 13,
    });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  qemu.test("after the commit mark is waited for: the next command goes on", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" });
    bench.makeQcow2("c.qcow2", 44);
    const storage = failAt(makeNodeStorage(), atNthAfterMark("file.write", "m.qcow2", 1), full);
    const failure = await failureOf(async () => await mirror(bench.through(storage), { vdc: undefined }));
    expect(failure).toMatchObject({ code: "E_UNFINISHED", exitCode: 16, changed: true });
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
    expect(stagingFiles(bench)).toEqual([]);
  });
});

test("a second device that is taken for the file of the first is told how to write both", async () => {
  const bench = await makeWorkbench();
  await mirror(bench, { vdc: "m.qcow2" });
  const failure = await failureOf(async () => await mirror(bench, { vdc: "vda" }));
  expect(failure.hint).toBe(`'vda' is a device: several are written as vdc=${bench.at("m.qcow2")} vda=FILE`);
});
