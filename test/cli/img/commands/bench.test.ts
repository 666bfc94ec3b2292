// imgtx img bench: what it refuses, where qemu-img would measure or harm. What both print is in versions.test.ts.

import { expect } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { runCli } from "../../../helpers/cli/harness.ts";
import { makeFolder, runImg, shell } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

qemu.test("a device's image is read, and not written to", async () => {
  const folder = makeFolder();
  shell(
    folder,
    "qemu-img create -q -f qcow2 a.qcow2 1M; qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 b.qcow2",
  );
  expect((await runCli(["device", "add", "vda", "b.qcow2"], { cwd: folder })).status).toBe(0);
  shell(folder, "sha256sum a.qcow2 b.qcow2 > before");
  for (const name of ["a.qcow2", "b.qcow2"]) {
    const { status, stdout, stderr } = await runCli(["img", "bench", "-w", "-c", "5", name], { cwd: folder });
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
    expect(stderr).toContain("device 'vda' of the workspace");
    expect(await runCli(["img", "bench", "-c", "5", name], { cwd: folder })).toMatchObject({ status: 0 });
  }
  shell(folder, "sha256sum --quiet -c before");
});

qemu.test("what would measure something else is refused, and so is what would lose bitmaps", async () => {
  const folder = makeFolder();
  shell(
    folder,
    "qemu-img create -q -f qcow2 a.qcow2 1M; qemu-img bitmap --add a.qcow2 one; sha256sum a.qcow2 > before",
  );
  const refusals = {
    "-n": "-n: imgtx reads and writes with threads only",
    "-i io_uring": "-i io_uring: imgtx reads and writes with threads only",
    "-t none": "-t none: imgtx goes through the kernel's cache",
    "-s 1G": "64 requests of 1073741824 bytes at once",
    "-w": "it has persistent bitmaps, which would be lost",
    "-w -U": "force-share=on can only be used with read-only images",
  };
  for (const [options, message] of Object.entries(refusals)) {
    const words = ["bench", ...options.split(" "), "-c", "5", "a.qcow2"];
    const { status, stdout, stderr } = await runImg(folder, words, { program: "imgtx" });
    expect({ status, stdout }).toEqual({ status: 1, stdout: "" });
    expect(stderr).toContain(message);
  }
  shell(folder, "sha256sum --quiet -c before");
});
