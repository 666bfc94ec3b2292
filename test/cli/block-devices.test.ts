// Devices of a workspace whose images lie on block devices, by the commands that an operator gives.

import { mkdirSync, readdirSync, symlinkSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished } from "vitest";
import { rmSync } from "node:fs";
import { type Commands, commandsIn } from "../helpers/cli/commands-in.ts";
import { attachLoop, detachLoop } from "../helpers/loop-device.ts";
import { command } from "../helpers/loop-disk.ts";
import { oracle } from "../helpers/oracles.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const loops = oracle("root", "loops", "qemu-img", "qemu-io");
const SIZE_BYTES = 8 * 2 ** 20;

interface Bench extends Commands {
  readonly root: string;
  readonly device: string;
}

/** A workspace, and a qcow2 image on a device with 7s in its second MiB. */
async function makeBench(): Promise<Bench> {
  const root = makeFolder("on a disk");
  const device = attachLoop(`${root}/volume`, SIZE_BYTES);
  command("qemu-img", "create", "-q", "-f", "qcow2", device, "16M");
  command("qemu-io", "-c", "write -P 7 1M 1M", device);
  const { run, must } = commandsIn(root);
  await must("init");
  return { root, device, run, must };
}

loops.test(
  "a device is added where that is allowed, and the workspace takes others from then on",
  async () => {
    const { root, device, run, must } = await makeBench();
    const other = attachLoop(`${root}/other`, SIZE_BYTES);
    const refused = await run(`device add vda ${device}`);
    expect(refused.status).toBe(14);
    expect(refused.stderr).toContain("--allow-devices");
    await must(`device add vda ${device} --allow-devices`);
    await must(`device add vdb ${other} --format raw`);
    const shown = JSON.parse((await must("device list --json")).stdout) as { devices: unknown[] };
    expect(shown.devices).toMatchObject([
      { name: "vda", image: device, format: "qcow2", "virtual-size": 16 * 2 ** 20, state: "ok" },
      { name: "vdb", image: other, format: "raw", "virtual-size": SIZE_BYTES, state: "ok" },
    ]);
    await must("status --check");
    await must("tree");
  },
);

loops.test(
  "a volume is kept by the name that it was given, and found by that after it was attached anew",
  async () => {
    const { root, device, run, must } = await makeBench();
    const group = `/dev/${path.basename(root)}`;
    mkdirSync(group);
    onTestFinished(() => {
      rmSync(group, { recursive: true });
    });
    symlinkSync(device, `${group}/disk`);
    await must(`device add vda ${group}/disk --allow-devices`);
    detachLoop(device);
    rmSync(`${group}/disk`);
    // Another volume has its number, and perhaps its name: that is another disk.
    const wrong = attachLoop(`${root}/wrong`, SIZE_BYTES);
    command("qemu-img", "create", "-q", "-f", "qcow2", wrong, "16M");
    symlinkSync(wrong, `${group}/disk`);
    const replaced = await run("snapshot vda a.qcow2");
    expect(replaced.status).not.toBe(0);
    expect(replaced.stderr).toContain("another device has that name");
    rmSync(`${group}/disk`);
    symlinkSync(attachLoop(`${root}/volume`), `${group}/disk`);
    expect((await must("snapshot vda a.qcow2")).stdout).toContain(`${group}/disk`);
  },
);

loops.test(
  "snapshots, undo, redo and a mirror in files leave the device as it is, byte for byte",
  async () => {
    const { root, device, run, must } = await makeBench();
    command("cp", device, `${root}/before`);
    await must(`device add vda ${device} --allow-devices`);
    const nowhere = await run("snapshot vda");
    expect(nowhere.status).toBe(14);
    expect(nowhere.stderr).toContain("imgtx snapshot vda FILE");
    await must("snapshot vda a.qcow2 --name one");
    command("qemu-io", "-c", "read -P 7 1M 1M", "-c", "write -P 8 1M 64k", `${root}/devices/vda`);
    expect((await run("undo")).status).toBe(14);
    await must("undo --force");
    await must("redo --force");
    await must("mirror vda full.qcow2");
    command("qemu-img", "compare", `${root}/full.qcow2`, `${root}/a.qcow2`);
    await must("snapshot-list");
    await must("gc");
    command("cmp", device, `${root}/before`);
  },
);

