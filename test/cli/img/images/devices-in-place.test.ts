// Images on block devices in no workspace, changed in place: what qemu-img makes of them, and what a killed command leaves.

import { spawnSync } from "node:child_process";
import { rmSync, symlinkSync } from "node:fs";
import { expect, onTestFinished } from "vitest";
import { makeFolder, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";
import { attachLoop } from "../../../helpers/loop-device.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { PROGRAM, wordsToStart } from "../../../helpers/program.ts";

const loops = oracle("root", "loops", "strace", "qemu-img", "qemu-io");
const SIZE_BYTES = 8 * 2 ** 20;

/** A device with 7s in the first 3 MiB of its image. */
function makeDevice(folder: string): string {
  const device = attachLoop(`${folder}/volume`, SIZE_BYTES);
  shell(folder, `qemu-img create -q -f qcow2 ${device} 4M; qemu-io -c 'write -P 7 0 3M' ${device}`);
  return device;
}

loops.test("an image on a device is changed in place as qemu-img changes one in a file", async () => {
  const folder = makeFolder();
  const device = makeDevice(folder);
  const allowed = { env: { IMGTX_ALLOW_DEVICES: "1" } };
  shell(folder, `dd if=${device} of=file.qcow2 bs=1M status=none`);
  for (const words of [
    ["resize", "-q", "IMAGE", "6M"],
    ["snapshot", "-c", "x", "IMAGE"],
    ["bitmap", "--add", "IMAGE", "b0"],
    ["amend", "-o", "lazy_refcounts=on", "IMAGE"],
    ["snapshot", "-d", "x", "IMAGE"],
    ["resize", "-q", "--shrink", "IMAGE", "3M"],
  ]) {
    const named = (image: string) => words.map((word) => (word === "IMAGE" ? image : word));
    expect(runQemu(folder, named("file.qcow2")).status).toBe(0);
    expect(await runImg(folder, named(device), allowed)).toMatchObject({ status: 0, stderr: "" });
    expect(runQemu(folder, ["check", "-q", device]).status).toBe(0);
  }
  shell(folder, `qemu-img compare -s -f qcow2 -F qcow2 file.qcow2 ${device}`);
  // A cluster that nothing maps: the last one of the refcounts that are there.
  shell(folder, `printf '\\0\\1' | dd of=${device} bs=1 seek=$((0x20000 + 200)) conv=notrunc status=none`);
  expect(runQemu(folder, ["check", "-q", device]).status).toBe(3);
  const repaired = await runImg(folder, ["check", "-r", "leaks", device], allowed);
  expect([repaired.status, repaired.stdout]).toEqual([0, expect.stringContaining("1 leaked cluster")]);
  expect(runQemu(folder, ["check", "-q", device]).status).toBe(0);
  shell(
    folder,
    `qemu-img create -q -f qcow2 -b ${device} -F qcow2 over.qcow2; qemu-io -c 'write -P 9 1M 1M' over.qcow2`,
  );
  expect((await runImg(folder, ["commit", "over.qcow2"], allowed)).stderr).toContain(
    `--allow-path ${device}`,
  );
  const trusting = [...wordsToStart(PROGRAM), "img", "commit", "--allow-path", device, "over.qcow2"];
  shell(folder, `IMGTX_ALLOW_DEVICES=1 ${trusting.join(" ")}; qemu-io -c 'read -P 9 1M 1M' ${device}`);
  // Its size is the device's own, and what has no place for a fence stays as it is.
  const raw = await runImg(folder, ["resize", "-f", "raw", device, "16M"], allowed);
  expect([raw.status, raw.stderr]).toEqual([1, expect.stringContaining("Cannot resize device files")]);
});

loops.test("what a killed command has left is ended by the next one, by another name of the device", () => {
  const folder = makeFolder();
  const device = makeDevice(folder);
  const alias = `/dev/imgtx-test-${device.split("/").at(-1) ?? ""}`;
  symlinkSync(device, alias);
  onTestFinished(() => {
    rmSync(alias);
  });
  shell(folder, `cp ${device} before`);
  const [program, ...start] = wordsToStart(PROGRAM);
  const env = { ...process.env, IMGTX_ALLOW_DEVICES: "1", UV_THREADPOOL_SIZE: "1" };
  const met = new Set<string>();
  for (const nth of [16, 19, 22, 25]) {
    shell(folder, `dd if=before of=${device} bs=1M status=none`);
    const inject = ["-e", "trace=fsync,fdatasync", "-e", `inject=fsync,fdatasync:signal=KILL:when=${nth}`];
    const words = ["-f", "-o", "/dev/null", ...inject, program, ...start, "img", "resize", device, "6M"];
    spawnSync("strace", words, { cwd: folder, env });
    const checked = runQemu(folder, ["check", "-q", device]);
    const isFenced = checked.stderr.includes("Unsupported qcow2 feature");
    expect({ nth, isSound: isFenced || checked.status === 0 }).toEqual({ nth, isSound: true });
    const info = spawnSync(program, [...start, "img", "info", alias], { cwd: "/", env, encoding: "utf8" });
    const size = /virtual size: (\d) MiB/.exec(info.stdout)?.[1];
    expect([info.status, size, info.stderr]).toEqual([
      0,
      expect.stringMatching(/^[46]$/),
      expect.any(String),
    ]);
    met.add(`${isFenced ? "fenced" : "open"} ${size ?? ""}`);
    expect(runQemu(folder, ["check", "-q", device]).status).toBe(0);
    shell(folder, `qemu-io -c 'read -P 7 0 3M' ${device}`);
    expect(shell(folder, `grep -rlF '"${device}"' /var/lib/imgtx || true`)).toBe("");
  }
  expect([...met].sort()).toEqual(expect.arrayContaining(["fenced 4", "fenced 6"]));
});
