// What real file systems tell of files, and what they don't: two of them with the same inode numbers, times that a
// power cut took back, whole seconds, no birth times.

import { execFileSync } from "node:child_process";
import { copyFileSync, linkSync, mkdirSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { command, type FileSystemName, LoopDisk } from "../../helpers/loop-disk.ts";
import { oracle } from "../../helpers/oracles.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { IDENTICAL, judge, mirror, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const loops = oracle("root", "loops", "qemu-img", "qemu-io");

/** Of one history: new files get the same inode numbers on both. */
function makeTwins(bench: Workbench, kind: FileSystemName): [string, string] {
  const disks = ["one", "two"].map((name) => LoopDisk.make(bench.root, name, kind).mountPoint);
  return [disks[0] ?? "", disks[1] ?? ""];
}

async function snapshotBoth(bench: Workbench, folders: readonly [string, string]): Promise<void> {
  for (const [index, folder] of folders.entries()) {
    bench.makeQcow2(`${folder}/a.qcow2`, index + 1);
  }
  await bench.add("vda", `${folders[0]}/a.qcow2`);
  await bench.add("vdb", `${folders[1]}/a.qcow2`);
  const content = await bench.content();
  for (const round of [1, 2, 3]) {
    await bench.snapshot({ vda: `${folders[0]}/a${round}.qcow2`, vdb: `${folders[1]}/a${round}.qcow2` });
  }
  expect(await bench.content()).toEqual(content);
}

describe("files on two file systems are two, whatever their inode numbers", () => {
  loops.test.each(["ext4", "ext4 with small inodes", "xfs", "btrfs"] as const)("on %s", async (kind) => {
    const bench = new Workbench(makeFolder());
    await snapshotBoth(bench, makeTwins(bench, kind));
  });

  loops.test("in subvolumes of one Btrfs, which count their inodes alike", async () => {
    const bench = new Workbench(makeFolder());
    const { mountPoint } = LoopDisk.make(bench.root, "one", "btrfs");
    const folders = [`${mountPoint}/a`, `${mountPoint}/b`] as const;
    for (const folder of folders) command("btrfs", "-q", "subvolume", "create", folder);
    await snapshotBoth(bench, folders);
  });

  loops.test.each([
    ["ext4", "loop"],
    ["xfs", "loop,nouuid"],
  ] as const)(
    "on %s and a copy of it, which has its UUID, its inodes and its birth times",
    async (kind, options) => {
      const bench = new Workbench(makeFolder());
      const disk = LoopDisk.make(bench.root, "one", kind);
      bench.makeQcow2(`${disk.mountPoint}/a.qcow2`, 1);
      const copy = disk.copyTo(bench.root, "copy", options);
      const names = ["a.qcow2", "a1.qcow2"].map((name) => [
        `${disk.mountPoint}/${name}`,
        `${copy.mountPoint}/${name}`,
      ]);
      await bench.add("vda", names[0]?.[0] ?? "");
      await bench.add("vdb", names[0]?.[1] ?? "");
      await bench.snapshot({ vda: names[1]?.[0] ?? "", vdb: names[1]?.[1] ?? "" });
      expect(Object.keys(await bench.images())).toEqual(["vda", "vdb"]);
    },
  );
});

describe("one file by two names is one", () => {
  loops.test.each(["ext4", "ext4 with small inodes", "xfs", "btrfs"] as const)("on %s", async (kind) => {
    const bench = new Workbench(makeFolder());
    const { mountPoint } = LoopDisk.make(bench.root, "one", kind);
    const base = bench.makeRaw(`${mountPoint}/b.raw`, 1);
    bench.makeRaw(`${mountPoint}/a.raw`, 2);
    await bench.add("vdb", base, "raw");
    await bench.snapshot({ vdb: `${mountPoint}/b1.qcow2` });
    await bench.add("vda", `${mountPoint}/a.raw`, "raw");
    const other = `${mountPoint}/backup.raw`;
    linkSync(base, other);
    const bound = bench.at("bound");
    mkdirSync(bound);
    command("mount", "--bind", mountPoint, bound);
    try {
      for (const name of [other, `${bound}/b.raw`]) {
        const failure = await failureOf(
          async () => await mirror(bench, { vda: name }, { reuse: true, format: "raw" }),
        );
        expect(failure, name).toMatchObject({ code: "E_IN_USE" });
      }
      const added = await failureOf(async () => await bench.add("vdc", `${bound}/a.raw`, "raw"));
      expect(added.code).toBe("E_IN_USE");
    } finally {
      command("umount", bound);
    }
  });
});

/** Durable, without its times: QEMU's flush is fdatasync. */
function writeDurably(image: string, format: string): void {
  execFileSync("qemu-io", ["-f", format, "-t", "none", "-c", "write -q -P 170 1M 64k", "-c", "flush", image]);
}

describe("what a guest flushed before a power cut", () => {
  const cases = (["ext4", "xfs", "btrfs"] as const).flatMap((kind) =>
    (["raw", "qcow2"] as const).map((format) => [kind, format] as const),
  );
  loops.test.each(cases)(
    "on %s in a %s image is in its mirror, and in the device that goes over to it",
    async (kind, format) => {
      const bench = new Workbench(makeFolder());
      const disk = LoopDisk.make(bench.root, "one", kind);
      const inside = new Workbench(disk.mountPoint);
      const image = inside.at("a.img");
      command("qemu-img", "create", "-q", "-f", format, "-o", "preallocation=full", image, "4M");
      writeGuest(image, format, "write -q -P 17 0 4M");
      await inside.add("vda", "a.img", format);
      await mirror(inside, { vda: "m.img" });
      await mirror(inside, { vda: undefined });
      command("sync", "-f", disk.mountPoint);
      const before = statSync(image, { bigint: true });
      writeDurably(image, format);
      if (kind === "btrfs") disk.remount();
      else disk.cutPower();
      const after = statSync(image, { bigint: true });
      // The case that this is about: nothing of the inode tells of the write.
      if (kind === "ext4" && format === "raw")
        expect([after.mtimeNs, after.ctimeNs]).toEqual([before.mtimeNs, before.ctimeNs]);
      await mirror(inside, { vda: undefined });
      expect(await judge(inside, "vda")).toBe(IDENTICAL);
      const { actions } = await inside.reopen("vda", "m.img");
      expect(actions[0]?.after).toBe(inside.at("m.img"));
      execFileSync("qemu-io", ["-f", format, "-r", "-c", "read -q -P 170 1M 64k", inside.at("m.img")]);
    },
  );

  loops.test.each(["ext4", "xfs"] as const)(
    "on %s to an image that it had left keeps a rollback from it",
    async (kind) => {
      const bench = new Workbench(makeFolder());
      const disk = LoopDisk.make(bench.root, "one", kind);
      const inside = new Workbench(disk.mountPoint);
      for (const name of ["a.raw", "b.raw"]) {
        command("qemu-img", "create", "-q", "-f", "raw", inside.at(name), "4M");
        writeGuest(inside.at(name), "raw", "write -q -P 17 0 4M");
      }
      await inside.add("vda", "a.raw", "raw");
      await inside.run({
        kind: "reopen",
        device: "vda",
        file: inside.at("b.raw"),
        format: "raw",
        force: false,
      });
      command("sync", "-f", disk.mountPoint);
      writeDurably(inside.at("a.raw"), "raw");
      disk.cutPower();
      const failure = await failureOf(async () => await inside.undo(1));
      expect(failure.changed).toBe(false);
      expect(failure.message).toContain("a.raw");
      expect(await inside.images()).toEqual({ vda: "b.raw" });
    },
  );
});

describe("a write that the time of modification does not tell of", () => {
  loops.test("within the second of the mirror, where there are whole seconds, is in the mirror", async () => {
    const bench = new Workbench(makeFolder());
    const { mountPoint } = LoopDisk.make(bench.root, "one", "ext4 with small inodes");
    const inside = new Workbench(mountPoint);
    inside.makeRaw("a.raw", 1);
    await inside.add("vda", "a.raw", "raw");
    for (const round of [1, 2, 3, 4]) {
      writeGuest(inside.at("a.raw"), "raw", `write -q -P ${round} 0 64k`);
      await mirror(inside, { vda: `m${round}.raw` });
      writeGuest(inside.at("a.raw"), "raw", `write -q -P ${100 + round} 0 64k`);
      await mirror(inside, { vda: undefined });
      expect(await judge(inside, "vda")).toBe(IDENTICAL);
      await inside.run({ kind: "mirror-cancel", devices: ["vda"] });
    }
  });

  test.each(["raw", "qcow2"] as const)(
    "since it was put back, is in the mirror of a %s image",
    async (format) => {
      const bench = new Workbench(makeFolder());
      const make = (name: string, seed: number) =>
        format === "raw" ? bench.makeRaw(name, seed) : bench.makeQcow2(name, seed);
      const image = make("a.img", 1);
      await bench.add("vda", "a.img", format);
      await mirror(bench, { vda: "m.img" });
      const { atime, mtime } = statSync(image);
      writeFileSync(image, new Uint8Array(statSync(make("other.img", 1)).size));
      copyFileSync(make("other.img", 2), image);
      utimesSync(image, atime, mtime);
      await mirror(bench, { vda: undefined });
      expect(await judge(bench, "vda")).toBe(IDENTICAL);
    },
  );
});