loops.test("what is not whole on devices is refused by name, and changes nothing", async () => {
  const { root, device, run, must } = await makeBench();
  await must(`device add vda ${device} --allow-devices`);
  const target = attachLoop(`${root}/target`, SIZE_BYTES);
  const old = attachLoop(`${root}/old`, SIZE_BYTES);
  command("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", old, "16M");
  await must(`device add vdb ${old}`);
  await must(`device add vdc ${attachLoop(`${root}/raw`, SIZE_BYTES)} --format raw`);
  command("cp", device, `${root}/before`);
  for (const line of [
    "internal-snapshot create vdb x",
    "resize vdc 4M --shrink",
    "resize vda 32M --preallocation metadata",
    `mirror vda ${target} --compress`,
    `mirror vda ${target} --format raw`,
    `mirror vda ${target} -o compat=0.10`,
    `migrate vda new.qcow2 --new-source ${device} --overwrite`,
    "snapshot vda /dev/overlay.qcow2",
    `img resize --allow-devices ${target} 4M`,
  ]) {
    const { status, stderr } = await run(line);
    expect([line, [1, 12, 13, 14].includes(status)]).toEqual([line, true]);
    if (!line.startsWith("img")) expect(stderr).toContain("No disk was changed");
  }
  command("cmp", device, `${root}/before`);
  command("cmp", target, `${root}/target`);
});

loops.test(
  "a layer on a device is no overlay of others where the device's file lies beside its image",
  async () => {
    const { root, device, must } = await makeBench();
    command("qemu-img", "create", "-q", "-f", "qcow2", `${root}/a.qcow2`, "16M");
    await must("device add vda a.qcow2");
    await must(`snapshot vda ${device} --overwrite --allow-devices`);
    command("qemu-io", "-c", "write -P 9 0 1M", device);
    await must("merge vda --rebase-siblings");
    command("qemu-io", "-c", "read -P 9 0 1M", `${root}/a.qcow2`);
  },
);

loops.test("an image on a device is changed in place, and merged into, as qemu-img checks it", async () => {
  const { root, device, run, must } = await makeBench();
  await must(`device add vda ${device} --allow-devices`);
  for (const line of [
    "resize vda 64G",
    "internal-snapshot create vda x",
    "resize vda 12M --shrink",
    "bitmap add vda b0",
    "amend vda -o lazy_refcounts=on",
    "freeze vda",
    "unfreeze vda",
    "bitmap remove vda b0",
    "internal-snapshot apply vda x",
    "internal-snapshot delete vda x",
    "resize vda 16M --shrink",
  ]) {
    await must(line);
    if (line === "freeze vda") expect((await run("status")).stdout).toContain("frozen");
    else command("qemu-img", "check", "-q", device);
  }
  expect(readdirSync(`${root}/.imgtx/journal`)).toEqual([]);
  command("qemu-io", "-c", "read -P 7 1M 1M", device);
  await must("snapshot vda a.qcow2");
  command("qemu-io", "-c", "write -P 8 1M 64k", "-c", "write -P 9 4M 2M", `${root}/a.qcow2`);
  command("qemu-img", "convert", "-O", "raw", `${root}/a.qcow2`, `${root}/content`);
  await must("merge vda");
  command("qemu-img", "compare", "-F", "raw", device, `${root}/content`);
  command("qemu-img", "check", "-q", device);
  // 10 MiB of data have no room in a volume of 8: refused before any of it is written.
  await must("snapshot vda b.qcow2");
  command("qemu-io", "-c", "write -P 3 6M 10M", `${root}/b.qcow2`);
  command("cp", device, `${root}/before`);
  const full = await run("merge vda");
  expect([full.status, full.stderr]).toEqual([13, expect.stringContaining("the volume has room for")]);
  command("cmp", device, `${root}/before`);
});

