// imgtx mirror as it is typed, and what it prints.

import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { describe, expect, onTestFinished, test } from "vitest";
import { sampleQcow2 } from "../../helpers/sample-image.ts";
import { makeDevice, recordingEngine, runCli } from "../../helpers/cli/harness.ts";

function makeDisk(): string {
  const folder = mkdtempSync(`${tmpdir()}/imgtx-mirror-`);
  onTestFinished(() => {
    rmSync(folder, { recursive: true });
  });
  for (const [seed, name] of ["a.qcow2", "b.qcow2"].entries()) {
    const bytes = sampleQcow2({ virtualSizeBytes: 65_536, dataClusters: [0], seed });
    writeFileSync(`${folder}/${name}`, bytes);
  }
  return folder;
}

describe("the words", () => {
  test("name one device with a file or none, or several with one each", async () => {
    const { engine, calls } = recordingEngine();
    await runCli(["mirror", "vda", "m.qcow2", "--format", "qcow2", "--sync", "top"], { engine });
    await runCli(["mirror", "vda", "--verify"], { engine });
    await runCli(["mirror", "vda=m.qcow2", "vdb=/b/n=1.raw", "--reuse", "--relative"], { engine });
    await runCli(["mirror", "--cancel", "vda"], { engine });
    expect(calls.flatMap(({ requests }) => requests)).toMatchObject([
      {
        kind: "mirror",
        targets: [
          { device: "vda", file: "/srv/guests/m.qcow2", format: "qcow2", sync: "top", verify: false },
        ],
      },
      { kind: "mirror", targets: [{ device: "vda", file: undefined, sync: undefined, verify: true }] },
      {
        kind: "mirror",
        targets: [
          { device: "vda", file: "/srv/guests/m.qcow2", reuse: true, relative: true },
          { device: "vdb", file: "/b/n=1.raw", reuse: true, relative: true },
        ],
      },
      { kind: "mirror-cancel", devices: ["vda"] },
    ]);
  });

  test("take qemu-img's options, with a data file's name made absolute", async () => {
    const { engine, calls } = recordingEngine();
    const options = "cluster_size=64k,data_file=m.data,lazy_refcounts=on";
    await runCli(["mirror", "vda", "m.qcow2", "--compress", "-o", options], { engine });
    expect(calls[0]?.requests[0]).toMatchObject({
      targets: [
        {
          compressed: true,
          options: { clusterSizeBytes: 65_536, dataFileName: "/srv/guests/m.data", lazyRefcounts: true },
        },
      ],
    });
  });

  test.each([
    [["mirror"], "missing required argument 'DEV'"],
    [["mirror", "vda", "one", "two"], "'two' is one FILE too many"],
    [["mirror", "vda=a", "vdb"], "'vdb' is not of the form DEV=FILE"],
    [["mirror", "=a"], "'=a' is not of the form DEV=FILE"],
    [["mirror", "vda", "m", "--sync", "some"], "--sync"],
    [["mirror", "vda", "m", "--cancel"], "--cancel takes a device, and no FILE"],
    [["mirror", "vda", "--cancel", "--sync", "top"], "--cancel takes a device, and no --sync"],
    [["mirror", "vda", "m", "-o", "size=1M"], "the command sets it by itself"],
    [["mirror", "vda", "m", "-o", "no_such=1"], "-o: "],
  ])("%j are a usage error", async (argv, message) => {
    const { status, stderr } = await runCli(argv, { engine: {} });
    expect(stderr).toContain(message);
    expect(status).toBe(64);
  });
});

describe("what it prints", () => {
  test("names the copy, and says when there is nothing to do", async () => {
    const cwd = makeDisk();
    await runCli(["device", "add", "vda", "a.qcow2"], { cwd });
    const made = await runCli(["mirror", "vda", "m.qcow2"], { cwd });
    expect(made).toMatchObject({ status: 0, stderr: "" });
    expect(made.stdout).toContain(`vda: mirrored: ${cwd}/a.qcow2 to ${cwd}/m.qcow2\n`);
    expect(made.stdout).toContain(`vda  64 KiB, mirror ${cwd}/m.qcow2 (qcow2), last in sync 20`);
    const again = await runCli(["mirror", "vda"], { cwd });
    expect(again.stdout).toContain("note: it is in sync with the device already; nothing was copied\n");
    expect(again.stdout).toMatch(/Nothing to change\.\n$/);
    expect((await runCli(["device", "show", "vda"], { cwd })).stdout).toContain(
      `mirror ${cwd}/m.qcow2 (qcow2)`,
    );
  });

  test("is an object in JSON, with the mirror of the device", async () => {
    const cwd = makeDisk();
    await runCli(["device", "add", "vda", "a.qcow2"], { cwd });
    const made = await runCli(["mirror", "vda", "m.raw", "--format", "raw", "--json"], { cwd });
    expect(JSON.parse(made.stdout)).toMatchObject({
      schema: 1,
      changed: true,
      generation: 2,
      actions: [{ kind: "mirror", device: "vda", files: [{ path: `${cwd}/m.raw`, change: "create" }] }],
      devices: [{ name: "vda", mirror: { image: `${cwd}/m.raw`, format: "raw", sync: "full" } }],
    });
    const again = await runCli(["mirror", "vda", "--json"], { cwd });
    expect(JSON.parse(again.stdout)).toMatchObject({
      changed: false,
      generation: 2,
      actions: [{ files: [] }],
    });
  });

  test("is one line an undone action, without the copy", async () => {
    const cwd = makeDisk();
    await runCli(["device", "add", "vda", "a.qcow2"], { cwd });
    await runCli(["txn", "begin"], { cwd });
    await runCli(["mirror", "vda", "m.qcow2"], { cwd });
    const { stdout } = await runCli(["txn", "abort"], { cwd });
    expect(stdout).toContain(`vda: mirror undone, stays ${cwd}/a.qcow2\n`);
  });

  test("has no word of a mirror where there is none", async () => {
    const engine = { describeDevices: async () => ({ generation: 4, devices: [makeDevice({})] }) };
    expect((await runCli(["device", "show", "vda"], { engine })).stdout).not.toContain("mirror");
  });
});

test("a mirror on the command line of a batch is one of its statements", async () => {
  const cwd = makeDisk();
  await runCli(["device", "add", "vda", "a.qcow2"], { cwd });
  await runCli(["device", "add", "vdb", "b.qcow2"], { cwd });
  const stdin = "mirror vda m.qcow2\nsnapshot vdb b1.qcow2\n";
  const { status, stdout } = await runCli(["txn", "run", "-"], { cwd, stdin });
  expect(status).toBe(0);
  expect(stdout).toContain("Generation 3, snapshot 1: `imgtx rollback --to 1` goes back to it.");
});
