// relocate to, and from, other disks: full ones, read-only ones, and those that a guest works on.

import { execFileSync } from "node:child_process";
import { closeSync, existsSync, openSync, readdirSync, readFileSync, writeSync } from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { runWell, startQemuDaemon } from "../../helpers/qemu-programs.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { expectIntact, imagesIn, makeKept, relocate } from "../../helpers/transaction/relocating.ts";
import { makeWorkbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const root = oracle("root", "mount", "umount");

function mountTmpfs(options: string): string {
  const folder = makeFolder();
  execFileSync("mount", ["-t", "tmpfs", "-o", options, "imgtx-test", folder]);
  onTestFinished(() => {
    execFileSync("umount", ["-l", folder]);
  });
  return folder;
}

describe("on other disks", () => {
  root.test("a full one is found before the first byte, and all is as it was", async () => {
    const bench = await makeWorkbench();
    const [before, elsewhere] = [snapshotWorkspace(bench.root), mountTmpfs("size=200k")];
    const failure = await failureOf(async () => await relocate(bench, undefined, elsewhere));
    expect(failure).toMatchObject({ code: "E_NO_SPACE", changed: false });
    expect(readdirSync(elsewhere)).toEqual([]);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  root.test("what is read-only is copied with --keep alone", async () => {
    const [source, elsewhere] = [mountTmpfs("size=8m"), makeFolder()];
    const bench = await makeWorkbench();
    bench.makeRaw(path.join(source, "d-base.raw"), 1);
    bench.makeQcow2(path.join(source, "d.qcow2"), 2, { name: "d-base.raw", format: "raw" });
    await bench.add("vdd", path.join(source, "d.qcow2"));
    const shown = await bench.content();
    execFileSync("mount", ["-o", "remount,ro", source]);
    const failure = await failureOf(async () => await relocate(bench, ["vdd"], elsewhere));
    expect(failure).toMatchObject({ code: "E_REFUSED", hint: expect.stringContaining("--keep") as string });
    await relocate(bench, ["vdd"], elsewhere, { keep: true });
    expect(imagesIn(elsewhere)).toEqual(["d-base.raw", "d.qcow2"]);
    expect(await bench.content()).toEqual(shown);
  });
});

const guest = oracle("qemu-storage-daemon");

guest.test("a guest that runs on a device keeps it where it is", async () => {
  const { bench, elsewhere } = await makeKept();
  const [device] = await bench.devices();
  const daemon = await startQemuDaemon(device!.image, makeFolder(), true);
  const failure = await failureOf(async () => await relocate(bench, ["vda"], elsewhere));
  expect(failure).toMatchObject({ code: "E_LOCKED", changed: false });
  expect(readdirSync(elsewhere)).toEqual([]);
  await daemon.stop();
  await relocate(bench, ["vda"], elsewhere);
  await expectIntact(bench);
});

test.each(["wrote to, and whose time was lost", "left alone"])(
  "after a crash, a raw image that a guest %s is found by what it holds",
  async (how) => {
    const bench = await makeWorkbench();
    const [image, elsewhere] = [bench.at("b.raw"), makeFolder()];
    const dead = killAt(
      bench.storage,
      ({ name, path: at }) => name === "rename" && at === bench.at(".imgtx/table.json"),
    );
    await expect(relocate(bench.through(dead), ["vdb"], elsewhere)).rejects.toThrow("killed");
    const isWritten = how !== "left alone";
    runWell("touch", "-r", image, bench.at("times"));
    if (isWritten) {
      const file = openSync(image, "r+");
      writeSync(file, "durable", 512);
      closeSync(file);
    }
    // What a power cut leaves of a write whose times were not durable: the change time alone has moved here.
    runWell("touch", "-r", bench.at("times"), image);
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "finished" });
    expect(existsSync(image)).toBe(isWritten);
    if (!isWritten) return;
    expect(note?.text).toContain("somebody has written to one of the two since the commit");
    expect(readFileSync(image, "latin1")).toContain("durable");
  },
);