/** Volumes whose files no search for overlays comes upon. */
function attachTargets(sizes: readonly number[]): string[] {
  const folder = makeFolder("on a disk");
  return sizes.map((size, index) => attachLoop(`${folder}/${index}`, size));
}

loops.test(
  "a snapshot goes onto a volume that is empty, and over another one only where that is asked for",
  async () => {
    const { device, run, must } = await makeBench();
    await must(`device add vda ${device} --allow-devices`);
    const [empty = "", used = "", small = ""] = attachTargets([SIZE_BYTES, SIZE_BYTES, 128 * 1024]);
    command("mkfs.ext4", "-q", used);
    const refusals = [
      [`snapshot vda ${device}`, 14, "of the chain"],
      [`snapshot vda ${used}`, 14, "--overwrite"],
      [`snapshot vda ${small}`, 13, "make the volume larger"],
      [`snapshot vda ${empty} --reuse`, 15, "not in qcow2 format"],
    ] as const;
    for (const [line, status, words] of refusals) {
      expect([line, await run(line)]).toMatchObject([
        line,
        { status, stderr: expect.stringContaining(words) },
      ]);
    }
    command("fsck.ext4", "-n", used);
    await must(`snapshot vda ${empty} --name one`);
    command("qemu-io", "-c", "read -P 7 1M 1M", "-c", "write -P 8 1M 64k", empty);
    const planned = await must(`snapshot vda ${used} --overwrite --dry-run`);
    expect(planned.stdout).toContain("is written over, and nothing brings it back");
    command("fsck.ext4", "-n", used);
    await must(`snapshot vda ${used} --overwrite --bitmap b0`);
    command("qemu-io", "-c", "read -P 8 1M 64k", "-c", "write -P 9 2M 64k", used);
    command("qemu-img", "check", "-q", used);
    await must("status --check");
    expect((await must("snapshot-show one")).stdout).toContain("intact");
    await must("merge vda --keep");
    command("qemu-io", "-c", "read -P 8 1M 64k", "-c", "read -P 9 2M 64k", empty);
  },
);

loops.test("a volume gets a mirror that is brought in sync, and that the device goes over to", async () => {
  const { root, device, run, must } = await makeBench();
  await must(`device add vda ${device} --allow-devices`);
  const [empty = "", raw = "", small = ""] = attachTargets([SIZE_BYTES, 2 * SIZE_BYTES, 2 ** 20]);
  command("mkfs.ext4", "-q", raw);
  command("qemu-io", "-f", "raw", "-c", "write -P 5 8M 4M", raw);
  command("cp", raw, `${root}/before`);
  for (const [line, status, words] of [
    [`mirror vda ${device}`, 14, "of the chain"],
    [`mirror vda ${raw} --format raw`, 14, "--overwrite"],
    [`mirror vda ${small}`, 13, "the copy may need"],
  ] as const) {
    expect([line, await run(line)]).toMatchObject([line, { status, stderr: expect.stringContaining(words) }]);
  }
  command("cmp", raw, `${root}/before`);
  await must(`mirror vda ${empty} --verify --bitmap`);
  command("qemu-img", "compare", device, empty);
  command("qemu-img", "check", "-q", empty);
  command("qemu-io", "-c", "write -P 9 4M 1M", device);
  expect((await must("mirror vda --verify")).stdout).toContain("1 MiB copied");
  command("qemu-img", "compare", device, empty);
  const taken = await run(`snapshot vda ${empty} --overwrite`);
  expect([taken.status, taken.stderr]).toEqual([14, expect.stringContaining("it holds an image of 'vda'")]);
  await must("mirror vda --cancel");
  // All of it is written, also where the disk is zeros.
  const planned = await must(`mirror vda ${raw} --format raw --overwrite --dry-run`);
  expect(planned.stdout).toContain("is written over, and nothing brings it back");
  command("cmp", raw, `${root}/before`);
  await must(`mirror vda ${raw} --format raw --overwrite`);
  command("qemu-img", "compare", "-F", "raw", device, raw);
  command("qemu-io", "-c", "write -P 3 6M 1M", device);
  await must(`reopen vda ${raw}`);
  command("qemu-img", "compare", "-F", "raw", device, raw);
  await must("undo --force");
  await must("snapshot vda a.qcow2");
  command("qemu-io", "-c", "write -P 4 7M 64k", `${root}/a.qcow2`);
  await must(`mirror vda ${empty} --sync top --overwrite`);
  command("qemu-img", "compare", `${root}/a.qcow2`, empty);
  const top = JSON.parse((await must(`img info --allow-devices -U --output json ${empty}`)).stdout) as object;
  expect(top).toMatchObject({ "backing-filename": device });
  await must(`reopen vda ${empty}`);
  await must("status --check");
});

