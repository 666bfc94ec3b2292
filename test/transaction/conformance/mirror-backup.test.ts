// A mirror as a backup: what was copied, how far it is behind, what is wrong with it, and copies that are held to a rate.

import { execFileSync } from "node:child_process";
import { renameSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { runCli } from "../../helpers/cli/harness.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { IDENTICAL, judge, makeBehind, mirror, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { ImgtxError } from "../../../src/errors/index.ts";

const qemu = oracle("qemu-img", "qemu-io");
const UNIT = 65_536;

async function standingOf(bench: Workbench, name: string) {
  const device = (await bench.devices()).find((one) => one.name === name);
  return { state: device?.state, problems: device?.problems, ...device?.mirror?.standing };
}

/** Changes bytes of a raw image as a failing disk does: its size and times stay. */
function rot(file: string, pattern: number): void {
  execFileSync("touch", ["-r", file, `${file}.times`]);
  writeGuest(file, "raw", `write -P ${pattern} 70k 512`);
  execFileSync("touch", ["-r", `${file}.times`, file]);
}

describe("how far a mirror is behind", () => {
  qemu.test(
    "is nothing, what new layers have, or what its bitmap marks; else only comparing tells",
    async () => {
      const bench = await makeWorkbench();
      const made = await mirror(bench, { vda: "ma.qcow2", vdb: "mb.raw" }, { bitmap: false });
      expect(made.actions.map(({ copiedBytes }) => copiedBytes)).toEqual([
        expect.any(Number),
        expect.any(Number),
      ]);
      expect(await standingOf(bench, "vda")).toMatchObject({ state: "ok", behindBytes: 0 });
      await bench.snapshot({ vda: "a1.qcow2" });
      expect(await standingOf(bench, "vda")).toMatchObject({ behindBytes: 0 });
      writeGuest(bench.at("a1.qcow2"), "qcow2", "write -P 5 0 4k");
      expect(await standingOf(bench, "vda")).toMatchObject({ state: "ok", behindBytes: UNIT });
      const synced = await mirror(bench, { vda: undefined }, { bitmap: true });
      expect(synced.actions[0]?.copiedBytes).toBe(UNIT);
      writeGuest(bench.at("a1.qcow2"), "qcow2", "write -P 6 0 4k", "write -P 6 64k 4k");
      // The last one has the mark by which a cut off end would show.
      expect(await standingOf(bench, "vda")).toMatchObject({ behindBytes: 3 * UNIT });
      writeGuest(bench.at("b.raw"), "raw", "write -P 5 0 4k");
      expect(await standingOf(bench, "vdb")).toMatchObject({ state: "ok", behindBytes: null });
      const before = (await bench.devices())[1]?.mirror?.syncedAt ?? "";
      await mirror(bench, { vdb: undefined });
      expect(await standingOf(bench, "vdb")).toMatchObject({ behindBytes: 0 });
      expect(Date.parse((await bench.devices())[1]?.mirror?.syncedAt ?? "")).toBeGreaterThanOrEqual(
        Date.parse(before),
      );
    },
  );

  test("is told by list and show, with the time", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "ma.qcow2" });
    const list = await runCli(["device", "list"], { cwd: bench.root });
    expect(list.stdout).toMatch(/MIRROR/);
    expect(list.stdout).toMatch(/ in sync /);
    await bench.snapshot({ vda: "a1.qcow2" });
    writeFileSync(bench.at("ma.qcow2"), "", { flag: "a" });
    const show = await runCli(["device", "show", "vda", "--json"], { cwd: bench.root });
    const { device } = JSON.parse(show.stdout) as { device: { mirror: object } };
    expect(device.mirror).toEqual({
      image: bench.at("ma.qcow2"),
      format: "qcow2",
      sync: "full",
      synced: expect.stringMatching(/Z$/),
      behind: 0,
      problem: null,
    });
  });
});

test("a mirror that is gone, or is no image any more, is a problem of its device, which is sound", async () => {
  const bench = await makeWorkbench();
  await mirror(bench, { vda: "ma.qcow2" });
  renameSync(bench.at("ma.qcow2"), bench.at("away.qcow2"));
  const missing = await standingOf(bench, "vda");
  expect(missing).toMatchObject({ state: "mirror-missing", behindBytes: null });
  expect(missing.problems?.join()).toContain("`imgtx mirror --cancel vda`");
  const list = await runCli(["device", "list", "--check"], { cwd: bench.root });
  expect(list).toMatchObject({ status: 1 });
  expect(list.stdout).toContain("mirror-missing");
  expect(list.stdout).toContain(`its mirror can't be used: `);
  writeFileSync(bench.at("ma.qcow2"), "something else");
  expect(await standingOf(bench, "vda")).toMatchObject({ state: "mirror-broken", behindBytes: null });
  renameSync(bench.at("away.qcow2"), bench.at("ma.qcow2"));
  expect((await standingOf(bench, "vda")).state).toBe("ok");
});

