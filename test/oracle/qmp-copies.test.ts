// Backups and mirrors by QMP, sent to QEMU and to imgtx: the copies are the same to a guest.

import { readFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { runCli } from "../helpers/cli/harness.ts";
import { oracle } from "../helpers/oracles.ts";
import { chainOf, compareImages, isSound, type Trial, tryBoth, TWO_DISKS } from "../helpers/qmp/qmp-bench.ts";

const { test } = oracle("qemu-storage-daemon", "qemu-img", "qemu-io", "timeout");

const BEFORE = ["a.qcow2", "b.raw", "base.raw"];
const transaction = (...actions: object[]) => ({ execute: "transaction", arguments: { actions } });
const backup = (device: string, target: string, more: object = {}) => ({
  type: "drive-backup",
  data: { device, target, sync: "full", "job-id": `job-${device}`, ...more },
});

/** Both were done, made the same files, and have left the devices where they were. */
function expectCopies(trial: Trial, copies: Readonly<Record<string, string>>): void {
  const { qemu, imgtx } = trial;
  expect([qemu.answer, imgtx.answer]).toEqual([{ return: {} }, { return: {} }]);
  expect(imgtx.files).toEqual(qemu.files);
  expect(imgtx.active).toEqual({ vda: "a.qcow2", vdb: "b.raw" });
  for (const [file, format] of Object.entries(copies)) {
    expect(compareImages(trial, file, format)).toBe(0);
    expect(chainOf(imgtx, file)).toEqual(chainOf(qemu, file));
    if (format === "qcow2") expect(isSound(imgtx, file)).toBe(true);
  }
}

async function mirrorsOf({ imgtx }: Trial): Promise<unknown[]> {
  const { stdout } = await runCli(["device", "list", "--json"], { cwd: imgtx.folder });
  return (JSON.parse(stdout) as { devices: { mirror: unknown }[] }).devices.map(({ mirror }) => mirror);
}

describe("a backup", () => {
  test.each([
    ["of both disks in their own formats", {}],
    ["of both, all grouped", { "completion-mode": "grouped" }],
  ])("%s is the same as QEMU's, and no mirror is kept", async (_, properties) => {
    const trial = await tryBoth(TWO_DISKS, (at) => ({
      execute: "transaction",
      arguments: {
        actions: [backup("vda", at("ca.qcow2"), { format: "qcow2" }), backup("vdb", at("cb.raw"))],
        properties,
      },
    }));
    expectCopies(trial, { "ca.qcow2": "qcow2", "cb.raw": "raw" });
    expect(await mirrorsOf(trial)).toEqual([null, null]);
  });

  test.each([
    ["of the active layer, over the same backing image", { sync: "top" }],
    ["that is compressed", { compress: true }],
  ])("%s is the same as QEMU's", async (_, more) => {
    const trial = await tryBoth(TWO_DISKS, (at) =>
      transaction(backup("vda", at("ca.qcow2"), { format: "qcow2", ...more })),
    );
    expectCopies(trial, { "ca.qcow2": "qcow2" });
  });

  test.each([
    [
      "drive-backup",
      (at: (file: string) => string) => backup("vda", at("ca.qcow2"), { mode: "existing", format: "qcow2" }),
    ],
    [
      "blockdev-backup",
      (at: (file: string) => string) => ({
        type: "blockdev-backup",
        data: {
          device: "vda",
          sync: "full",
          "job-id": "job",
          target: at("").includes("/imgtx/") ? at("ca.qcow2") : "target",
        },
      }),
    ],
  ])("by %s into an image that is there is the same as QEMU's", async (type, action) => {
    const target = { name: "target", file: "ca.qcow2", format: "qcow2", isOverlay: true } as const;
    const scene = {
      devices: [...TWO_DISKS.devices, ...(type === "blockdev-backup" ? [target] : [])],
      images: [...TWO_DISKS.images, "qemu-img create -q -f qcow2 ca.qcow2 4M"],
    };
    expectCopies(await tryBoth(scene, (at) => transaction(action(at))), { "ca.qcow2": "qcow2" });
  });

  test("in a transaction that is aborted leaves nothing; QEMU leaves the target", async () => {
    const trial = await tryBoth(TWO_DISKS, (at) =>
      transaction(backup("vda", at("ca.qcow2"), { format: "qcow2" }), { type: "abort", data: {} }),
    );
    expect(trial.qemu.answer.error).toBeDefined();
    expect(trial.imgtx.status).toBe(14);
    expect(trial.qemu.files).toContain("ca.qcow2");
    expect(trial.imgtx.files).toEqual(BEFORE);
  });

  test("to a file that exists is refused, and undoes the one before; QEMU wipes it", async () => {
    const scene = {
      ...TWO_DISKS,
      images: [...TWO_DISKS.images, "echo precious >kept.txt", "cp kept.txt precious.txt"],
    };
    const trial = await tryBoth(scene, (at) =>
      transaction(backup("vda", at("ca.qcow2")), backup("vdb", at("precious.txt"))),
    );
    expect(trial.qemu.answer).toEqual({ return: {} });
    expect(trial.imgtx.status).toBe(14);
    expect(trial.imgtx.files).toEqual([...BEFORE, "kept.txt", "precious.txt"]);
    const read = (side: { folder: string }) => readFileSync(`${side.folder}/precious.txt`).toString("latin1");
    expect(read(trial.imgtx)).toBe("precious\n");
    expect(read(trial.qemu)).not.toBe("precious\n");
  });
});

describe("a mirror", () => {
  test.each([
    ["full", { sync: "full" }],
    ["top", { sync: "top" }],
  ])("by drive-mirror, %s, is the same as QEMU's, and is kept", async (sync, more) => {
    const trial = await tryBoth(TWO_DISKS, (at) => ({
      execute: "drive-mirror",
      arguments: { device: "vda", target: at("ma.qcow2"), format: "qcow2", "job-id": "job", ...more },
    }));
    expectCopies(trial, { "ma.qcow2": "qcow2" });
    expect(await mirrorsOf(trial)).toMatchObject([
      { image: `${trial.imgtx.folder}/ma.qcow2`, format: "qcow2", sync },
      null,
    ]);
  });
});