loops.test("a chain in files migrates onto volumes, and back", async () => {
  const { root, run, must } = await makeBench();
  const group = `/dev/${path.basename(root)}`;
  mkdirSync(group);
  onTestFinished(() => {
    rmSync(group, { recursive: true });
  });
  const names = ["disk.qcow2", "top", "next"];
  for (const [index, node] of attachTargets([SIZE_BYTES, SIZE_BYTES, SIZE_BYTES]).entries())
    symlinkSync(node, `${group}/${names[index] ?? ""}`);
  for (const folder of ["old", "new"]) mkdirSync(`${root}/${folder}`);
  command("qemu-img", "create", "-q", "-f", "qcow2", `${root}/old/disk.qcow2`, "16M");
  command("qemu-io", "-c", "write -P 7 1M 1M", `${root}/old/disk.qcow2`);
  await must("device add vda old/disk.qcow2");
  await must(`migrate vda ${group}/top --new-source old/top.qcow2 --allow-devices`);
  command("qemu-io", "-c", "write -P 9 3M 1M", `${root}/old/top.qcow2`);
  await must("mirror vda");
  command("qemu-io", "-c", "write -P 5 4M 1M", `${root}/old/top.qcow2`);
  await must(`reopen vda ${group}/top`);
  command("qemu-img", "compare", `${root}/old/top.qcow2`, `${root}/devices/vda`);
  const used = await run(`migrate vda new/disk.qcow2 --new-source ${group}/top --overwrite`);
  expect([used.status, used.stderr]).toEqual([14, expect.stringContaining("of the chain")]);
  await must(`migrate vda new/next.qcow2 --new-source ${group}/next`);
  command("qemu-io", "-c", "write -P 4 6M 1M", `${group}/next`);
  await must("mirror vda");
  await must("reopen vda new/next.qcow2");
  command("qemu-img", "compare", `${group}/next`, `${root}/devices/vda`);
  await must("status --check");
});

loops.test("an overlay on a volume that goes leaves the volume, with nothing on it", async () => {
  const { root, device, must } = await makeBench();
  await must(`device add vda ${device} --allow-devices`);
  const [first = "", second = "", third = ""] = attachTargets([SIZE_BYTES, SIZE_BYTES, SIZE_BYTES]);
  await must(`snapshot vda ${first} --name one`);
  command("qemu-io", "-c", "write -P 8 2M 1M", first);
  await must(`snapshot vda ${second} --name two`);
  command("qemu-io", "-c", "write -P 9 3M 1M", second);
  command("qemu-img", "convert", "-O", "raw", second, `${root}/content`);
  // Of the snapshots each goes by itself, and so does its volume, which may be taken again.
  expect((await must("snapshot-delete one")).stdout).toContain("its head is cleared");
  command("qemu-img", "compare", "-F", "raw", second, `${root}/content`);
  await must(`snapshot vda ${first} --name three`);
  command("qemu-img", "check", "-q", first);
  await must("snapshot-delete two three");
  command("qemu-img", "compare", "-F", "raw", `${root}/devices/vda`, `${root}/content`);
  command("cmp", "-n", String(2 ** 20), first, "/dev/zero");
  command("cmp", "-n", String(2 ** 20), second, "/dev/zero");
  await must("status --check");
  await must(`snapshot vda ${third}`);
  await must("merge vda --keep");
  command("qemu-img", "check", "-q", third);
});

