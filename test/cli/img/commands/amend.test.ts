import { readdirSync } from "node:fs";
import { describe, expect } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { makeFolder, runBoth, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";
import { runCli } from "../../../helpers/cli/harness.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = `
qemu-img create -q -f qcow2 a.qcow2 2M
qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k old.qcow2 2M
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 over.qcow2
qemu-img create -q -f qcow2 -o data_file=d.data data.qcow2 1M
for name in a old over data; do qemu-io -f qcow2 -c 'write -P 5 64k 100k' $name.qcow2 > io; done
head -c 1048576 /dev/zero > b.raw
rm io
`;

const CHANGEABLE = ["a", "old", "over", "data"].map((name) => `${name}.qcow2`);

/** What a guest reads, what the image is, and whether it is sound, by qemu-img's own word; of files that the line does not name, the bytes. */
function describeImages(folder: string, line: string): string {
  const named = CHANGEABLE.filter((name) => line.includes(name));
  return shell(
    folder,
    `for name in ${named.join(" ")}; do
       qemu-img convert -O raw $name out; sha256sum < out; rm out
       qemu-img info $name | grep -v '^disk size'; qemu-img check -q $name
     done
     sha256sum $(ls | grep -vxF '${["", ...named].join("\n")}')`,
  );
}

const sumUp = (folder: string): string => shell(folder, "sha256sum *");

describe("amend makes, prints and ends as qemu-img does", () => {
  qemu.test.each([
    "-o compat=1.1 old.qcow2",
    "-o compat=v2 a.qcow2",
    "-o compat=1.1 -o lazy_refcounts=on,refcount_bits=64 old.qcow2",
    "-p -o compat=1.1 a.qcow2",
    "-q -p -f qcow2 -o lazy_refcounts a.qcow2",
    "-o nolazy_refcounts,size=5M over.qcow2",
    "-t none --force -o backing_file=a.qcow2,backing_fmt=qcow2 over.qcow2",
    "--image-opts -o refcount_bits=1 driver=qcow2,file.filename=a.qcow2",
    "-o help -f qcow2",
    "-o ? a.qcow2",
    "-o help b.raw",
    "-f raw -o help",
    "-f foo -o help",
    "-f raw -o size=2M b.raw",
    "a.qcow2",
    "-o compat=1.1",
    "-o compat=1.1 a.qcow2 old.qcow2",
    "-o compat=1.1, a.qcow2",
    "-o compat=2 a.qcow2",
    "-o lazy_refcounts=on old.qcow2",
    "-o lazy_refcounts=x a.qcow2",
    "-o refcount_bits=8 old.qcow2",
    "-o refcount_bits=0 a.qcow2",
    "-o refcount_bits=foo a.qcow2",
    "-o compat=0.10,refcount_bits=64 a.qcow2",
    "-o size=foo a.qcow2",
    "-o size=3000001 a.qcow2",
    "-o cluster_size=4k a.qcow2",
    "-o foo=1 a.qcow2",
    "-o encrypt.keyslot=1 a.qcow2",
    "-o backing_file=x a.qcow2",
    "-o data_file=x a.qcow2",
    "-o data_file_raw=on data.qcow2",
    "-t foo -o compat=1.1 a.qcow2",
    "-o compat=1.1 none.qcow2",
  ])("amend %s", async (line) => {
    const words = ["amend", ...line.split(" ")];
    const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(IMAGES, words);
    expect(ours).toEqual(theirs);
    expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
    const describeAll = theirs.status === 0 ? describeImages : sumUp;
    expect(describeAll(ourFolder, line)).toBe(describeAll(qemuFolder, line));
  });
});

qemu.test("what would lose data is refused, with the command that does it all the same", async () => {
  const { qemu: theirs, ourFolder } = await runBoth(IMAGES, ["amend", "-o", "size=1M", "a.qcow2"]);
  expect(theirs.status).toBe(0);
  const refused = await runImg(ourFolder, ["amend", "-o", "size=1M", "old.qcow2"], { program: "imgtx" });
  const hint = /`imgtx img ([^`]+)`/.exec(refused.stderr)?.[1] ?? "";
  expect({ status: refused.status, hint }).toEqual({ status: 1, hint: "resize --shrink old.qcow2 1048576" });
  expect(await runImg(ourFolder, hint.split(" "))).toMatchObject({ status: 0 });
});

qemu.test("the image of a device is amended as the device, whose history has it", async () => {
  const folder = makeFolder();
  shell(folder, "qemu-img create -q -f qcow2 -o compat=0.10 a.qcow2 1M");
  await runCli(["device", "add", "vda", "a.qcow2"], { cwd: folder });
  expect(await runImg(folder, ["amend", "--options", "compat=1.1", "a.qcow2"])).toMatchObject({ status: 0 });
  expect(runQemu(folder, ["info", "a.qcow2"]).stdout).toContain("compat: 1.1");
  expect((await runCli(["history"], { cwd: folder })).stdout).toContain("amend vda");
  const command = ["amend", "vda", "-o", "cluster_size=4k"];
  expect(await runCli(command, { cwd: folder })).toMatchObject({
    status: 64,
    stderr: expect.stringMatching(
      /-o: Invalid parameter 'cluster_size'\n.*only supported for image/,
    ) as string,
  });
});
