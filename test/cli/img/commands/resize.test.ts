import { readFileSync, rmSync, readdirSync, statSync } from "node:fs";
import { describe, expect } from "vitest";
import { startQemuDaemon } from "../../../helpers/qemu-programs.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { makeFolder, runBoth, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = `
qemu-img create -q -f qcow2 base.qcow2 3M
qemu-io -f qcow2 -c 'write -P 9 0 3M' base.qcow2 > io
qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2 2M
qemu-io -f qcow2 -c 'write -P 5 0 100k' over.qcow2 > io
qemu-img create -q -f qcow2 -o compat=0.10,cluster_size=4k old.qcow2 2M
qemu-io -f qcow2 -c 'write -P 6 1M 64k' old.qcow2 > io
qemu-img create -q -f qcow2 -o data_file=d.data data.qcow2 2M
qemu-io -f qcow2 -c 'write -P 7 64k 1M' data.qcow2 > io
qemu-img create -q -f qcow2 snap.qcow2 2M
qemu-img snapshot -c one snap.qcow2
qemu-img bitmap --add snap.qcow2 bits
qemu-img create -q -f qcow2 -o cluster_size=512 tight.qcow2 2M
qemu-io -f qcow2 -c 'write -P 8 0 2M' tight.qcow2 > io
head -c 1048576 /dev/zero | tr '\\\\0' x > b.raw
rm io
`;

/** What a guest reads, by qemu-img's own word. */
function guestOf(folder: string, image: string): Buffer {
  if (image.endsWith(".raw")) return readFileSync(`${folder}/${image}`);
  expect(runQemu(folder, ["convert", "-f", "qcow2", "-O", "raw", image, "out"]).status).toBe(0);
  const bytes = readFileSync(`${folder}/out`);
  rmSync(`${folder}/out`);
  return bytes;
}

/** To a guest, and sound by qemu-img's own word. */
function expectSame(image: string, [theirs, ours]: readonly [string, string]): void {
  expect(guestOf(ours, image).equals(guestOf(theirs, image))).toBe(true);
  const format = image.endsWith(".raw") ? "raw" : "qcow2";
  expect(runQemu(ours, ["check", "-q", "-f", format, image]).status).toBe(format === "raw" ? 63 : 0);
}

describe("resize makes, prints and ends as qemu-img does", () => {
  qemu.test.each([
    "over.qcow2 2560k",
    "over.qcow2 +5M",
    "-f qcow2 over.qcow2 40M",
    "-q over.qcow2 4M",
    "--shrink over.qcow2 -1M",
    "--preallocation=off over.qcow2 +1M",
    "--preallocation=metadata over.qcow2 4M",
    "--preallocation=falloc old.qcow2 5M",
    "--preallocation=full snap.qcow2 5M",
    "--preallocation=metadata tight.qcow2 5M",
    "-f raw --preallocation=falloc b.raw 3M",
    "-f raw --preallocation=full b.raw 3000k",
    "-f raw --preallocation=metadata b.raw 3M",
    "over.qcow2 +0",
    "old.qcow2 +3M",
    "--shrink old.qcow2 512k",
    "data.qcow2 3M",
    "--shrink data.qcow2 256k",
    "--shrink tight.qcow2 256k",
    "snap.qcow2 5M",
    "--image-opts driver=qcow2,file.filename=over.qcow2 3M",
    "b.raw 2M",
    "-f raw b.raw 2M",
    "-f raw --shrink b.raw 1000",
    "-f raw --shrink b.raw -512k",
    "over.qcow2 1M",
    "over.qcow2 -20M",
    "over.qcow2 0",
    "over.qcow2 1000",
    "--shrink over.qcow2 1000",
    "over.qcow2 10X",
    "over.qcow2 1Mb",
    "over.qcow2",
    "",
    "over.qcow2 b.raw 1G",
    "--preallocation=falloc over.qcow2 1M",
    "--preallocation=foo over.qcow2 4M",
    "none.qcow2 1G",
    "-f qcow2 b.raw 1G",
    "--nope over.qcow2 1G",
  ])("resize %s", async (line) => {
    const words = ["resize", ...line.split(" ").filter((word) => word !== "")];
    const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(IMAGES, words);
    expect(ours).toEqual(theirs);
    expect(readdirSync(ourFolder)).toEqual(readdirSync(qemuFolder));
    const image = words
      .map((word) => /(?:over|old|data|snap|tight)\.qcow2$|^b\.raw$/.exec(word)?.[0])
      .find(Boolean);
    if (image === undefined) return;
    expectSame(image, [qemuFolder, ourFolder]);
    const blocks = [qemuFolder, ourFolder].map((folder) => statSync(`${folder}/${image}`).blocks / 2048);
    // What it has on the disk, in MiB, but for tables.
    if (/(?:falloc|full) /.test(line)) expect(Math.floor(blocks[1]!)).toBe(Math.floor(blocks[0]!));
    // Refcount blocks that lie at its end and count nothing any more go with the rest.
    const [theirSize, ourSize] = [qemuFolder, ourFolder].map((folder) => statSync(`${folder}/${image}`).size);
    if (line.startsWith("--shrink") && theirs.status === 0) expect(ourSize).toBe(theirSize);
  });
});

qemu.test("the longer names of newer versions are taken", async () => {
  const folder = makeFolder();
  shell(folder, "qemu-img create -q -f qcow2 a.qcow2 1M");
  expect(await runImg(folder, ["resize", "--quiet", "--format=qcow2", "a.qcow2", "4M"])).toEqual({
    status: 0,
    stdout: "",
    stderr: "",
  });
});

qemu.test("an image that a guest has open is refused in qemu-img's words, and stays as it is", async () => {
  const folder = makeFolder();
  shell(folder, "qemu-img create -q -f qcow2 a.qcow2 1M");
  const daemon = await startQemuDaemon(`${folder}/a.qcow2`, folder, true);
  try {
    for (const words of [
      ["resize", "a.qcow2", "2M"],
      ["snapshot", "-c", "one", "a.qcow2"],
      ["amend", "-o", "lazy_refcounts=on", "a.qcow2"],
      ["check", "-r", "all", "a.qcow2"],
    ]) {
      const theirs = runQemu(folder, words);
      expect(theirs.stderr).toContain('Failed to get "write" lock');
      expect(await runImg(folder, words)).toEqual(theirs);
    }
  } finally {
    await daemon.stop();
  }
  expect(await runImg(folder, ["resize", "a.qcow2", "2M"])).toMatchObject({ status: 0 });
});
