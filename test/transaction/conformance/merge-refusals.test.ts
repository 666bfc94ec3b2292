// What a merge must not do: take from others what they stand on, or lose what only the merged layers have.

import { copyFileSync, existsSync, linkSync, rmSync, writeFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell, startQemuDaemon } from "../../helpers/qemu-programs.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { type MergeChoice, makeChain, mergeRequest } from "../../helpers/transaction/merging.ts";
import { writeGuest } from "../../helpers/transaction/mirroring.ts";
import type { Workbench } from "../../helpers/transaction/workbench.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-img", "qemu-io");
const NAMES = ["base.qcow2", "a.qcow2", "b.qcow2"];

async function expectRefused(
  bench: Workbench,
  how: MergeChoice,
  expected: Readonly<Record<string, unknown>>,
): Promise<void> {
  const before = snapshotWorkspace(bench.root);
  const failure = await failureOf(async () => await bench.run(mergeRequest(bench, ["vda"], how)));
  expect(failure).toMatchObject({ changed: false, device: "vda", ...expected });
  expect(snapshotWorkspace(bench.root)).toEqual(before);
}

function overlay(bench: Workbench, name: string, below: string): void {
  runWell("qemu-img", "create", "-q", "-f", "qcow2", "-b", bench.at(below), "-F", "qcow2", bench.at(name));
}

describe("a merge is refused where another overlay stands", () => {
  qemu.test("on the image that gets the content, which qemu-img commit spoils for it", async () => {
    const bench = await makeChain(NAMES);
    overlay(bench, "sibling.qcow2", "a.qcow2");
    runWell("qemu-img", "convert", "-O", "raw", bench.at("sibling.qcow2"), bench.at("theirs.raw"));
    await expectRefused(bench, {}, { code: "E_IN_USE", image: bench.at("a.qcow2") });
    const failure = await failureOf(async () => await bench.run(mergeRequest(bench, ["vda"])));
    expect(failure.message).toContain("'" + bench.at("sibling.qcow2") + "' stands on it");
    expect(run("qemu-img", "compare", bench.at("sibling.qcow2"), bench.at("theirs.raw")).status).toBe(0);
    runWell("qemu-img", "commit", "-q", bench.at("b.qcow2"));
    expect(run("qemu-img", "compare", bench.at("sibling.qcow2"), bench.at("theirs.raw")).status).toBe(1);
  });

  qemu.test("on one that would go; where it stays, what the uppermost shows stays too", async () => {
    const bench = await makeChain(NAMES);
    overlay(bench, "sibling.qcow2", "b.qcow2");
    await expectRefused(bench, {}, { code: "E_IN_USE", image: bench.at("b.qcow2") });
    await bench.run(mergeRequest(bench, ["vda"], { keep: true }));
    expect(run("qemu-img", "compare", bench.at("sibling.qcow2"), bench.at("before.raw")).status).toBe(0);
  });

  qemu.test("in another folder, known by the history alone, or by another device", async () => {
    const bench = await makeChain(NAMES);
    bench.makeFile("far/README", "a folder\n");
    overlay(bench, "far/kept.qcow2", "a.qcow2");
    await bench.add("vdb", "far/kept.qcow2");
    await expectRefused(bench, {}, { code: "E_IN_USE" });
    await bench.remove("vdb");
    await expectRefused(bench, {}, { code: "E_IN_USE" });
    expect(existsSync(bench.at("far/kept.qcow2"))).toBe(true);
  });

  qemu.test("in no record, below the workspace, or where another device's images are or were", async () => {
    const outside = makeFolder();
    for (const place of ["clones/deep", outside]) {
      const bench = await makeChain(NAMES);
      bench.makeFile(`${place}/README`, "a folder\n");
      await bench.add("vdb", bench.makeQcow2(`${outside}/other.qcow2`, 1));
      await bench.remove("vdb");
      const clone = bench.at(`${place}/clone.qcow2`);
      overlay(bench, clone, "a.qcow2");
      linkSync(clone, `${clone}.link`);
      runWell("qemu-img", "convert", "-O", "raw", clone, bench.at("clone.raw"));
      await expectRefused(bench, {}, { code: "E_IN_USE", image: bench.at("a.qcow2") });
      const { actions } = await bench.run(mergeRequest(bench, ["vda"], { rebaseSiblings: true }));
      // By two names it is one.
      expect(JSON.stringify(actions).match(/gets first what it would lose/g)).toHaveLength(1);
      expect(run("qemu-img", "compare", clone, bench.at("clone.raw")).status).toBe(0);
    }
  });
});

