// New mirrors, judged by qemu-img: each way of making one, several side by side, and what stays as it was.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { freeze } from "../../helpers/transaction/freezing.ts";
import {
  IDENTICAL,
  infoOf,
  judge,
  mirror,
  mirrorRequest,
  stagingFiles,
  stateOf,
} from "../../helpers/transaction/mirroring.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

/** Digests of the images that the three devices stand on. */
function sourcesOf(bench: Workbench): readonly unknown[] {
  return ["base.raw", "a.qcow2", "b.raw", "c.qcow2"].map((name) => stateOf(bench.at(name)));
}

describe("a full mirror", () => {
  qemu.test.each([
    ["vda", undefined, "qcow2"],
    ["vda", "raw", "raw"],
    ["vda", "qcow2", "qcow2"],
    ["vdb", undefined, "raw"],
    ["vdb", "qcow2", "qcow2"],
    ["vdc", undefined, "qcow2"],
    ["vdc", "raw", "raw"],
  ])("of %s, asked for as %s, is %s, alone, and has its content", async (device, format, made) => {
    const bench = await makeWorkbench();
    const before = sourcesOf(bench);
    const outcome = await mirror(bench, { [device]: "m.img" }, { format, verify: true });
    expect(outcome).toMatchObject({ changed: true, generation: 4 });
    expect(outcome.actions).toMatchObject([
      { kind: "mirror", device, files: [{ path: bench.at("m.img"), change: "create" }] },
    ]);
    const found = (await bench.devices()).find(({ name }) => name === device);
    expect(found?.mirror).toEqual({
      image: bench.at("m.img"),
      format: made,
      sync: "full",
      syncedAt: expect.stringMatching(/^20\d\d-.*Z$/),
      standing: { behindBytes: 0, problem: null, isMissing: false },
    });
    expect(await judge(bench, device)).toBe(IDENTICAL);
    expect(infoOf(bench.at("m.img"))["backing-filename"]).toBeUndefined();
    expect(sourcesOf(bench)).toEqual(before);
    expect(stagingFiles(bench)).toEqual([]);
  });

  qemu.test("is laid out as asked, compressed, and has the permissions of the active layer", async () => {
    const bench = await makeWorkbench();
    const options = { clusterSizeBytes: 8192, compressionType: "zlib" as const };
    await mirror(bench, { vda: "m.qcow2" }, { compressed: true, options });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect(infoOf(bench.at("m.qcow2"))).toMatchObject({ "cluster-size": 8192, "virtual-size": 196_608 });
    expect(statSync(bench.at("m.qcow2")).mode & 0o777).toBe(
      (statSync(bench.at("a.qcow2")).mode & 0o666) | 0o600,
    );
  });

  qemu.test.each([false, true])("into an external data file, raw: %s, has its content", async (isRaw) => {
    const bench = await makeWorkbench();
    const options = { dataFileName: bench.at("m.data"), ...(isRaw && { dataFileIsRaw: true }) };
    await mirror(bench, { vda: "m.qcow2" }, { options, verify: true });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    const specific = infoOf(bench.at("m.qcow2"))["format-specific"] as { data: Record<string, unknown> };
    expect(specific.data["data-file"]).toBe(bench.at("m.data"));
    expect(stagingFiles(bench)).toEqual([]);
  });
});

qemu.test("a device that was resized is told, and kept, as large as it is now", async () => {
  const bench = await makeWorkbench();
  execFileSync("qemu-img", ["resize", "-q", bench.at("a.qcow2"), "1M"]);
  const outcome = await mirror(bench, { vda: "m.qcow2" });
  expect(outcome.devices).toMatchObject([{ name: "vda", virtualSizeBytes: 1024 * 1024 }]);
  for (const image of ["a.qcow2", "m.qcow2"]) {
    execFileSync("qemu-img", ["resize", "-q", bench.at(image), "2M"]);
  }
  const again = await mirror(bench, { vda: undefined });
  expect(again.devices).toMatchObject([{ name: "vda", virtualSizeBytes: 2 * 1024 * 1024 }]);
});

