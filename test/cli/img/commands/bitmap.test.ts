import { readdirSync } from "node:fs";
import { describe, expect } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { runBoth, runImg, runQemu } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = `
for name in a b; do
  qemu-img create -q -f qcow2 $name.qcow2 2M
  qemu-img bitmap --add $name.qcow2 on
  qemu-img bitmap --add --disable -g 4k $name.qcow2 off
  qemu-io -f qcow2 -c 'write 0 100k' $name.qcow2 > io
done
qemu-img create -q -f qcow2 -o compat=0.10 old.qcow2 1M
rm io
`;

const describeBitmaps = (folder: string): string =>
  runQemu(folder, ["info", "a.qcow2"]).stdout.replace(/disk size.*\n/, "");

describe("bitmap makes, prints and ends as qemu-img does", () => {
  qemu.test.each([
    "--add a.qcow2 new",
    "--add -g 512 a.qcow2 new",
    "--add --disable --granularity=1M a.qcow2 new",
    "--add --merge on a.qcow2 new",
    "--remove a.qcow2 on",
    "--add --remove a.qcow2 new",
    "--clear --disable a.qcow2 on",
    "--enable --merge on a.qcow2 off",
    "--merge on -b b.qcow2 -F qcow2 a.qcow2 off",
    "-f qcow2 --merge on a.qcow2 off",
    "--image-opts --clear driver=qcow2,file.filename=a.qcow2 on",
    "--add a.qcow2 on",
    "--add -g 100 a.qcow2 new",
    "--clear a.qcow2 none",
    "--merge none a.qcow2 on",
    "--merge none -b b.qcow2 -F qcow2 a.qcow2 on",
    "a.qcow2 on",
    "--add a.qcow2",
    "--clear -g 1k a.qcow2 on",
    "--clear -b b.qcow2 a.qcow2 on",
    "--merge on -F qcow2 a.qcow2 off",
    "--add none.qcow2 new",
  ])("bitmap %s", async (line) => {
    const words = ["bitmap", ...line.split(" ")];
    const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(IMAGES, words);
    expect(ours).toEqual(theirs);
    expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
    expect(describeBitmaps(ourFolder)).toBe(describeBitmaps(qemuFolder));
    expect(runQemu(ourFolder, ["check", "-q", "a.qcow2"]).status).toBe(0);
  });
});

qemu.test("several operations are all done or none, where qemu-img leaves the first ones", async () => {
  const words = ["bitmap", "--add", "--merge", "none", "a.qcow2", "new"];
  const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(IMAGES, words);
  expect(ours).toEqual(theirs);
  expect(describeBitmaps(qemuFolder)).toContain("name: new");
  expect(describeBitmaps(ourFolder)).not.toContain("name: new");
});

qemu.test(
  "--remove-all of newer versions takes all away, and an old format is refused by its name",
  async () => {
    const { ourFolder } = await runBoth(IMAGES, ["bitmap", "--remove", "a.qcow2", "on"]);
    expect(await runImg(ourFolder, ["bitmap", "--remove-all", "a.qcow2"])).toEqual({
      status: 0,
      stdout: "",
      stderr: "",
    });
    expect(describeBitmaps(ourFolder)).not.toContain("bitmaps");
    const { status, stderr } = await runImg(ourFolder, ["bitmap", "--add", "old.qcow2", "new"]);
    expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining("v2 files") as string });
  },
);