loops.test("a volume that a snapshot keeps is not written over, by whatever name it is given", async () => {
  const { root, device, must, run } = await makeBench();
  const [target = ""] = attachTargets([SIZE_BYTES]);
  const group = `/dev/${path.basename(root)}`;
  mkdirSync(group);
  onTestFinished(() => {
    rmSync(group, { recursive: true });
  });
  symlinkSync(device, `${group}/alias`);
  command("qemu-img", "create", "-q", "-f", "qcow2", `${root}/other.qcow2`, "16M");
  await must(`device add vda ${device} --allow-devices`);
  await must(`device add vdb ${target} --format raw`);
  await must("snapshot vda a.qcow2");
  await must("reopen vda other.qcow2");
  // No device has it in its chain any more: the snapshot alone.
  const refused = await run(`snapshot vdb ${group}/alias --overwrite`);
  expect([refused.status, refused.stderr]).toEqual([14, expect.stringContaining("snapshot 1 keeps it")]);
  command("qemu-io", "-c", "read -P 7 1M 1M", `${root}/a.qcow2`);
});

loops.test(
  "status tells how far the image in a volume has come, and that a full one is a problem",
  async () => {
    const { root, device, run, must } = await makeBench();
    const other = attachLoop(`${root}/other`, SIZE_BYTES);
    await must(`device add vda ${device} --allow-devices`);
    await must(`device add vdb ${other} --format raw`);
    const spaces = async (status: number): Promise<unknown> => {
      const result = await run("status --json --check");
      expect(result.status).toBe(status);
      return (JSON.parse(result.stdout) as { space: unknown }).space;
    };
    const end = async (): Promise<unknown> => {
      const { stdout } = await must(`img check --output=json --allow-devices ${device}`);
      return (JSON.parse(stdout) as { "image-end-offset": number })["image-end-offset"];
    };
    const taken = Number(await end());
    const space = { folder: device, free: SIZE_BYTES - taken, total: SIZE_BYTES, allocated: taken };
    expect(await spaces(0)).toEqual([space]);
    command("qemu-io", "-c", "write 2M 6592k", device);
    expect(await spaces(1)).toMatchObject([{ folder: device, allocated: await end() }]);
    expect((await run("status")).stdout).toMatch(/problem: .*loop\d+: .* free of 8 MiB/);
    const doctor = async (words: string): Promise<unknown> => {
      const result = await run(`doctor --json --level warning ${words}`.trim());
      const { findings } = JSON.parse(result.stdout) as { findings: { code: string; path: string }[] };
      return [result.status, findings.map(({ code, path: at }) => `${code} ${at}`)];
    };
    expect(await doctor("")).toEqual([1, [`space-low ${device}`]]);
    expect(await doctor(device)).toEqual([1, [`space-low ${device}`]]);
    // What a link in a folder leads to is not opened.
    symlinkSync(device, `${root}/link`);
    expect(await doctor(".")).toEqual([0, []]);
    await must("report disks.html");
  },
);

loops.test(
  "a device that takes no writes is a base of others, and refused before anything is changed",
  async () => {
    const { root, device, run, must } = await makeBench();
    const [target = ""] = attachTargets([SIZE_BYTES]);
    // The number keeps that when another file is attached to it.
    onTestFinished(() => {
      command("blockdev", "--setrw", device, target);
    });
    command("blockdev", "--setro", device, target);
    await must(`device add vda ${device} --allow-devices`);
    for (const line of ["resize vda 32M", `snapshot vda ${target}`, `mirror vda ${target}`]) {
      const refused = await run(line);
      expect([line, refused.status, refused.stderr]).toEqual([line, 14, expect.stringContaining("setrw")]);
    }
    const made = await run(`img create --allow-devices -f qcow2 ${target} 1M`);
    expect([made.status, made.stderr]).toEqual([1, expect.stringContaining("the block device is read-only")]);
    await must("snapshot vda a.qcow2 --name one");
    command("qemu-io", "-c", "read -P 7 1M 1M", "-c", "write -P 8 1M 64k", `${root}/devices/vda`);
    expect((await run("merge vda")).status).toBe(14);
    await must("mirror vda m.qcow2");
    await must("status --check");
  },
);
