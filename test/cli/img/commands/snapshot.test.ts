import { readdirSync } from "node:fs";
import { describe, expect } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { runBoth, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = `
for options in compat=1.1 compat=0.10; do
  name=\${options#compat=}.qcow2
  qemu-img create -q -f qcow2 -o $options,cluster_size=4k $name 2M
  qemu-io -f qcow2 -c 'write -P 5 0 100k' $name > io
  qemu-img snapshot -c one $name
  qemu-io -f qcow2 -c 'write -P 6 64k 1M' $name > io
  qemu-img snapshot -c two $name
  qemu-img snapshot -c one $name
  qemu-io -f qcow2 -c 'write -z 0 32k' $name > io
done
head -c 65536 /dev/zero > b.raw
rm io
`;

/** All that either says of the image then, without the time of what was made, and what a guest reads. */
function describeImage(folder: string, name: string): string {
  const list = runQemu(folder, ["snapshot", "-l", name]).stdout.replaceAll(/\d{4}-\S+ \S+/g, "TIME");
  const read = "qemu-img convert -f qcow2 -O raw $1 out; sha256sum < out; rm out; qemu-img check -q $1";
  return `${list}${shell(folder, `set -- ${name}; ${read}`)}`;
}

describe("snapshot makes, prints and ends as qemu-img does", () => {
  qemu.test.each([
    "-l 1.1.qcow2",
    "-l -U 0.10.qcow2",
    "-l b.raw",
    "-c new 1.1.qcow2",
    "-c new 0.10.qcow2",
    "-c one 1.1.qcow2",
    "-q -a one 1.1.qcow2",
    "-a 2 1.1.qcow2",
    "-a two 0.10.qcow2",
    "-d one 1.1.qcow2",
    "-d two 0.10.qcow2",
    "-d 1 1.1.qcow2",
    "-d none 1.1.qcow2",
    "-a none 1.1.qcow2",
    "-l -c new 1.1.qcow2",
    "-c new -d one 1.1.qcow2",
    "-c new b.raw",
    "-d new b.raw",
    "-c new none.qcow2",
    "-l",
    "-c new",
    "-c new 1.1.qcow2 0.10.qcow2",
    "-c",
  ])("snapshot %s", async (line) => {
    const words = ["snapshot", ...line.split(" ")];
    const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(IMAGES, words);
    expect(ours).toEqual(theirs);
    expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
    // What fails while it reads its words, or without a name, has not come as far as an image.
    const changed = /^(?:-q )?-[acd] \S+ (\S+\.qcow2)$/.exec(line)?.slice(1) ?? [];
    for (const name of changed.filter((each) => each !== "none.qcow2")) {
      expect(describeImage(ourFolder, name)).toBe(describeImage(qemuFolder, name));
    }
  });
});

qemu.test("the longer names of newer versions are taken, and one lists without being asked to", async () => {
  const { ourFolder } = await runBoth(IMAGES, ["snapshot", "1.1.qcow2"]);
  expect(await runImg(ourFolder, ["snapshot", "--create", "long", "-f", "qcow2", "1.1.qcow2"])).toMatchObject(
    {
      status: 0,
    },
  );
  const listed = await runImg(ourFolder, ["snapshot", "--list", "1.1.qcow2"]);
  expect(listed).toEqual(runQemu(ourFolder, ["snapshot", "-l", "1.1.qcow2"]));
  expect(listed.stdout).toContain("long");
});