describe("a mirror over a backing image", () => {
  qemu.test.each([false, true])(
    "of the active layer alone, relative: %s, is the same disk",
    async (relative) => {
      const bench = await makeWorkbench();
      mkdirSync(bench.at("copies"));
      await mirror(bench, { vda: "copies/m.qcow2" }, { sync: "top", relative });
      expect(await judge(bench, "vda")).toBe(IDENTICAL);
      expect(infoOf(bench.at("copies/m.qcow2"))).toMatchObject({
        "backing-filename": relative ? "../base.raw" : bench.at("base.raw"),
        "backing-filename-format": "raw",
      });
      const [vda] = await bench.devices();
      expect(vda?.mirror).toMatchObject({ format: "qcow2", sync: "top" });
    },
  );

  qemu.test("of nothing yet is an empty overlay over the active layer", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdb: "m.qcow2" }, { sync: "none" });
    expect(await judge(bench, "vdb")).toBe(IDENTICAL);
    expect(infoOf(bench.at("m.qcow2"))["backing-filename"]).toBe(bench.at("b.raw"));
    const [, vdb] = await bench.devices();
    expect(vdb?.mirror).toMatchObject({ format: "qcow2", sync: "none" });
  });

  qemu.test("of a chain of one is a full one: there is nothing to stand on", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" }, { sync: "top" });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
    expect((await bench.devices())[2]?.mirror).toMatchObject({ sync: "full" });
  });

  test.each([
    [{ sync: "top" as const, format: "raw" }, "a raw image can't stand on another one, as --sync top needs"],
    [
      { sync: "none" as const, format: "raw" },
      "a raw image can't stand on another one, as --sync none needs",
    ],
    [{ compressed: true, format: "raw" }, "a raw image can't be compressed"],
  ])("%j is refused", async (how, message) => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await mirror(bench, { vda: "m.img" }, how));
    expect(failure).toMatchObject({ code: "E_UNSUPPORTED", device: "vda", message });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

