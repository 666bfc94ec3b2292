import { describe, expect, test } from "vitest";
import { FIXTURES } from "../../../helpers/fixtures.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { makeFolder, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";
import {
  formatWords,
  HANGS_QEMU,
  runOnFixtures,
  runOnImages,
} from "../../../helpers/cli/fixtures-against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

describe("measure of a fixture prints what qemu-img measure does, or is refused", () => {
  const fixtures = FIXTURES.filter(({ name }) => !HANGS_QEMU.has(name));
  qemu.test.each(fixtures.map(({ name, format, refusal }) => ({ name, format, refusal })))(
    "$name",
    async ({ name, format, refusal }) => {
      const words = ["measure", ...formatWords(format), "-O", "qcow2", "--output=json", name];
      const { qemu: theirs, ours } = await runOnFixtures(words);
      const isDamaged = refusal !== null && refusal.when !== "write";
      if (isDamaged && ours.status !== 0) {
        expect(ours).toMatchObject({ status: 1, stdout: "" });
        return;
      }
      // qemu-img opens no image whose bitmaps or snapshots are damaged.
      if (isDamaged && theirs.status !== 0) return;
      expect({ ...ours, stderr: "" }).toEqual({ ...theirs, stderr: "" });
      if (theirs.status === 0) expect(ours.stderr).toBe(theirs.stderr);
    },
  );
});

const IMAGES = `
truncate -s 10M holes.raw
qemu-io -f raw -c 'write -P 1 100k 1k' -c 'write -P 2 3M 1M' holes.raw > io
qemu-img create -q -f qcow2 -b holes.raw -F raw over.qcow2 12M
qemu-io -c 'write -P 3 4500k 1000k' -c 'write -z 3M 512k' -c 'write -c -P 4 11M 64k' over.qcow2 > io
qemu-img create -q -f qcow2 kept.qcow2 20M
qemu-io -c 'write -P 3 0 10M' kept.qcow2 > io
qemu-img snapshot -c before kept.qcow2
qemu-io -c 'discard 0 8M' kept.qcow2 > io
qemu-img bitmap --add kept.qcow2 daily
qemu-img bitmap --add -g 1M --disable kept.qcow2 'a longer name than that'
rm io
`;

describe("measure prints and ends as qemu-img does", () => {
  qemu.test.each([
    "holes.raw",
    "-O qcow2 holes.raw",
    "-O qcow2 -f raw --output=json holes.raw",
    "-O qcow2 -o cluster_size=512 holes.raw",
    "-O qcow2 -o cluster_size=2M holes.raw",
    "-O qcow2 -o extended_l2=on,refcount_bits=64 holes.raw",
    "-O qcow2 -o preallocation=metadata holes.raw",
    "-O qcow2 -o preallocation=falloc holes.raw",
    "-O qcow2 -o preallocation=full holes.raw",
    "-O qcow2 -o preallocation=foo holes.raw",
    "-O qcow2 -o backing_file=x holes.raw",
    "-O qcow2 over.qcow2",
    "-O qcow2 -o cluster_size=4k over.qcow2",
    "-O raw over.qcow2",
    "-O qcow2 kept.qcow2",
    "-O qcow2 --output=json kept.qcow2",
    "-O qcow2 -l before kept.qcow2",
    "-O qcow2 -l 1 kept.qcow2",
    "-O qcow2 -l snapshot.name=before kept.qcow2",
    "-O qcow2 -l snapshot.id=1 kept.qcow2",
    "-O qcow2 -l none kept.qcow2",
    "-O qcow2 -l snapshot.foo=1 kept.qcow2",
    "-O qcow2 -o compat=0.10 kept.qcow2",
    "-O qcow2 -o compat=v3 kept.qcow2",
    "-O qcow2 -o compat=0.10,refcount_bits=8 kept.qcow2",
    "-O qcow2 -o refcount_bits=3 kept.qcow2",
    "-O qcow2 -o refcount_bits=128 kept.qcow2",
    "-O qcow2 -o cluster_size=3k kept.qcow2",
    "-O qcow2 -o extended_l2=on,cluster_size=4k kept.qcow2",
    "-O qcow2 -o foo=1 kept.qcow2",
    "-O raw -o foo=1 kept.qcow2",
    "-O raw --size 1000",
    "--size 1",
    "--size 0 -O qcow2",
    "--size 5G -O qcow2",
    "--size 1T -O qcow2 --output=json",
    "--size 1T -O qcow2 -o cluster_size=512",
    "--size 1T -O qcow2 -o cluster_size=2M,refcount_bits=1",
    "--size 5G -O qcow2 -o preallocation=full",
    "--size 5G -O qcow2 -o backing_file=x",
    "--size 1x",
    "--size 5G holes.raw",
    "--size 5G -f raw",
    "--size 5G --image-opts",
    "--size 5G -l 1",
    "-U over.qcow2",
    "-U -O qcow2 --image-opts driver=qcow2,file.filename=over.qcow2",
    "-O vmdk --size 1G",
    "-O foo --size 1G",
    "none.qcow2",
    "holes.raw over.qcow2",
    "",
    "--output=xml --size 1G",
  ])("measure %s", async (line) => {
    const { qemu: theirs, ours } = await runOnImages(IMAGES, ["measure", ...line.split(" ").filter(Boolean)]);
    expect(ours).toEqual(theirs);
  });
});

/** Sizes around the places where one more table, block or cluster is needed. */
const SIZES = [1, 512, 65_536, 65_537, 2 ** 25, 2 ** 29, 2 ** 29 + 1, 2 ** 31 + 12_345, 2 ** 36, 2 ** 40];

qemu.test("measures empty disks of any size as qemu-img does", async () => {
  const folder = makeFolder();
  for (const clusterBits of [9, 12, 16, 21]) {
    for (const [index, size] of SIZES.entries()) {
      const options = `cluster_size=${2 ** clusterBits},refcount_bits=${2 ** (index % 7)}`;
      const words = ["measure", "-O", "qcow2", "--output=json", "-o", options, "--size", String(size)];
      expect(await runImg(folder, words)).toEqual(runQemu(folder, words));
    }
  }
});

qemu.test("what measure says is what convert takes, where all is data", () => {
  const folder = makeFolder();
  shell(
    folder,
    "qemu-img create -q -f raw -o preallocation=off disk.raw 5M; qemu-io -f raw -c 'write -P 1 0 5M' disk.raw > io",
  );
  const said = JSON.parse(
    runQemu(folder, ["measure", "-O", "qcow2", "--output=json", "disk.raw"]).stdout,
  ) as {
    required: number;
  };
  shell(folder, "qemu-img convert -O qcow2 disk.raw disk.qcow2");
  expect(Number(shell(folder, "stat -c %s disk.qcow2"))).toBeLessThanOrEqual(said.required);
});

test("measure refuses what can't be a size before it opens anything", async () => {
  const folder = makeFolder();
  expect(await runImg(folder, ["measure", "--size", "1e3"])).toMatchObject({ status: 1, stdout: "" });
});