describe("--verify", () => {
  qemu.test("of a mirror that rotted while nothing was written ends with 1, and has mended it", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdb: "mb.raw" });
    rot(bench.at("mb.raw"), 77);
    const argv = ["mirror", "vdb", "--verify", "--json"];
    const found = await runCli(argv, { cwd: bench.root });
    expect(found.status).toBe(1);
    expect(JSON.parse(found.stdout)).toMatchObject({ changed: true, actions: [{ "rotted-bytes": UNIT }] });
    expect(JSON.parse(found.stderr)).toMatchObject({
      error: { code: "E_ROTTED", device: "vdb", image: bench.at("mb.raw"), changed: true },
    });
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
    const again = await runCli(argv, { cwd: bench.root });
    expect(again).toMatchObject({ status: 0, stderr: "" });
    expect(JSON.parse(again.stdout)).toMatchObject({ actions: [{ "rotted-bytes": null }] });
  });

  qemu.test(
    "of a mirror that somebody wrote to, while its device did not change, ends with 1 too",
    async () => {
      const bench = await makeWorkbench();
      await mirror(bench, { vdb: "mb.raw" });
      writeGuest(bench.at("mb.raw"), "raw", "write -P 77 70k 512");
      const found = await runCli(["mirror", "vdb", "--verify"], { cwd: bench.root });
      expect(found.status).toBe(1);
      expect(found.stdout).toContain(
        "differed from the device where that has not changed, in up to 65536 bytes",
      );
      expect(found.stderr).toContain("bytes that no write to the device accounts for; it is mended");
      expect(await judge(bench, "vdb")).toBe(IDENTICAL);
    },
  );

  qemu.test("of a mirror that is behind as far as is known ends with 0", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdb: "mb.raw" });
    writeGuest(bench.at("b.raw"), "raw", "write -P 5 0 4k");
    expect(await runCli(["mirror", "vdb", "--verify"], { cwd: bench.root })).toMatchObject({ status: 0 });
  });
});

describe("a rate", () => {
  qemu.test("holds the copy before the commit mark and the one after it, each byte of them", async () => {
    const bench = await makeBehind();
    const held: number[] = [];
    const throttle = async (bytes: number): Promise<void> => void held.push(bytes);
    const { actions } = await mirror(bench, { vdc: undefined }, {}, { throttle });
    const copiedBytes = actions[0]?.copiedBytes ?? 0;
    expect(copiedBytes).toBeGreaterThan(0);
    expect(held.reduce((sum, bytes) => sum + bytes, 0)).toBeGreaterThanOrEqual(2 * copiedBytes);
  });

  test("does not keep an interrupt from taking the copy back", async () => {
    const bench = await makeWorkbench();
    const controller = new AbortController();
    const throttle = async (): Promise<void> => {
      controller.abort(new ImgtxError("E_INTERRUPTED", "interrupted"));
    };
    const { signal } = controller;
    const failure = await failureOf(
      async () => await mirror(bench, { vdb: "mb.raw" }, {}, { throttle, signal }),
    );
    expect(failure).toMatchObject({ code: "E_INTERRUPTED", changed: false });
    expect(() => statSync(bench.at("mb.raw"))).toThrow("ENOENT");
  });

  test("is said as a size, and not in a line of a batch", async () => {
    const bench = await makeWorkbench();
    const argv = ["mirror", "vdb", "mb.raw", "--rate-limit", "1e3"];
    expect(await runCli(argv, { cwd: bench.root })).toMatchObject({ status: 64 });
    expect((await runCli([...argv.slice(0, 4), "1G"], { cwd: bench.root })).status).toBe(0);
    const batch = await runCli(["txn", "run", "-"], {
      cwd: bench.root,
      stdin: "mirror vda ma.qcow2 --rate-limit 1G",
    });
    expect(batch).toMatchObject({ status: 64 });
    expect(batch.stderr).toContain("say it to `imgtx txn run`");
  });
});
