// The proposals' own actions by QMP, on a workspace on the disk: mirror and reopen, migrate, freeze.

import { existsSync, mkdirSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { guestDigest, openGuest, openHostImage } from "../../../helpers/guest-content.ts";
import { makeWorkbench, type Workbench } from "../../../helpers/transaction/workbench.ts";
import { runCli } from "../../../helpers/cli/harness.ts";

const START = { execute: "blockdev-start-transaction" };
const COMMIT = { execute: "blockdev-commit-transaction" };

function command(execute: string, parameters: object): object {
  return { execute, arguments: parameters };
}

async function run(bench: Workbench, commands: readonly object[]) {
  writeFileSync(bench.at("batch.json"), JSON.stringify(commands));
  const result = await runCli(["txn", "run", "batch.json"], { cwd: bench.root });
  const answers = result.stdout.trimEnd().split("\n");
  return { ...result, good: answers.map((line) => line === '{"return": {}}') };
}

async function expectDone(bench: Workbench, commands: readonly object[]): Promise<void> {
  const { status, stderr, good } = await run(bench, commands);
  expect({ status, stderr: status === 0 ? "" : stderr, good }).toEqual({
    status: 0,
    stderr: "",
    good: commands.map(() => true),
  });
}

async function imgtx(bench: Workbench, ...argv: string[]): Promise<void> {
  const { status, stderr } = await runCli(argv, { cwd: bench.root });
  expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" });
}

async function deviceOf(bench: Workbench, name: string) {
  const device = (await bench.devices()).find((each) => each.name === name);
  if (!device) throw new Error(`there is no ${name}`);
  return device;
}

test("a drive-mirror and a drive-reopen to it are one transaction", async () => {
  const bench = await makeWorkbench();
  const [content, generation] = [await bench.content(), await bench.generation()];
  await expectDone(bench, [
    START,
    command("drive-mirror", { device: "vda", dest: "m.qcow2", format: "qcow2" }),
    command("drive-reopen", { device: "vda", "new-image-file": "m.qcow2", format: "qcow2" }),
    COMMIT,
  ]);
  expect((await bench.images())["vda"]).toBe("m.qcow2");
  expect(await bench.content()).toEqual(content);
  expect(await bench.generation()).toBe(generation + 1);
});

test("a mirror is kept, a backup is not, and a device with a mirror is not backed up", async () => {
  const bench = await makeWorkbench();
  await expectDone(bench, [command("drive-mirror", { device: "vda", target: "m.qcow2", sync: "full" })]);
  expect((await deviceOf(bench, "vda")).mirror).toMatchObject({ image: bench.at("m.qcow2"), sync: "full" });
  const backup = (device: string, target: string) =>
    command("drive-backup", { device, target, sync: "full", format: "qcow2" });
  await expectDone(bench, [backup("vdb", "copy.qcow2")]);
  expect((await deviceOf(bench, "vdb")).mirror).toBeNull();
  expect(guestDigest(openGuest(openHostImage, bench.at("copy.qcow2"), "qcow2"))).toBe(
    (await bench.content())["vdb"],
  );
  expect((await run(bench, [backup("vda", "copy-a.qcow2")])).status).toBe(14);
  expect((await deviceOf(bench, "vda")).mirror).not.toBeNull();
});

test("a mirror in a started transaction that fails leaves no file", async () => {
  const bench = await makeWorkbench();
  const { status, good } = await run(bench, [
    START,
    command("drive-mirror", { device: "vda", target: "m.qcow2" }),
    command("drive-reopen", { device: "vdx", source: "m.qcow2" }),
    COMMIT,
  ]);
  expect({ status, good }).toEqual({ status: 14, good: [true, true, false, false] });
  expect(existsSync(bench.at("m.qcow2"))).toBe(false);
  expect(await bench.open()).toEqual([]);
});

test("a drive-migrate begins a move that mirror and drive-reopen end", async () => {
  const bench = await makeWorkbench();
  const content = await bench.content();
  mkdirSync(bench.at("moved"));
  await expectDone(bench, [
    command("drive-migrate", { device: "vdc", dest: "moved/c1.qcow2", "new-source": "c1.qcow2" }),
  ]);
  expect((await bench.images())["vdc"]).toBe("c1.qcow2");
  await imgtx(bench, "mirror", "vdc");
  await expectDone(bench, [command("drive-reopen", { device: "vdc", source: "moved/c1.qcow2" })]);
  const { image, chain } = await deviceOf(bench, "vdc");
  expect(image).toBe(bench.at("moved/c1.qcow2"));
  for (const layer of chain) expect(layer.image.startsWith(bench.at("moved/"))).toBe(true);
  expect(await bench.content()).toEqual(content);
});

test("a blockdev-freeze lasts until blockdev-unfreeze", async () => {
  const bench = await makeWorkbench();
  await expectDone(bench, [command("blockdev-freeze", { device: "vdc" })]);
  expect((await deviceOf(bench, "vdc")).frozen).toBe(true);
  await expectDone(bench, [command("blockdev-unfreeze", { device: "vdc" })]);
  expect((await deviceOf(bench, "vdc")).frozen).toBe(false);
});
