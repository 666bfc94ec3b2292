import { readdirSync, readFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { runBoth, runQemu } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = `
qemu-img create -q -f qcow2 a.qcow2 2M
qemu-io -f qcow2 -c 'write -P 5 0 100k' -c 'write -P 6 1M 64k' a.qcow2 > io
head -c 1000 /dev/zero | tr '\\\\0' x > b.raw
rm io
`;

qemu.test("dd -O qcow2 makes an image of the same guest data", async () => {
  const words = ["dd", "-O", "qcow2", "if=a.qcow2", "of=z", "bs=64k", "skip=1", "count=20"];
  const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(IMAGES, words);
  expect(ours).toEqual(theirs);
  expect(runQemu(ourFolder, ["check", "z"]).status).toBe(0);
  expect(runQemu(ourFolder, ["compare", "z", `${qemuFolder}/z`]).status).toBe(0);
});

describe("dd makes, prints and ends as qemu-img does", () => {
  qemu.test.each([
    "if=a.qcow2 of=z",
    "if=a.qcow2 of=z bs=1M count=1",
    "-f qcow2 -O raw if=a.qcow2 of=z bs=64k skip=1",
    "if=a.qcow2 of=z bs=64k count=3 skip=1",
    "if=b.raw of=z",
    "if=b.raw of=z bs=3 count=2",
    "if=b.raw of=z bs=300 skip=1",
    "if=b.raw of=z skip=2",
    "if=b.raw of=z skip=3",
    "if=b.raw of=z count=0",
    "-U -f raw if=a.qcow2 of=z",
    "--image-opts if=driver=qcow2,file.filename=a.qcow2 of=z",
    "",
    "if=b.raw",
    "foo=1",
    "x",
    "if=b.raw of=z bs=0",
    "if=b.raw of=z bs=x",
    "if=b.raw of=z count=x",
    "if=b.raw of=z conv=notrunc",
    "if=none of=z",
    "if=b.raw of=nodir/z",
    "-O foo if=b.raw of=z",
  ])("dd %s", async (line) => {
    const words = ["dd", ...line.split(" ").filter((word) => word !== "")];
    const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(IMAGES, words);
    expect(ours).toEqual(theirs);
    expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
    for (const name of readdirSync(ourFolder).filter((each) => each !== "a.qcow2")) {
      expect(readFileSync(`${ourFolder}/${name}`).equals(readFileSync(`${qemuFolder}/${name}`))).toBe(true);
    }
  });
});
