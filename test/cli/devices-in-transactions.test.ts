// Block devices in transactions of several commands: between two of them nothing keeps a guest from a device.

import { expect } from "vitest";
import { type Commands, commandsIn } from "../helpers/cli/commands-in.ts";
import { attachLoop } from "../helpers/loop-device.ts";
import { command } from "../helpers/loop-disk.ts";
import { oracle } from "../helpers/oracles.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const loops = oracle("root", "loops", "qemu-img", "qemu-io");
const SIZE_BYTES = 8 * 2 ** 20;

interface Bench extends Commands {
  readonly root: string;
  /** With 7s in its second MiB, and the device vda. */
  readonly image: string;
  /** A volume of zeros. */
  readonly target: string;
}

async function makeBench(): Promise<Bench> {
  const root = makeFolder("on a disk");
  const [image, target] = [
    attachLoop(`${root}/volume`, SIZE_BYTES),
    attachLoop(`${root}/target`, SIZE_BYTES),
  ];
  command("qemu-img", "create", "-q", "-f", "qcow2", image, "16M");
  command("qemu-io", "-c", "write -P 7 1M 1M", image);
  const { run, must } = commandsIn(root);
  await must(`device add vda ${image} --allow-devices`);
  return { root, image, target, run, must };
}

loops.test(
  "changes, snapshots and mirrors wait for the commit, and an abort leaves no trace of them",
  async () => {
    const { root, image, target, must } = await makeBench();
    const [second, copy] = [attachLoop(`${root}/second`, SIZE_BYTES), attachLoop(`${root}/copy`, SIZE_BYTES)];
    for (const name of ["volume", "target", "second", "copy"])
      command("cp", `${root}/${name}`, `${root}/${name}.before`);
    const lines = [
      "internal-snapshot create vda x",
      "resize vda 1G",
      `snapshot vda ${target} --name one`,
      "bitmap add vda b0",
      "resize vda 2G",
      `snapshot vda ${second}`,
      `mirror vda ${copy}`,
    ];
    const runAll = async (): Promise<void> => {
      await must("txn begin");
      for (const line of lines) await must(line);
      for (const name of ["volume", "target", "second", "copy"])
        command("cmp", `${root}/${name}`, `${root}/${name}.before`);
    };
    await runAll();
    await must("txn abort");
    for (const name of ["volume", "target", "second", "copy"])
      command("cmp", `${root}/${name}`, `${root}/${name}.before`);
    await runAll();
    await must("txn commit");
    for (const one of [image, target, second, copy]) command("qemu-img", "check", "-q", one);
    command("qemu-io", "-c", "read -P 7 1M 1M", "-c", "read -P 0 1900M 1M", second);
    command("qemu-img", "compare", second, copy);
    await must("status --check");
    await must("snapshot-delete one");
    command("qemu-io", "-c", "read -P 7 1M 1M", second);
  },
);

loops.test(
  "a guest's write between two commands stays, and stops what rests on what it changed",
  async () => {
    const { root, image, run, must } = await makeBench();
    await must("txn begin");
    await must("resize vda 64G");
    // It has its cluster: no table changes.
    command("qemu-io", "-c", "write -P 8 1M 64k", image);
    await must("txn commit");
    command("qemu-io", "-c", "read -P 8 1M 64k", image);
    await must("txn begin");
    await must("internal-snapshot create vda x");
    command("qemu-io", "-c", "write -P 9 4M 64k", image);
    command("cp", image, `${root}/written`);
    const refused = await run("txn commit");
    expect([refused.status, refused.stderr]).toEqual([14, expect.stringContaining("txn abort")]);
    command("cmp", image, `${root}/written`);
    // Nothing comes on top of it, and the commit is refused again.
    expect((await run("bitmap add vda b0")).status).toBe(14);
    expect((await run("txn commit")).status).toBe(14);
    await must("txn abort");
    command("cmp", image, `${root}/written`);
    await must("internal-snapshot create vda x");
    command("qemu-img", "check", "-q", image);
  },
);

loops.test("what is merged from a volume is what the transaction has made of it", async () => {
  const { image, must } = await makeBench();
  // Where no search for overlays comes upon its file.
  const target = attachLoop(`${makeFolder("on a disk")}/target`, SIZE_BYTES);
  await must(`snapshot vda ${target}`);
  command("qemu-io", "-c", "write -P 8 1M 1M", target);
  await must("internal-snapshot create vda x");
  command("qemu-io", "-c", "write -P 9 1M 1M", target);
  await must("txn begin");
  for (const line of ["internal-snapshot apply vda x", "internal-snapshot delete vda x", "merge vda"])
    await must(line);
  await must("txn commit");
  command("qemu-io", "-c", "read -P 8 1M 1M", image);
});

loops.test("a volume that somebody takes into use before the commit stays as it is", async () => {
  const { root, image, target, run, must } = await makeBench();
  command("cp", image, `${root}/before`);
  await must("txn begin");
  await must(`snapshot vda ${target}`);
  command("mkfs.ext4", "-q", target);
  const refused = await run("txn commit");
  expect([refused.status, refused.stderr]).toEqual([14, expect.stringContaining(target)]);
  command("fsck.ext4", "-n", target);
  await must("txn abort");
  // Also where it is written over, and mounted by then.
  await must("txn begin");
  await must(`snapshot vda ${target} --overwrite`);
  command("mkdir", `${root}/mount`);
  command("mount", target, `${root}/mount`);
  try {
    const mounted = await run("txn commit");
    expect([mounted.status, mounted.stderr]).toEqual([14, expect.stringContaining("mounted")]);
  } finally {
    command("umount", `${root}/mount`);
  }
  await must("txn abort");
  command("fsck.ext4", "-n", target);
  command("cmp", image, `${root}/before`);
});

loops.test("a mirror on a volume is brought in sync with what is written until the commit", async () => {
  const { root, image, target, run, must } = await makeBench();
  await must(`mirror vda ${target}`);
  command("qemu-io", "-c", "write -P 9 4M 1M", image);
  await must("txn begin");
  await must("mirror vda");
  command("qemu-io", "-c", "write -P 8 5M 1M", image);
  await must("txn commit");
  command("qemu-img", "compare", image, target);
  await must("txn begin");
  await must("mirror vda");
  await must(`reopen vda ${target}`);
  command("qemu-io", "-c", "write -P 3 6M 1M", image);
  await must("txn commit");
  command("qemu-img", "compare", image, target);
  expect((await run("status --check")).status).toBe(0);
  command("qemu-io", "-c", "read -P 3 6M 1M", `${root}/devices/vda`);
});
