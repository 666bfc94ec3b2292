// imgtx relocate DIR FOLDER: a workspace goes to another folder with all that it knows, and its old folder says where it is.

import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { runCli, type Result } from "../../helpers/cli/harness.ts";
import { failAt } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

interface Bench {
  readonly top: string;
  /** In the folder `old` or `new`. */
  readonly run: (folder: string, line: string, storage?: Storage) => Promise<Result>;
  /** The same, which must succeed. */
  readonly must: (folder: string, line: string) => Promise<Result>;
}

/** Two devices of which one lies deeper, two snapshots, and a file beside. */
async function makeBench(): Promise<Bench> {
  const top = makeFolder();
  for (const folder of ["old", "old/sub", "new"]) mkdirSync(`${top}/${folder}`);
  const run: Bench["run"] = async (folder, line, storage) =>
    await runCli(line.split(" "), { cwd: `${top}/${folder}`, ...(storage && { storage }) });
  const must: Bench["must"] = async (folder, line) => {
    const result = await run(folder, line);
    expect({ line, ...result }).toMatchObject({ status: 0 });
    return result;
  };
  await must("old", "img create -q -f qcow2 a.qcow2 1M");
  await must("old", "img create -q -f qcow2 sub/b.qcow2 1M");
  for (const line of ["vda a.qcow2", "vdb sub/b.qcow2"]) await must("old", `device add ${line}`);
  await must("old", "snapshot-group --all --name one --with a.qcow2");
  await must("old", "snapshot-group --all --name two");
  return { top, run, must };
}

test("devices, snapshots, files beside and history come along, and the old folder says where they are", async () => {
  const { top, run, must } = await makeBench();
  const dry = await must("old", "relocate . ../new --dry-run");
  expect(dry.stdout).toContain(`Would move the workspace ${top}/old to ${top}/new.`);
  expect(readdirSync(`${top}/new`)).toEqual([]);
  const before = JSON.parse((await must("old", "snapshot-list --json")).stdout) as { snapshots: unknown[] };
  const told = JSON.parse((await must("old", "relocate . ../new --json")).stdout) as object;
  expect(told).toMatchObject({
    schema: 1,
    changed: true,
    generation: 5,
    from: `${top}/old`,
    workspace: `${top}/new`,
    devices: [{ image: `${top}/new/a-after-two.qcow2` }, { image: `${top}/new/b-after-two.qcow2` }],
  });
  expect(readdirSync(`${top}/old/.imgtx`)).toEqual(["table.json"]);
  expect(readdirSync(`${top}/old`).toSorted()).toEqual([".imgtx", "sub"]);
  for (const line of [
    "status",
    "device add vdc x.qcow2",
    "init",
    "init --adopt",
    "init --restore",
    "relocate . ../new",
  ]) {
    const { status, stderr } = await run("old", line);
    expect([line, status]).toEqual([line, 14]);
    expect(stderr).toContain(`was moved to ${top}/new`);
    expect(stderr).toContain(`imgtx --workspace ${top}/new status`);
  }
  // From above both.
  expect((await run("", "doctor --json .")).status).toBe(0);
  // Stored names are relative to the new folder: it may be renamed.
  renameSync(`${top}/new`, `${top}/newer`);
  await must("newer", "status --check");
  const after = JSON.parse((await must("newer", "snapshot-list --json")).stdout) as { snapshots: unknown[] };
  expect(after.snapshots.length).toBe(before.snapshots.length);
  const shown = JSON.parse((await must("newer", "snapshot-show one --json")).stdout) as object;
  expect(shown).toMatchObject({ snapshot: { files: [{ name: "a.qcow2", problem: null }] } });
  expect((await must("newer", "history")).stdout).toContain("device-add vda");
  await must("newer", "rollback --to one");
  expect(JSON.parse((await must("newer", "doctor --json")).stdout)).toMatchObject({ findings: [] });
});

