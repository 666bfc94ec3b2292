// Images on block devices, as source and target of `imgtx img`: what qemu-img says and leaves on the same loop device.

import { writeFileSync } from "node:fs";
import { expect } from "vitest";
import { makeFolder, type Printed, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";
import { attachLoop } from "../../../helpers/loop-device.ts";
import { oracle } from "../../../helpers/oracles.ts";

const loops = oracle("root", "loops", "qemu-img", "qemu-io");
const MIB = 2 ** 20;
const ALLOWED = { env: { IMGTX_ALLOW_DEVICES: "1" } };

/** A device full of what its last user left there. */
function makeDevice(folder: string): string {
  writeFileSync(`${folder}/volume`, Buffer.alloc(8 * MIB, 0x5a));
  return attachLoop(`${folder}/volume`);
}

type Run = (words: readonly string[]) => Promise<Printed>;

/** The same for qemu-img and for imgtx, on one device that is full of garbage before each. */
async function compareRuns(
  script: (run: Run, device: string, folder: string) => Promise<unknown>,
): Promise<void> {
  const outcomes: unknown[] = [];
  const folder = makeFolder();
  const device = makeDevice(folder);
  for (const run of [
    async (words: readonly string[]) => runQemu(folder, words),
    async (words: readonly string[]) => await runImg(folder, words, ALLOWED),
  ]) {
    shell(folder, `tr '\\0' Z </dev/zero | head -c 8M >${device}`);
    outcomes.push(await script(run, device, folder));
  }
  expect(outcomes[1]).toEqual(outcomes[0]);
}

loops.test("a new image is described, checked, mapped and measured as qemu-img does", async () => {
  await compareRuns(async (run, device, folder) => {
    const printed = [await run(["create", "-f", "qcow2", device, "100M"])];
    shell(folder, `qemu-io -c 'write -P 7 1M 2M' -c 'write -P 8 5M 4k' ${device}`);
    for (const words of [
      ["info", device],
      ["info", "--output=json", device],
      ["check", device],
      ["check", "--output=json", device],
      ["map", device],
      ["map", "--output=json", device],
      ["measure", "-O", "qcow2", device],
      ["measure", "-f", "raw", "-O", "qcow2", device],
    ]) {
      printed.push(await run(words));
    }
    return printed;
  });
});

loops.test(
  "what is written to a new image is read, and all else is zeros, whatever stood there before",
  async () => {
    const folder = makeFolder();
    const device = makeDevice(folder);
    expect((await runImg(folder, ["create", "-f", "qcow2", device, "6M"], ALLOWED)).status).toBe(0);
    shell(
      folder,
      `qemu-img create -q -f raw source 6M; qemu-io -f raw -c 'write -P 3 1M 700k' -c 'write 4M 5' source`,
    );
    const target = ["convert", "-n", "-f", "raw", "-O", "qcow2", "source", device];
    expect((await runImg(folder, target, ALLOWED)).status).toBe(0);
    shell(folder, `qemu-img compare -f raw source ${device}; qemu-img check ${device}`);
  },
);

loops.test("of a cluster that is written in part the rest is zeros, and not what stood there", async () => {
  const folder = makeFolder();
  const device = makeDevice(folder);
  expect((await runImg(folder, ["create", "-f", "qcow2", device, "6M"], ALLOWED)).status).toBe(0);
  const writes = ["bench", "-w", "-c", "3", "-d", "1", "-s", "4k", "-S", "1M", "-o", "68k", "--pattern=7"];
  expect((await runImg(folder, [...writes, "-f", "qcow2", device], ALLOWED)).status).toBe(0);
  const reads = [0, 1024, 2048].flatMap((at) => [
    `read -P 0 ${at + 64}k 4k`,
    `read -P 7 ${at + 68}k 4k`,
    `read -P 0 ${at + 72}k 56k`,
  ]);
  shell(
    folder,
    `qemu-io ${reads.map((read) => `-c '${read}'`).join(" ")} ${device}; qemu-img check ${device}`,
  );
});

loops.test(
  "a conversion to a device leaves the source's content in either format, and a sound image",
  async () => {
    const folder = makeFolder();
    shell(folder, `qemu-img create -q -f qcow2 s 8M; qemu-io -c 'write -P 9 1M 2M' -c 'write -z 5M 1M' s`);
    const device = makeDevice(folder);
    for (const format of ["raw", "qcow2"]) {
      const { status, stderr } = await runImg(folder, ["convert", "-O", format, "s", device], ALLOWED);
      expect([status, stderr]).toEqual([0, ""]);
      shell(folder, `qemu-img compare -F ${format} s ${device}`);
    }
    shell(folder, `qemu-img check ${device}`);
    expect((await runImg(folder, ["compare", "s", device], ALLOWED)).status).toBe(0);
    expect((await runImg(folder, ["dd", "-O", "qcow2", "if=s", `of=${device}`], ALLOWED)).status).toBe(0);
    shell(folder, `qemu-img compare s ${device}`);
  },
);

loops.test(
  "an image that does not fit ends with an error, and nothing on the device that passes for an image",
  async () => {
    const folder = makeFolder();
    shell(folder, `qemu-img create -q -f qcow2 s 20M; qemu-io -c 'write -P 9 1M 12M' s`);
    const device = makeDevice(folder);
    const { status, stderr } = await runImg(folder, ["convert", "-O", "qcow2", "s", device], ALLOWED);
    expect(status).toBe(1);
    expect(stderr).toContain("the device ends at 8388608");
    expect(shell(folder, `qemu-img info ${device}`)).toContain("file format: raw");
  },
);

loops.test("what a device can't do is refused in qemu-img's words", async () => {
  await compareRuns(async (run, device) => {
    const printed: Printed[] = [];
    for (const words of [
      ["create", "-f", "qcow2", "-o", "preallocation=falloc", device, "2M"],
      ["create", "-f", "qcow2", "-o", "preallocation=full", device, "2M"],
      ["create", "-f", "raw", device, "100M"],
      ["create", "-f", "raw", device, "4M"],
      ["resize", "-f", "raw", "--shrink", device, "4M"],
      ["resize", "-f", "raw", device, "40M"],
      ["info", device],
    ]) {
      const { status, stdout, stderr } = await run(words);
      // A hint may follow.
      printed.push({ status, stdout, stderr: stderr.replace(/\n {2}hint: .*/g, "") });
    }
    return printed;
  });
});

loops.test("a device is refused without the word for it, and other special files with it", async () => {
  const folder = makeFolder();
  const device = makeDevice(folder);
  shell(folder, "mkfifo fifo");
  for (const words of [
    ["info", device],
    ["create", "-f", "qcow2", device, "1M"],
    ["convert", "-O", "raw", device, "x"],
  ]) {
    const { status, stderr } = await runImg(folder, words, { program: "imgtx" });
    expect(status).toBe(1);
    expect(stderr).toContain("it is a block device, not a regular file");
    expect(stderr).toContain("--allow-devices");
  }
  const allowed = await runImg(folder, ["info", "--allow-devices", device]);
  expect(allowed.status).toBe(0);
  for (const [name, kind] of [
    ["fifo", "a FIFO"],
    ["/dev/zero", "a character device"],
  ] as const) {
    const { status, stderr } = await runImg(folder, ["info", name], ALLOWED);
    expect(status).toBe(1);
    expect(stderr).toContain(`it is ${kind}, not a regular file`);
  }
});

loops.test("an image of version 2 on a device is not changed in place, and stays as it is", async () => {
  const folder = makeFolder();
  const device = makeDevice(folder);
  shell(folder, `qemu-img create -q -f qcow2 -o compat=0.10 ${device} 1M; cp ${device} before`);
  const { status, stderr } = await runImg(folder, ["resize", device, "2M"], ALLOWED);
  expect([status, stderr]).toEqual([1, expect.stringContaining("has no place for a fence")]);
  shell(folder, `cmp before ${device}; ! test -e /dev/.imgtx`);
});
