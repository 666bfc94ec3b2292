// Mirrors that know by a bitmap what a guest wrote, and mirrors that a commit brings in line once more.

import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../storage/conformance.ts";
import {
  expectRefused,
  IDENTICAL,
  infoOf,
  judge,
  mirror,
  stagingFiles,
  stateOf,
  writeGuest,
} from "../mirroring.ts";
import { watchStorage } from "../watched-storage.ts";
import { makeWorkbench, type Workbench } from "../workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const BITMAP = "imgtx-mirror-vda";

/** Names of the persistent bitmaps of an image that can be relied on. */
function bitmapsOf(image: string): string[] {
  const { "format-specific": specific } = infoOf(image) as {
    "format-specific"?: { data: { bitmaps?: { name: string; flags: string[] }[] } };
  };
  return (specific?.data.bitmaps ?? [])
    .filter(({ flags }) => !flags.includes("in-use"))
    .map(({ name }) => name);
}

async function makeTracked(): Promise<Workbench> {
  const bench = await makeWorkbench();
  await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
  return bench;
}

/** Bytes that were read of a file meanwhile. */
async function countRead(
  file: string,
  bench: Workbench,
  work: (bench: Workbench) => Promise<unknown>,
): Promise<number> {
  let calls = 0;
  const storage = watchStorage(makeNodeStorage(), ({ name, path }) => {
    if (name === "file.read" && path === file) calls += 1;
  });
  await work(bench.through(storage));
  return calls;
}

describe("a bitmap in a mirrored device", () => {
  qemu.test("is there behind the commit, enabled, and the image is sound and no longer fenced", async () => {
    const bench = await makeTracked();
    expect(bitmapsOf(bench.at("a.qcow2"))).toEqual([BITMAP]);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect(await mirror(bench, { vda: undefined })).toMatchObject({ changed: false });
  });

  qemu.test("has what a guest wrote copied, and nothing else of the mirror read", async () => {
    const bench = await makeTracked();
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    const tracked = await countRead(bench.at("m.qcow2"), bench, async (watched) => {
      await mirror(watched, { vda: undefined });
    });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    await bench.run({ kind: "mirror-cancel", devices: ["vda"] });
    await mirror(bench, { vda: "other.qcow2" });
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 10 64k 64k");
    const compared = await countRead(bench.at("other.qcow2"), bench, async (watched) => {
      await mirror(watched, { vda: undefined });
    });
    expect(tracked).toBeLessThan(compared);
  });

  qemu.test("is emptied each time, and goes on marking", async () => {
    const bench = await makeTracked();
    for (const pattern of [1, 2, 3]) {
      writeGuest(bench.at("a.qcow2"), "qcow2", `write -P ${pattern} ${pattern * 32}k 4k`, "write -z 0 4k");
      await mirror(bench, { vda: undefined });
      expect(await judge(bench, "vda")).toBe(IDENTICAL);
      expect(bitmapsOf(bench.at("a.qcow2"))).toEqual([BITMAP]);
    }
  });

  qemu.test("that is gone is noticed: all is compared, and a note says so", async () => {
    const bench = await makeTracked();
    execFileSync("qemu-img", ["bitmap", "--remove", bench.at("a.qcow2"), BITMAP]);
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    const { actions } = await mirror(bench, { vda: undefined });
    expect(actions[0]?.notes.join()).toMatch(/has no bitmap.*make another one with --bitmap/);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test("goes with the mirror, and leaves a sound image", async () => {
    const bench = await makeTracked();
    await bench.run({ kind: "mirror-cancel", devices: ["vda"] });
    expect(bitmapsOf(bench.at("a.qcow2"))).toEqual([]);
  });

  test("is refused for raw, which has no place for one", async () => {
    const bench = await makeWorkbench();
    await expectRefused(bench, { vdb: "m.raw" }, { code: "E_UNSUPPORTED", device: "vdb" }, { bitmap: true });
  });

  test("leaves the image byte by byte as it was when the transaction is aborted", async () => {
    const bench = await makeWorkbench();
    const before = stateOf(bench.at("a.qcow2"));
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" }, { bitmap: true });
    expect(stateOf(bench.at("a.qcow2"))).not.toEqual(before);
    await bench.abort(id);
    expect(stateOf(bench.at("a.qcow2"))).toEqual(before);
    expect(stagingFiles(bench)).toEqual([]);
  });
});

describe("a commit behind writes of a guest", () => {
  qemu.test("brings the transaction's mirror in line first", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" });
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    await bench.commit(id);
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
    expect(await mirror(bench, { vda: undefined })).toMatchObject({ changed: false });
  });

  qemu.test(
    "brings a mirror in line before it takes over, made before the transaction or in it",
    async () => {
      const bench = await makeWorkbench();
      await mirror(bench, { vda: "m.qcow2" });
      const id = await bench.begin();
      await mirror(bench, { vdb: "n.raw" });
      await bench.run({
        kind: "reopen",
        device: "vda",
        file: bench.at("m.qcow2"),
        format: undefined,
        force: false,
      });
      await bench.run({
        kind: "reopen",
        device: "vdb",
        file: bench.at("n.raw"),
        format: "raw",
        force: false,
      });
      writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
      writeGuest(bench.at("b.raw"), "raw", "write -P 9 8k 8k");
      await bench.commit(id);
      expect((await bench.devices()).map(({ image }) => image).slice(0, 2)).toEqual([
        bench.at("m.qcow2"),
        bench.at("n.raw"),
      ]);
      const pairs = [
        ["a.qcow2", "m.qcow2", "qcow2"],
        ["b.raw", "n.raw", "raw"],
      ] as const;
      for (const [one, other, format] of pairs) {
        const words = ["compare", "-f", format, "-F", format, bench.at(one), bench.at(other)];
        expect(execFileSync("qemu-img", words, { encoding: "utf8" }).trim()).toBe(IDENTICAL);
      }
      expect(stagingFiles(bench)).toEqual([]);
    },
  );

  qemu.test("refuses where a snapshot rests on the image that was written to", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await mirror(bench, { vda: "m.qcow2" });
    await bench.snapshot({ vda: "a1.qcow2" });
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 64k 64k");
    expect(await failureOf(async () => await bench.commit(id))).toMatchObject({ code: "E_CHANGED" });
  });
});