test("an open transaction, another workspace, and a folder in itself are refused, and nothing is changed", async () => {
  const { top, run, must } = await makeBench();
  const table = (): string => readFileSync(`${top}/old/.imgtx/table.json`, "utf8");
  const before = table();
  await must("old", "txn begin");
  const open = await run("old", "relocate . ../new");
  expect([open.status, open.stderr]).toEqual([11, expect.stringContaining("is open, or not finished")]);
  await must("old", "txn abort");
  for (const [line, why] of [
    ["relocate . sub", "lies in the workspace itself"],
    ["relocate . .", "own folder"],
    ["relocate . ../none", "there is no folder"],
  ] as const) {
    const { status, stderr } = await run("old", line);
    expect([line, status, stderr]).toEqual([line, 14, expect.stringContaining(why)]);
  }
  await must("new", "init");
  const other = await run("old", "relocate . ../new");
  expect([other.status, other.stderr]).toEqual([14, expect.stringContaining("has a workspace of its own")]);
  expect((await run("old", "relocate ./ ../new --keep")).status).toBe(64);
  expect(table()).toBe(before);
});

test("what was cut off before the old table changed goes on there, and what was cut off after it in the new folder", async () => {
  const { top, run, must } = await makeBench();
  const broken = (purpose: string): Storage =>
    failAt(makeNodeStorage(), (call) => call.purpose === purpose, new ImgtxError("E_IO", "the disk fails"));
  const early = await run("old", "relocate . ../new", broken("place of a moved workspace"));
  expect([early.status, early.stderr]).toEqual([13, expect.stringContaining(`still in ${top}/old`)]);
  await must("old", "status --check");
  const there = await run("new", "device remove vda");
  expect([there.status, there.stderr]).toEqual([14, expect.stringContaining("goes on with it")]);
  // The rename is done, and nobody knows whether it stays.
  const late = await run("old", "relocate . ../new", broken("name of a moved workspace's place"));
  expect([late.status, late.stderr]).toEqual([16, expect.stringContaining("recover` goes on")]);
  expect((await run("old", "status")).status).toBe(14);
  const { stderr } = await must("new", "recover");
  expect(stderr + (await must("new", "status --check")).stdout).toContain(`${top}/new`);
  expect(existsSync(`${top}/old/.imgtx/history`)).toBe(false);
  await must("new", "snapshot vda --name three");
});

test("a folder that is named without a slash is taken for no device, and the hint moves its workspace", async () => {
  const { top } = await makeBench();
  const run = async (line: string) => await runCli(line.split(" "), { cwd: top });
  await run("init");
  const { status, stderr } = await run("relocate old new");
  expect(status).toBe(14);
  expect(stderr).toContain("error: 'old' is no device, but the folder of a workspace\n");
  const [, command = ""] = /hint: `imgtx (.*)` moves that\n/.exec(stderr) ?? [];
  expect(command).toBe(`relocate ./old ${top}/new`);
  expect(await run(command)).toMatchObject({ status: 0 });
  expect(readdirSync(`${top}/new`)).toContain("a-after-two.qcow2");
});

test("a file that somebody put among the devices is lost by no move: it is named, and the hint gets it out", async () => {
  const { top, run, must } = await makeBench();
  writeFileSync(`${top}/old/devices/backup.raw`, "somebody's");
  const refused = await run("old", "relocate . ../new");
  expect(refused).toMatchObject({ status: 14, stdout: "" });
  const [, source = "", target = ""] = /`mv (\S+) (\S+)`/.exec(refused.stderr) ?? [];
  expect(target).toBe(`${top}/old`);
  renameSync(source, `${target}/backup.raw`);
  // One that comes while the workspace goes stays where it is.
  const storage = makeNodeStorage();
  const late: Storage = {
    ...storage,
    removeFolder: async (path, options) => {
      if (path.endsWith("/history")) writeFileSync(`${top}/old/devices/late.raw`, "somebody's");
      await storage.removeFolder(path, options);
    },
  };
  expect(await run("old", "relocate . ../new", late)).toMatchObject({ status: 0 });
  expect(readFileSync(`${top}/old/backup.raw`, "utf8")).toBe("somebody's");
  const views = `${top}/old/.imgtx/view`;
  const [view = ""] = readdirSync(views);
  expect(readdirSync(`${views}/${view}`)).toEqual(["late.raw"]);
  expect((await must("new", "device list -q")).stdout).toBe("vda\nvdb\n");
});
