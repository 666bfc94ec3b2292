// A mirror whose device gets another size gets the same one in the same transaction, and is as much in sync as it was.

import { rmSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { ActionRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { runWell } from "../../helpers/qemu-programs.ts";
import {
  IDENTICAL,
  infoOf,
  judge,
  mirror,
  redoLogs,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const [K, M] = [1024, 1024 ** 2];

const resize = (device: string, sizeBytes: number): ActionRequest => ({
  kind: "resize",
  device,
  sizeBytes,
  isRelative: false,
  shrink: true,
  force: true,
});
const amend = (device: string, sizeBytes: number): ActionRequest => ({
  kind: "amend",
  devices: [device],
  amendment: { version: 3 },
  sizeBytes,
});
const insideOf = (verb: "create" | "apply", device: string): ActionRequest => ({
  kind: `internal-snapshot-${verb}`,
  devices: [device],
  snapshot: "one",
});

const IN_SYNC = "it is in sync with the device already; nothing was copied";
const DEVICES = ["vda", "vdb", "vdc"];
const FILES = ["a.qcow2", "b.raw", "c.qcow2", "ma.qcow2", "mb.raw", "mc.raw"];

/** Of the layer alone over a base that is longer than the disk, in raw of a raw disk, and in raw with a bitmap. */
async function makeMirrored(): Promise<Workbench> {
  const bench = await makeWorkbench();
  writeFileSync(bench.at("base.raw"), Buffer.alloc(2 * M, 5));
  await mirror(bench, { vda: "ma.qcow2" }, { sync: "top" });
  await mirror(bench, { vdb: "mb.raw" });
  await mirror(bench, { vdc: "mc.raw" }, { format: "raw", bitmap: true });
  return bench;
}

async function expectSize(bench: Workbench, sizeBytes: number): Promise<void> {
  expect(FILES.map((file) => infoOf(bench.at(file))["virtual-size"])).toEqual(FILES.map(() => sizeBytes));
}

/** In sync without reading, and by qemu-img's comparison. */
async function expectInSync(bench: Workbench): Promise<void> {
  const asked = await mirror(bench, { vda: undefined, vdb: undefined, vdc: undefined });
  expect(asked.actions.map(({ notes }) => notes)).toEqual(DEVICES.map(() => [IN_SYNC]));
  for (const device of DEVICES) expect(await judge(bench, device)).toBe(IDENTICAL);
}

describe("a mirror", () => {
  qemu.test(
    "grows and shrinks with its device, stays in sync, and is untouched before the commit",
    async () => {
      const bench = await makeMirrored();
      for (const size of [M + 512, 64 * K, 3 * M]) {
        const before = FILES.map((file) => stateOf(bench.at(file)));
        const id = await bench.begin();
        for (const device of DEVICES) await bench.run(resize(device, size));
        expect(FILES.map((file) => stateOf(bench.at(file)))).toEqual(before);
        await bench.abort(id);
        expect(FILES.map((file) => stateOf(bench.at(file)))).toEqual(before);
        const { actions } = await bench.run(DEVICES.map((device) => resize(device, size)));
        expect(actions[0]?.notes.join()).toContain('its mirror "');
        expect(redoLogs(bench)).toEqual([]);
        await expectSize(bench, size);
        await expectInSync(bench);
      }
    },
  );

  qemu.test("that is behind is no less so afterwards, with a bitmap or without", async () => {
    const bench = await makeMirrored();
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 70 0 5k");
    writeGuest(bench.at("b.raw"), "raw", "write -P 71 8k 5k");
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 72 16k 5k", "write -P 73 180k 4k");
    for (const device of DEVICES) await bench.run(resize(device, M));
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 74 900k 4k");
    expect(await mirror(bench, { vda: undefined, vdb: undefined, vdc: undefined })).toMatchObject({
      changed: true,
    });
    await expectInSync(bench);
  });

  qemu.test("made, or brought in sync, in the same transaction has the size of its device", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" });
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 1 0 100k");
    const id = await bench.begin();
    await bench.run(resize("vda", M));
    await mirror(bench, { vda: "ma.qcow2", vdb: "mb.raw", vdc: undefined });
    for (const device of DEVICES) await bench.run(resize(device, 2 * M));
    await mirror(bench, { vdb: undefined, vdc: undefined });
    await bench.commit(id);
    await expectInSync(bench);
    expect(infoOf(bench.at("mb.raw"))["virtual-size"]).toBe(2 * M);
  });

  qemu.test("follows an amendment, and an internal snapshot that is gone back to", async () => {
    const bench = await makeWorkbench();
    await bench.run(insideOf("create", "vdc"));
    await mirror(bench, { vdc: "m.raw" }, { format: "raw" });
    await bench.run(amend("vdc", M));
    expect(infoOf(bench.at("m.raw"))["virtual-size"]).toBe(M);
    expect((await mirror(bench, { vdc: undefined })).actions[0]?.notes).toEqual([IN_SYNC]);
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 9 0 9k");
    await bench.run(insideOf("apply", "vdc"));
    expect(infoOf(bench.at("m.raw"))["virtual-size"]).toBe(192 * K);
    await mirror(bench, { vdc: undefined });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });
});

describe("a device is not resized, and nothing changed,", () => {
  async function refused(bench: Workbench, request: ActionRequest, code: string, said: string) {
    const before = stateOf(bench.at("c.qcow2"));
    const failure = await failureOf(async () => await bench.run(request));
    expect(failure).toMatchObject({ code, device: "vdc", image: bench.at("m.qcow2"), changed: false });
    expect(`${failure.message} ${failure.hint}`).toContain(said);
    expect([stateOf(bench.at("c.qcow2")), redoLogs(bench)]).toEqual([before, []]);
  }

  test("where its mirror has gone: how it is forgotten is said", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" });
    rmSync(bench.at("m.qcow2"));
    await refused(bench, resize("vdc", M), "E_NOT_FOUND", "`imgtx mirror --cancel vdc`");
    await bench.run({ kind: "mirror-cancel", devices: ["vdc"] });
    await bench.run(resize("vdc", M));
  });

  qemu.test(
    "where an overlay over its mirror would lose what it shows, or the mirror can't follow",
    async () => {
      const bench = await makeWorkbench();
      await mirror(bench, { vdc: "m.qcow2" });
      const over = ["-b", "./m.qcow2", "-F", "qcow2", bench.at("over.qcow2")];
      runWell("qemu-img", "create", "-q", "-f", "qcow2", ...over);
      await refused(bench, resize("vdc", 64 * K), "E_IN_USE", "over.qcow2' stands on it");
      runWell("qemu-img", "amend", "-o", "compat=0.10", bench.at("m.qcow2"));
      runWell("qemu-img", "snapshot", "-c", "one", bench.at("m.qcow2"));
      await refused(bench, resize("vdc", M), "E_UNSUPPORTED", "compat=1.1");
    },
  );
});
