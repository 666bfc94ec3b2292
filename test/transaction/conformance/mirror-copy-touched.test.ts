// A mirror without a fence, into which somebody wrote between a crash amid its copy and recovery: nothing tells that from
// what imgtx did.

import { execFileSync } from "node:child_process";
import { statSync, utimesSync } from "node:fs";
import { describe, expect } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { forceCommit } from "../../../src/transaction/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { type Call, killAt } from "../../helpers/storage/watched-storage.ts";
import {
  dieAmidCopy as dieAt,
  IDENTICAL,
  judge,
  mirror,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { makeWorkbench, RUN_ALONE, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

/** A device whose mirror, which has no place for a fence, lacks what was written to its first cluster alone. */
async function makeBehindAtStart(): Promise<Workbench> {
  const bench = await makeWorkbench();
  await mirror(bench, { vdc: "m.qcow2" }, { options: { compat: "0.10" } });
  writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 1 0 40k");
  return bench;
}

describe("a mirror whose copy was cut off", () => {
  qemu.test.each([
    ["once", []],
    ["and has its old times again", ["touch"]],
  ])("and into which somebody wrote before recovery %s is no copy until it is compared", async (_, how) => {
    const bench = await makeBehindAtStart();
    const { atime, mtime } = statSync(bench.at("m.qcow2"));
    await dieAt(bench, "file.flush", 1);
    writeGuest(bench.at("m.qcow2"), "qcow2", "write -P 77 128k 4k");
    if (how.length > 0) utimesSync(bench.at("m.qcow2"), atime, mtime);
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "finished" });
    expect(note?.text).toContain("m.qcow2 is compared from end to end when it is synced next");
    expect((await mirror(bench, { vdc: undefined })).changed).toBe(true);
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  qemu.test("and whose data file somebody wrote to is no copy until it is compared", async () => {
    const bench = await makeWorkbench();
    await mirror(
      bench,
      { vdc: "m.qcow2" },
      { options: { dataFileName: bench.at("m.data"), dataFileRaw: true } },
    );
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 1 0 40k");
    const isWrite = ({ name, path }: Call) => name === "file.write" && path.endsWith("m.data");
    const dying = bench.through(killAt(makeNodeStorage(), isWrite));
    await expect(mirror(dying, { vdc: undefined })).rejects.toThrow("killed");
    writeGuest(bench.at("m.data"), "raw", "write -P 77 128k 4k");
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect((await mirror(bench, { vdc: undefined })).changed).toBe(true);
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  qemu.test("waits where somebody wrote to what a device is to be on, until a person says so", async () => {
    const bench = await makeBehindAtStart();
    const dying = killAt(
      makeNodeStorage(),
      ({ name, path }) => name === "file.flush" && path.endsWith("m.qcow2"),
    );
    await expect(bench.through(dying).reopen("vdc", "m.qcow2")).rejects.toThrow("killed");
    writeGuest(bench.at("m.qcow2"), "qcow2", "write -P 77 128k 4k");
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_CHANGED", devices: ["vdc"] } });
    expect((await bench.images())["vdc"]).toBe("c.qcow2");
    const { kept } = await forceCommit(await bench.session(), note?.transaction ?? "", RUN_ALONE);
    expect(kept).toMatchObject([{ path: bench.at("m.qcow2") }]);
    expect((await bench.images())["vdc"]).toBe("m.qcow2");
    execFileSync("qemu-io", ["-c", "read -P 77 128k 4k", "-c", "read -P 1 0 40k", bench.at("m.qcow2")]);
  });
});