describe("several devices", () => {
  qemu.test("are mirrored side by side in one generation", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "ma.qcow2", vdb: "mb.raw", vdc: "mc.qcow2" });
    expect(await bench.generation()).toBe(4);
    for (const device of ["vda", "vdb", "vdc"]) expect(await judge(bench, device)).toBe(IDENTICAL);
  });

  test("of which one fails are none, and nothing is left", async () => {
    const bench = await makeWorkbench();
    bench.makeRaw("taken", 9);
    const before = snapshotWorkspace(bench.root);
    const files = { vda: "ma.qcow2", vdb: "mb.raw" };
    const requests = [mirrorRequest(bench, files), { kind: "refuse" as const, device: "vdc" }];
    expect(await failureOf(async () => await bench.run(requests))).toMatchObject({ code: "E_REFUSED" });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    const taken = { ...files, vdc: "taken" };
    expect(await failureOf(async () => await mirror(bench, taken))).toMatchObject({
      code: "E_EXISTS",
      device: "vdc",
    });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test.each([
    [{ vda: "m.img", vdb: "m.img" }, {}, "'vda' has the same target"],
    [
      { vda: "m.qcow2", vdb: "n.qcow2" },
      { format: "qcow2", options: { dataFileName: "/tmp/imgtx-no-such.data" } },
      "'vda' has the same target",
    ],
    [
      { vda: "m.qcow2" },
      { format: "qcow2", options: { dataFileName: "/no-such-folder/m.data" } },
      "no-such-folder",
    ],
  ])("with the targets %j are refused", async (files, how, message) => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await mirror(bench, files, how));
    expect(failure.message).toContain(message);
    expect(failure.exitCode).toBe(14);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

describe("a device", () => {
  qemu.test("that is frozen can be mirrored, and stays frozen", async () => {
    const bench = await makeWorkbench();
    const content = await bench.content();
    await bench.run(freeze(["vda"]));
    await mirror(bench, { vda: "m.qcow2" }, { verify: true });
    expect(await bench.devices()).toMatchObject([{ frozen: true, mirror: { sync: "full" } }, {}, {}]);
    expect((await mirror(bench, { vda: undefined })).changed).toBe(false);
    await bench.run({ kind: "unfreeze", devices: ["vda"], force: false });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect(await bench.content()).toEqual(content);
  });

  test("is mirrored by a dry run in words alone", async () => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    const outcome = await mirror(bench, { vda: "m.qcow2", vdb: "n.raw" }, {}, { dryRun: true });
    expect(outcome).toMatchObject({ changed: false, dryRun: true, generation: 3 });
    expect(outcome.actions.map(({ files }) => files)).toEqual([
      [{ path: bench.at("m.qcow2"), change: "create" }],
      [{ path: bench.at("n.raw"), change: "create" }],
    ]);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  qemu.test("forgets its mirror with --cancel, and the file stays", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "m.qcow2" });
    const before = stateOf(bench.at("m.qcow2"));
    await bench.run({ kind: "mirror-cancel", devices: ["vda"] });
    expect((await bench.devices())[0]?.mirror).toBeNull();
    expect(stateOf(bench.at("m.qcow2"))).toEqual(before);
    const again = { kind: "mirror-cancel" as const, devices: ["vda"] };
    expect(await failureOf(async () => await bench.run(again))).toMatchObject({ code: "E_REFUSED" });
    await mirror(bench, { vda: "m2.qcow2" });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  test("whose mirror is made in a transaction that is aborted has none, and no file is left", async () => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    await bench.begin();
    await mirror(bench, { vda: "m.qcow2", vdb: "n.raw" });
    await bench.abort();
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  qemu.test("moves to its new mirror in one transaction", async () => {
    const bench = await makeWorkbench();
    const content = await bench.content();
    await bench.begin();
    await mirror(bench, { vda: "m.qcow2" });
    await bench.reopen("vda", "m.qcow2");
    await bench.commit();
    expect(await bench.images()).toMatchObject({ vda: "m.qcow2" });
    expect(await bench.content()).toEqual(content);
  });
});

/** Mirrors vdc to m.qcow2 in a process that dies at the nth flush of the new file, with marks at each chance or none. */
async function dieAtFlush(bench: Workbench, nth: number, markEveryMs: number): Promise<void> {
  let flushes = 0;
  const dying = killAt(makeNodeStorage(), ({ name, path }) => {
    if (name === "file.flush" && path.includes("/.imgtx-")) flushes += 1;
    return flushes === nth;
  });
  const copying = mirror(bench.through(dying), { vdc: "m.qcow2" }, {}, { markEveryMs });
  await expect(copying).rejects.toThrow("killed");
}

describe("a copy that was cut off", () => {
  qemu.test("is shown with its device, until it goes on or is removed", async () => {
    const bench = await makeWorkbench();
    const unfinished = async () => (await bench.devices()).map((device) => device.unfinishedCopy);
    await dieAtFlush(bench, 4, 0);
    expect(await unfinished()).toEqual([
      null,
      null,
      { image: bench.at("m.qcow2"), copiedBytes: expect.any(Number) as number },
    ]);
    expect((await unfinished())[2]?.copiedBytes).toBeGreaterThan(0);
    await mirror(bench, { vdc: "m.qcow2" });
    expect(await unfinished()).toEqual([null, null, null]);
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  qemu.test("and is damaged since is begun anew, and its mark with it", async () => {
    const bench = await makeWorkbench();
    await dieAtFlush(bench, 4, 0);
    const [staging = ""] = stagingFiles(bench);
    const bytes = readFileSync(bench.at(staging));
    const l1TableOffset = Number(bytes.readBigUInt64BE(40));
    bytes.fill(0xff, l1TableOffset, l1TableOffset + 8);
    writeFileSync(bench.at(staging), bytes);
    await dieAtFlush(bench, 1, 60_000);
    writeFileSync(bench.at(staging), emptyLike(bench, "c.qcow2"));
    await mirror(bench, { vdc: "m.qcow2" });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });
});

/** A sound image of the same size with nothing in it, as a copy looks that has just begun. */
function emptyLike(bench: Workbench, name: string): Uint8Array {
  const { "virtual-size": sizeBytes } = infoOf(bench.at(name));
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", bench.at("empty.qcow2"), String(sizeBytes)]);
  return readFileSync(bench.at("empty.qcow2"));
}