describe("a generation that the history has lost", () => {
  qemu.test(
    "may have had an image on what changes: a merge goes on by the operator's word alone",
    async () => {
      const bench = await makeChain(NAMES);
      await bench.add("vdb", bench.makeQcow2("other.qcow2", 1));
      await bench.remove("vdb");
      rmSync(bench.at(".imgtx/history/000002.json"));
      const hint = expect.stringContaining("`imgtx merge vda --force`") as string;
      await expectRefused(bench, {}, { code: "E_REFUSED", hint });
      const { actions } = await bench.run(mergeRequest(bench, ["vda"], { force: true }));
      expect(actions[0]?.notes).toContainEqual(expect.stringContaining("has no generation 2"));
    },
  );
});

describe("a merge", () => {
  qemu.test("reads each header of a folder once, and says how many files it did not look at", async () => {
    const bench = await makeChain(NAMES);
    bench.makeQcow2("other.qcow2", 1);
    for (let number = 0; number < 4200; number += 1) writeFileSync(bench.at(`zz-${number}`), "");
    const opened: string[] = [];
    const watched = watchStorage(makeNodeStorage(), ({ name, path }) => {
      if (name === "openFile" && path.endsWith("/other.qcow2")) opened.push(name);
    });
    const request = mergeRequest(bench, ["vda"], { into: "base.qcow2" });
    const { actions } = await bench.through(watched).run(request, { dryRun: true });
    expect(opened).toHaveLength(1);
    expect(JSON.stringify(actions)).toMatch(/\d\d\d? files of [^ ]+ were not looked at/);
  });
});

describe("a merge is refused", () => {
  qemu.test("where something would be lost, or show that does not now", async () => {
    const bench = await makeChain(NAMES, { sizes: ["8M", "8M", "4M"] });
    await expectRefused(bench, {}, { code: "E_REFUSED", image: bench.at("a.qcow2") });
    await bench.run({
      kind: "resize",
      device: "vda",
      sizeBytes: 8 * 2 ** 20,
      isRelative: false,
      shrink: false,
      force: false,
    });
    runWell("qemu-img", "snapshot", "-c", "one", bench.at("b.qcow2"));
    await expectRefused(bench, {}, { code: "E_REFUSED", image: bench.at("b.qcow2") });
    runWell("qemu-img", "snapshot", "-d", "one", bench.at("b.qcow2"));
    await bench.run(mergeRequest(bench, ["vda"]));
  });

  qemu.test("of what is no overlay, in the wrong order, or not in the chain", async () => {
    const bench = await makeChain(NAMES);
    copyFileSync(bench.at("a.qcow2"), bench.at("other.qcow2"));
    for (const how of [
      { into: "b.qcow2" },
      { from: "base.qcow2" },
      { from: "a.qcow2", into: "b.qcow2" },
      { into: "other.qcow2" },
    ]) {
      await expectRefused(bench, how, { code: "E_REFUSED" });
    }
  });

  qemu.test("of a device that is frozen, or has an internal snapshot by the transaction", async () => {
    const bench = await makeChain(NAMES);
    await bench.run({ kind: "freeze", devices: ["vda"], strict: false });
    await expectRefused(bench, {}, { code: "E_REFUSED" });
    await bench.run({ kind: "unfreeze", devices: ["vda"], force: false });
    await bench.begin();
    await bench.run({ kind: "internal-snapshot-create", devices: ["vda"], snapshot: "one" });
    const failure = await failureOf(async () => await bench.run(mergeRequest(bench, ["vda"])));
    expect(failure).toMatchObject({ code: "E_REFUSED", device: "vda" });
    await bench.commit();
    const hint = "--keep leaves the image; `imgtx internal-snapshot delete vda NAME` takes one away";
    await expectRefused(bench, {}, { code: "E_REFUSED", hint });
  });

  oracle("qemu-storage-daemon").test("with 10 where somebody has an image of the chain open", async () => {
    const bench = await makeChain(NAMES);
    writeGuest(bench.at("b.qcow2"), "qcow2", "write -P 5 1M 64k");
    const daemon = await startQemuDaemon(bench.at("b.qcow2"), bench.root, true);
    try {
      const failure = await failureOf(async () => await bench.run(mergeRequest(bench, ["vda"])));
      expect(failure).toMatchObject({ code: "E_LOCKED", changed: false });
    } finally {
      await daemon.stop();
    }
  });
});
