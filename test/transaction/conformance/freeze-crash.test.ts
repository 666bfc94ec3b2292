// Freezing and unfreezing that are cut off, and images that somebody has open.

import { copyFileSync, readFileSync, renameSync, rmSync } from "node:fs";
import { describe, expect, onTestFinished, test } from "vitest";
import { holdImages } from "../../../src/format/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { startQemuDaemon } from "../../helpers/qemu-programs.ts";
import {
  dieFencing,
  fingerprintOf,
  freeze,
  frozen,
  isFenced,
  makeOldBench,
  T0,
  unfreeze,
} from "../../helpers/transaction/freezing.ts";
import { type Call, killAt } from "../../helpers/storage/watched-storage.ts";
import { NO_WAIT } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

describe("a crash", () => {
  const isCall = (name: string, purpose?: string) => (call: Call) =>
    call.name === name && (purpose === undefined || call.purpose === purpose);

  test.each([
    ["before the fence is lifted", isCall("file.write"), true],
    ["before its time goes back", isCall("file.setModified"), false],
    ["before that is durable", isCall("file.flush", "redo log: fence lifted"), true],
  ])("of unfreeze %s is finished by the next command", async (_, matches, isDated) => {
    const bench = await makeOldBench();
    const before = await fingerprintOf(bench, "c.qcow2");
    await bench.run(freeze(["vdc"]));
    const onImage = (call: Call) => call.path === bench.at("c.qcow2") && matches(call);
    const dying = bench.through(killAt(bench.storage, onImage));
    await expect(dying.run(unfreeze(["vdc"]))).rejects.toThrow("killed");
    expect(await frozen(bench)).toEqual([]);
    // After the write nobody knows whether a guest was started before the recovery: an unknown time stays.
    const { modifiedNs } = (await fingerprintOf(bench, "c.qcow2")) as { modifiedNs: string };
    expect(modifiedNs === String(BigInt(T0.getTime()) * 1_000_000n)).toBe(isDated);
    expect(await fingerprintOf(bench, "c.qcow2")).toEqual({ ...before, modifiedNs });
  });

  test("of unfreeze waits where the image is a copy by then, which stays as it is", async () => {
    const bench = await makeOldBench();
    await bench.run(freeze(["vdc"]));
    const onImage = (call: Call) => call.path === bench.at("c.qcow2") && call.name === "file.write";
    await expect(bench.through(killAt(bench.storage, onImage)).run(unfreeze(["vdc"]))).rejects.toThrow(
      "killed",
    );
    renameSync(bench.at("c.qcow2"), bench.at("aside"));
    copyFileSync(bench.at("aside"), bench.at("c.qcow2"));
    const copy = readFileSync(bench.at("c.qcow2"));
    expect((await bench.session()).recovered).toMatchObject([
      { did: "waiting", obstacle: { code: "E_CHANGED", isCommitted: true, devices: ["vdc"] } },
    ]);
    expect(readFileSync(bench.at("c.qcow2")).equals(copy)).toBe(true);
    renameSync(bench.at("aside"), bench.at("c.qcow2"));
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect([await frozen(bench), isFenced(bench.at("c.qcow2"))]).toEqual([[], false]);
  });

  test("of freeze leaves the image as it was, with its time", async () => {
    const bench = await makeOldBench();
    const before = await fingerprintOf(bench, "c.qcow2");
    await expect(dieFencing(bench).run(freeze(["vdc"]))).rejects.toThrow("killed");
    expect(isFenced(bench.at("c.qcow2"))).toBe(true);
    expect(await frozen(bench)).toEqual([]);
    expect(await fingerprintOf(bench, "c.qcow2")).toEqual(before);
  });

  test("of unfreeze waits for a reader of the image, and names it", async () => {
    const bench = await makeOldBench();
    await bench.run(freeze(["vdc"]));
    const onImage = (call: Call) => call.path === bench.at("c.qcow2") && call.name === "file.write";
    await expect(bench.through(killAt(bench.storage, onImage)).run(unfreeze(["vdc"]))).rejects.toThrow(
      "killed",
    );
    const reader = await bench.storage.openFile(bench.at("c.qcow2"), "read");
    await holdImages(bench.storage, [{ file: reader }], NO_WAIT);
    expect((await bench.session()).recovered).toMatchObject([
      { did: "waiting", obstacle: { code: "E_LOCKED", isCommitted: true, devices: ["vdc"] } },
    ]);
    await reader.close();
    expect(await frozen(bench)).toEqual([]);
    expect(isFenced(bench.at("c.qcow2"))).toBe(false);
  });

  test("undoes a fence only in the very file that was planned", async () => {
    const bench = await makeOldBench();
    await expect(dieFencing(bench).run(freeze(["vdc"]))).rejects.toThrow("killed");
    const fenced = readFileSync(bench.at("c.qcow2"));
    rmSync(bench.at("c.qcow2"));
    bench.makeFile("taken-inode", "so that the inode number is not used again");
    bench.makeFile("c.qcow2", fenced);
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "aborted" });
    expect(note?.text).toContain("another file has its name");
    expect(isFenced(bench.at("c.qcow2"))).toBe(true);
  });

  test("of freeze is undone where the image has gone", async () => {
    const bench = await makeOldBench();
    await expect(dieFencing(bench).run(freeze(["vdc"]))).rejects.toThrow("killed");
    rmSync(bench.at("c.qcow2"));
    expect((await bench.session()).recovered).toMatchObject([{ did: "aborted" }]);
  });
});

const qemu = oracle("qemu-storage-daemon", "qemu-img");

describe("a running QEMU", () => {
  qemu.test.each([
    ["writes to it", false],
    ["only reads it", true],
  ])("that %s keeps a device from being frozen, and is named", async (_, isReadOnly) => {
    const bench = await makeOldBench();
    const daemon = await startQemuDaemon(bench.at("c.qcow2"), makeFolder(), !isReadOnly);
    onTestFinished(daemon.stop);
    const failure = await failureOf(async () => await bench.run(freeze(["vda", "vdc"])));
    expect(failure).toMatchObject({ code: "E_LOCKED", device: "vdc" });
    expect(failure.message).toContain("qemu-storage-da");
    expect([isFenced(bench.at("a.qcow2")), isFenced(bench.at("c.qcow2"))]).toEqual([false, false]);
  });
});
