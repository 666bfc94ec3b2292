import { expect } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { runBoth, runImg, runQemu, shell, makeFolder } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io", "qemu-nbd");

const IMAGES = `
qemu-img create -q -f qcow2 a.qcow2 64M
qemu-img bitmap --add a.qcow2 one
qemu-img bitmap --add -g 512 a.qcow2 fine
qemu-img bitmap --add -g 1M --disable a.qcow2 coarse
qemu-io -f qcow2 -c 'write 0 1M' -c 'write 5M 512' -c 'write 9999872 40k' -c 'write 60M 4M' a.qcow2 > io
qemu-img bitmap --add a.qcow2 empty
qemu-io -f qcow2 -c 'write 12M 20M' a.qcow2 > io
rm io
`;

/** The bitmaps of an image, as qemu-img tells of them. */
function marks(folder: string, name: string): string {
  return shell(
    folder,
    `qemu-img info --output=json ${name} | grep -A60 bitmaps | grep -E 'name|granularity|auto|in-use' | sort`,
  );
}

qemu.test.each(["", "-o cluster_size=4k", "-o cluster_size=512", "-c", "-o data_file=d"])(
  "convert --bitmaps %s copies names, granularities and flags, and what is marked",
  async (options) => {
    const words = `convert --bitmaps -O qcow2 ${options} a.qcow2 o`.split(" ").filter((word) => word !== "");
    const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(IMAGES, words);
    expect(ours).toEqual(theirs);
    expect(theirs.status).toBe(0);
    expect(marks(ourFolder, "o")).toBe(marks(qemuFolder, "o"));
    expect(runQemu(ourFolder, ["check", "o"])).toMatchObject({ status: 0, stderr: "" });
    const bits = (folder: string): string[] =>
      ["one", "fine", "coarse", "empty"].map((name) => nbdDirty(folder, name));
    expect(bits(ourFolder)).toEqual(bits(qemuFolder));
  },
);

/** What QEMU reads of a bitmap: the dirty ranges that an NBD export of it tells. */
function nbdDirty(folder: string, bitmap: string): string {
  return shell(
    folder,
    `rm -f sock
     qemu-nbd -t -r -f qcow2 -B ${bitmap} -k "$PWD/sock" o & pid=$!
     until [ -S sock ]; do sleep 0.02; done
     qemu-img map --output=json --image-opts \\
       "driver=nbd,server.type=unix,server.path=$PWD/sock,x-dirty-bitmap=qemu:dirty-bitmap:${bitmap}"
     kill $pid; wait $pid || true`,
  );
}

qemu.test("an inconsistent bitmap is refused, or left out with a warning", async () => {
  const folder = makeFolder();
  shell(folder, IMAGES);
  shell(folder, `qemu-io -f qcow2 -c 'write 0 64k' -c 'sigraise 9' a.qcow2 > io 2>&1 || true; rm -f io`);
  for (const options of [[], ["--skip-broken-bitmaps"]]) {
    const words = ["convert", "--bitmaps", ...options, "-O", "qcow2", "a.qcow2"];
    const theirs = runQemu(folder, [...words, "theirs"]);
    const ours = await runImg(folder, [...words, "ours"]);
    expect(ours).toEqual(theirs);
  }
});

// qemu-img keeps them up instead.
qemu.test("a target that is there and has bitmaps is refused, and untouched", async () => {
  const folder = makeFolder();
  shell(folder, `${IMAGES} cp a.qcow2 target.qcow2`);
  const before = shell(folder, "sha256sum target.qcow2");
  const refused = await runImg(folder, ["convert", "-n", "-O", "qcow2", "a.qcow2", "target.qcow2"]);
  expect(refused).toMatchObject({ status: 1, stdout: "" });
  expect(refused.stderr).toContain("it has persistent bitmaps, which would be lost");
  expect(shell(folder, "sha256sum target.qcow2")).toBe(before);
});
