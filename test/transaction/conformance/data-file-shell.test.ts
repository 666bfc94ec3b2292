// A qcow2 image around a raw disk: the same disk, and bitmaps that mark what is written to it.

import { statSync } from "node:fs";
import { describe, expect } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import type { ActionRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell } from "../../helpers/qemu-programs.ts";
import { type Call, killAt } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { IDENTICAL, infoOf, listBitmaps, stateOf, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { Workbench } from "../../helpers/transaction/workbench.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-img", "qemu-io");
const RAW = { vda: "a.raw", vdb: "b.raw" };
/** No whole cluster at its end. */
const SIZE = 5 * 2 ** 20 + 3584;

function shellAround(bench: Workbench, device: string): ActionRequest {
  const file = bench.at(`${device}.qcow2`);
  return { kind: "reopen", device, file, format: undefined, force: false, asShell: true };
}

const BITMAP: ActionRequest = {
  kind: "bitmap-add",
  devices: Object.keys(RAW),
  bitmap: "night",
  isDisabled: false,
  sources: [],
};

/** As they were. */
async function makeRawDisks(): Promise<Workbench> {
  const bench = new Workbench(makeFolder());
  for (const [device, name] of Object.entries(RAW)) {
    runWell("qemu-img", "create", "-q", "-f", "raw", bench.at(name), String(SIZE));
    writeGuest(bench.at(name), "raw", "write -P 3 1M 64k", "write -P 4 5242880 3584");
    runWell("cp", bench.at(name), bench.at(`${name}.before`));
    await bench.add(device, name, "raw");
  }
  return bench;
}

const rawStates = (bench: Workbench) => Object.values(RAW).map((name) => stateOf(bench.at(name)));

function compare(bench: Workbench, shell: string, raw: string): string {
  return run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", bench.at(shell), bench.at(raw)).output.trim();
}

async function wrapAll(bench: Workbench): Promise<void> {
  await bench.begin();
  for (const device of Object.keys(RAW)) await bench.run(shellAround(bench, device));
  await bench.run(BITMAP);
  await bench.commit();
}

describe("a shell around each raw disk of a machine", () => {
  qemu.test("comes in one transaction with a bitmap, and the disks stay what they are", async () => {
    const bench = await makeRawDisks();
    const before = rawStates(bench);
    await wrapAll(bench);
    expect(rawStates(bench)).toEqual(before);
    for (const [device, raw] of Object.entries(RAW)) {
      const shell = `${device}.qcow2`;
      runWell("qemu-img", "check", "-q", bench.at(shell));
      expect(compare(bench, shell, `${raw}.before`)).toBe(IDENTICAL);
      expect(infoOf(bench.at(shell))).toMatchObject({
        "virtual-size": SIZE,
        "format-specific": { data: { "data-file": bench.at(raw), "data-file-raw": true } },
      });
      writeGuest(bench.at(shell), "qcow2", "read -P 4 5242880 3584", "write -P 9 2M 64k");
      expect(compare(bench, shell, raw)).toBe(IDENTICAL);
      expect(listBitmaps(bench.at(shell))).toMatchObject([{ name: "night", flags: ["auto"] }]);
    }
    const states = (await bench.devices()).map(({ format, state }) => [format, state]);
    expect(states).toEqual([
      ["qcow2", "ok"],
      ["qcow2", "ok"],
    ]);
    // A raw image again, with all that was written meanwhile.
    await bench.run({ kind: "reopen", device: "vda", file: bench.at("a.raw"), format: "raw", force: false });
    writeGuest(bench.at("a.raw"), "raw", "read -P 9 2M 64k");
  });

  qemu.test("is taken back by an abort, and by undo, and the disk is left", async () => {
    const bench = await makeRawDisks();
    const before = rawStates(bench);
    const tree = snapshotWorkspace(bench.root);
    await bench.begin();
    await bench.run(shellAround(bench, "vda"));
    await bench.abort();
    expect(snapshotWorkspace(bench.root)).toEqual(tree);
    await bench.run(shellAround(bench, "vda"));
    await bench.undo();
    expect((await bench.devices())[0]).toMatchObject({
      image: bench.at("a.raw"),
      format: "raw",
      state: "ok",
    });
    expect(rawStates(bench)).toEqual(before);
  });

  qemu.test("is the operator's: what goes with a snapshot takes neither it nor the disk along", async () => {
    const bench = await makeRawDisks();
    await wrapAll(bench);
    await bench.snapshot({ vda: "a1.qcow2" }, { name: "mon" });
    await bench.snapshot({ vda: "a2.qcow2" }, { name: "tue" });
    await bench.run({ kind: "snapshot-delete", snapshots: ["mon", "tue"], devices: [], keepsImages: false });
    expect(statSync(bench.at("a.raw")).size).toBe(SIZE);
    expect(compare(bench, "vda.qcow2", "a.raw")).toBe(IDENTICAL);
    expect((await bench.devices())[0]).toMatchObject({ image: bench.at("vda.qcow2"), state: "ok" });
  });

  qemu.test("says what a guest has written to the disk itself before a recovery", async () => {
    const bench = await makeRawDisks();
    await bench.begin();
    await bench.run(shellAround(bench, "vda"));
    const moves = (call: Call) => call.name === "rename" && call.path === bench.at(".imgtx/table.json");
    const dying = bench.through(killAt(makeNodeStorage(), moves));
    await expect(dying.commit()).rejects.toThrow("killed");
    writeGuest(bench.at("a.raw"), "raw", "write -P 9 0 64k");
    const { recovered } = await bench.session();
    expect(recovered).toMatchObject([{ did: "finished" }]);
    expect(JSON.stringify(recovered)).toContain(
      `${bench.at("a.raw")} after the commit is marked in no bitmap`,
    );
    expect(compare(bench, "vda.qcow2", "a.raw")).toBe(IDENTICAL);
  });

  qemu.test(
    "is refused around what is none, and where a file is there, or the device is frozen",
    async () => {
      const bench = await makeRawDisks();
      bench.makeQcow2("c.qcow2", 5);
      await bench.add("vdc", "c.qcow2");
      runWell("truncate", "-s", "1000", bench.at("odd.raw"));
      await bench.add("vdd", "odd.raw", "raw");
      await bench.run({ kind: "freeze", devices: ["vda"], strict: false });
      bench.makeFile("vdb.qcow2", "the operator's own");
      const before = snapshotWorkspace(bench.root);
      const expected = { vda: "E_REFUSED", vdb: "E_EXISTS", vdc: "E_REFUSED", vdd: "E_REFUSED" };
      for (const [device, code] of Object.entries(expected)) {
        const failure = await failureOf(async () => await bench.run(shellAround(bench, device)));
        expect(failure).toMatchObject({ code, changed: false });
      }
      expect(snapshotWorkspace(bench.root)).toEqual(before);
    },
  );
});
