// Volumes that a command makes for a device: the provisioner of loop devices as imgtx-block-devices(7) has it.

import { execFileSync, spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { type Commands, commandsIn } from "../helpers/cli/commands-in.ts";
import { runCli } from "../helpers/cli/harness.ts";
import { attachLoop } from "../helpers/loop-device.ts";
import { command } from "../helpers/loop-disk.ts";
import { exampleOf } from "../helpers/man-examples.ts";
import { oracle } from "../helpers/oracles.ts";
import { PROGRAM, wordsToStart } from "../helpers/program.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const loops = oracle("root", "loops", "qemu-img", "qemu-io");
const SIZE_BYTES = 8 * 2 ** 20;

interface Bench extends Commands {
  readonly root: string;
  /** Where the nodes of the volumes are. */
  readonly group: string;
  readonly volumes: string;
  readonly provisioner: string;
}

/** A workspace with a qcow2 image on a volume, that has 7s in its second MiB. */
async function makeBench(): Promise<Bench> {
  const root = makeFolder("on a disk");
  const volumes = makeFolder("on a disk");
  const group = `/dev/${path.basename(root)}`;
  mkdirSync(group);
  onTestFinished(() => {
    for (const name of readdirSync(volumes)) detach(`${volumes}/${name}`);
    rmSync(group, { recursive: true });
  });
  symlinkSync(attachLoop(`${root}/volume`, SIZE_BYTES), `${group}/disk`);
  command("qemu-img", "create", "-q", "-f", "qcow2", `${group}/disk`, "16M");
  command("qemu-io", "-c", "write -P 7 1M 1M", `${group}/disk`);
  const provisioner = `${root}/imgtx-loops`;
  writeScript(provisioner, exampleOf("imgtx-block-devices.7", "Loop devices"));
  const { run, must } = commandsIn(root);
  await must(
    "device",
    "add",
    "vda",
    `${group}/disk`,
    "--allow-devices",
    "--provision",
    `${provisioner} ${volumes}`,
  );
  return { root, group, volumes, provisioner, run, must };
}

function detach(file: string): void {
  command("sh", "-c", 'losetup -nO NAME -j "$0" | xargs -r losetup -d', file);
}

function tell(program: string, ...words: string[]): string {
  return execFileSync(program, words, { encoding: "utf8" });
}

function writeScript(file: string, text: string): void {
  writeFileSync(file, text);
  chmodSync(file, 0o755);
}

/** Calls the provisioner of the page, and does something else then, or before. */
function wrap({ root, provisioner }: Bench, name: string, { before = "", after = "" }): string {
  const file = `${root}/${name}`;
  writeScript(file, `#!/bin/sh\nset -eu\n${before}\n${provisioner} "$@"\n${after}\n`);
  return file;
}

loops.test(
  "snapshots get volumes that are made for them, of the size of a full image or as asked",
  async () => {
    const { root, group, volumes, must } = await makeBench();
    expect((await must("snapshot", "vda", "--name", "one", "--dry-run")).stdout).toContain(
      "would be made by",
    );
    expect(readdirSync(volumes)).toEqual([]);
    await must("snapshot", "vda", "--name", "one");
    const measure = ["measure", "--output=json", "-O", "qcow2", "--size", "16M"];
    const measured = JSON.parse(tell("qemu-img", ...measure)) as { "fully-allocated": number };
    const sizeOf = (name: string): number => Number(tell("blockdev", "--getsize64", `${group}/${name}`));
    expect(sizeOf("disk-after-one")).toBeGreaterThanOrEqual(measured["fully-allocated"]);
    await must("snapshot", "vda", `${group}/two`, "--size", "3M");
    expect(sizeOf("two")).toBe(3 * 2 ** 20);
    command("qemu-io", "-c", "read -P 7 1M 1M", "-c", "write -P 8 1M 64k", `${root}/devices/vda`);
    const shown = JSON.parse((await must("device", "show", "vda", "--json")).stdout) as { device: object };
    expect(shown.device).toMatchObject({
      image: `${group}/two`,
      provision: [`${root}/imgtx-loops`, volumes],
      state: "ok",
    });
    await must("device", "provision", "vda", "--none");
    expect((await must("device", "show", "vda", "--json")).stdout).not.toContain("provision");
  },
);

loops.test("a rollback gets a volume, or goes onto one that is named", async () => {
  const { root, group, volumes, run, must } = await makeBench();
  const content = (value: number): void => {
    command("qemu-io", "-c", `read -P ${value} 1M 1M`, `${root}/devices/vda`);
  };
  await must("snapshot", "vda", "--name", "one", "--size", "2M");
  command("qemu-io", "-c", "write -P 8 1M 1M", `${root}/devices/vda`);
  expect((await must("rollback", "vda", "--to", "one", "--dry-run")).stdout).toContain("would be made by");
  expect(readdirSync(volumes)).toEqual(["disk-after-one", "disk-after-one.tag"]);
  const refused = await run("rollback", "vda", "--to", "one", "--size", "128k");
  expect(refused.status).toBe(13);
  expect(readdirSync(volumes)).toEqual(["disk-after-one", "disk-after-one.tag"]);
  await must("rollback", "vda", "--to", "one", "--size", "3M");
  expect(tell("blockdev", "--getsize64", `${group}/disk-after-one-2`).trim()).toBe(String(3 * 2 ** 20));
  content(7);
  await must("device", "provision", "vda", "--none");
  const nowhere = await run("rollback", "vda", "--to", "2");
  expect([nowhere.status, nowhere.stderr]).toEqual([
    14,
    expect.stringContaining("`imgtx rollback vda=FILE --to 2`"),
  ]);
  const named = attachLoop(`${root}/named`, SIZE_BYTES);
  command("mkfs.ext4", "-q", named);
  const used = await run("rollback", `vda=${named}`, "--to", "2");
  expect([used.status, used.stderr]).toEqual([14, expect.stringContaining("--overwrite")]);
  await must("rollback", `vda=${named}`, "--to", "2", "--overwrite");
  content(8);
  await must("rollback", "vda=back.qcow2", "--to", "one");
  content(7);
  await must("status", "--check");
});

loops.test(
  "a volume goes again where its snapshot is refused, and stays where it is not the transaction's",
  async () => {
    const bench = await makeBench();
    const { group, volumes, run, must } = bench;
    const refused = await run("snapshot", "vda", "--name", "one", "--size", "128k");
    expect(refused).toMatchObject({ status: 13 });
    expect(readdirSync(volumes)).toEqual([]);
    // Somebody else's volume has come to be there, which the provisioner knows by the tag.
    writeFileSync(`${volumes}/two.tag`, "mine\n");
    writeFileSync(`${volumes}/two`, new Uint8Array(2 ** 20));
    const others = await run("snapshot", "vda", `${group}/two`);
    expect(others).toMatchObject({ status: 1 });
    expect(others.stderr).toContain("the provisioner could not remove the volume: it ended with 1");
    expect(existsSync(`${volumes}/two`)).toBe(true);
    detach(`${volumes}/two`);
    rmSync(`${volumes}/two`);
    await must("recover");
    // What it says is told; and one that makes nothing is found out.
    const fails = wrap(bench, "fails", {
      before: 'if [ "$2" = create ]; then echo no space in vg >&2; exit 5; fi',
    });
    await must("device", "provision", "vda", `${fails} ${volumes}`);
    const told = await run("snapshot", "vda");
    expect(told.status).toBe(1);
    expect(told.stderr).toContain("could not create the volume: it ended with 5; it said: no space in vg");
    writeScript(fails, "#!/bin/sh\n");
    expect((await run("snapshot", "vda")).stderr).toContain("there is no block device of that name");
    await must("status", "--check");
  },
);

loops.test("a volume without room for a command is extended, and the command runs anew", async () => {
  const { root, group, must, run } = await makeBench();
  await must("snapshot", "vda", `${group}/small`, "--size", "2M");
  await must("snapshot", "vda", `${group}/top`);
  command("qemu-io", "-c", "write -P 9 2M 4M", `${root}/devices/vda`);
  // Where it can't be, the command is told why, and has changed nothing.
  writeScript(`${root}/imgtx-loops`, "#!/bin/sh\necho no extents left; exit 5\n");
  const full = await run("merge", "vda", "--keep");
  expect(full).toMatchObject({ status: 1 });
  expect(full.stderr).toContain("could not extend the volume: it ended with 5; it said: no extents left");
  writeScript(`${root}/imgtx-loops`, exampleOf("imgtx-block-devices.7", "Loop devices"));
  await must("merge", "vda", "--keep");
  expect(Number(tell("blockdev", "--getsize64", `${group}/small`))).toBeGreaterThan(6 * 2 ** 20);
  command("qemu-io", "-c", "read -P 9 2M 4M", "-c", "read -P 7 1M 1M", `${root}/devices/vda`);
});

loops.test(
  "in a transaction of several commands a volume is extended for each of them, and for the commit",
  async () => {
    const bench = await makeBench();
    const { root, group, volumes, must, run } = bench;
    // What a volume gets has in it what its last user left.
    const dirty = wrap(bench, "dirty", {
      before: `[ "$2" != extend ] || { f=${volumes}/\${3##*/}; head -c $(($4 - $(stat -c %s $f))) /dev/urandom >> $f; }`,
    });
    await must("device", "provision", "vda", `${dirty} ${volumes}`);
    const sizeOf = (name: string): number => Number(tell("blockdev", "--getsize64", `${group}/${name}`));
    const bitmaps = (image: string): string[] => {
      const { "format-specific": specific } = JSON.parse(
        tell("qemu-img", "info", "--output=json", image),
      ) as {
        "format-specific": { data: { bitmaps?: { name: string }[] } };
      };
      return (specific.data.bitmaps ?? []).map(({ name }) => name);
    };
    await must("snapshot", "vda", `${group}/small`, "--size", "832K");
    command("qemu-io", "-c", "write -P 8 8M 512k", `${root}/devices/vda`);
    await must("snapshot", "vda", `${group}/top`, "--size", "20M");
    command("qemu-io", "-c", "write -P 9 2M 4M", `${root}/devices/vda`);
    await must("txn", "begin", "--on-error", "abort");
    await must("merge", "vda", "--keep");
    const extended = await must("bitmap", "add", "vda", "b0");
    expect(extended.stderr).toContain(
      `${group}/small was made larger, from 851968 to 16777216 bytes, and stays so`,
    );
    await must("bitmap", "add", "vda", "b1");
    // As somebody else may, who has not heard of the transaction.
    command("truncate", "-s", "18M", `${volumes}/small`);
    command("losetup", "-c", tell("readlink", `${group}/small`).trim());
    await must("txn", "commit");
    expect(bitmaps(`${group}/small`)).toEqual(["b0", "b1"]);
    command("qemu-img", "check", "-q", `${group}/small`);
    const reads = ["read -P 9 2M 4M", "read -P 7 1M 1M", "read -P 8 8M 512k", "read -P 0 9M 7M"];
    command("qemu-io", ...reads.flatMap((one) => ["-c", one]), `${root}/devices/vda`);
    // Room that the commit finds lacking; one that goes again, with what a command has planned for it.
    await must("snapshot", "vda", `${group}/two`, "--size", "832K");
    await must("snapshot", "vda", `${group}/three`, "--size", "20M");
    command("qemu-io", "-c", "write -P 10 3M 4M", `${root}/devices/vda`);
    await must("txn", "begin");
    await must("merge", "vda", "--keep");
    expect((await must("txn", "commit")).stderr).toContain(`${group}/two was made larger`);
    command("qemu-io", "-c", "read -P 10 3M 4M", "-c", "read -P 8 8M 512k", `${root}/devices/vda`);
    await must("txn", "begin");
    const present = sizeOf("two");
    command("truncate", "-s", String(present + 2 ** 20), `${volumes}/two`);
    command("losetup", "-c", tell("readlink", `${group}/two`).trim());
    await must("bitmap", "add", "vda", "b2");
    command("truncate", "-s", String(present), `${volumes}/two`);
    command("losetup", "-c", tell("readlink", `${group}/two`).trim());
    for (const words of [
      ["bitmap", "add", "vda", "b3"],
      ["txn", "commit"],
    ])
      expect((await run(...words)).stderr).toContain("the image has changed since the transaction began");
    await must("txn", "abort");
    await must("status", "--check");
  },
);

loops.test(
  "a snapshot that was killed while its volume was made is undone when the command has ended",
  async () => {
    const bench = await makeBench();
    const { root, group, volumes, run, must } = bench;
    const pipe = `${root}/pipe`;
    command("mkfifo", pipe);
    const kills = wrap(bench, "kills", { after: `[ "$2" != create ] || { kill -9 $PPID; cat ${pipe}; }` });
    await must("device", "provision", "vda", `${kills} ${volumes}`);
    const [node, ...words] = wordsToStart(PROGRAM);
    const killed = spawnSync(node, [...words, "snapshot", "vda", `${group}/two`], { cwd: root });
    expect(killed.signal).toBe("SIGKILL");
    // The command is still at work, and so nobody takes anything away below it.
    await must("recover");
    expect(readdirSync(volumes)).toEqual(["two", "two.tag"]);
    const meanwhile = await run("snapshot", "vda", `${root}/a.qcow2`);
    expect(meanwhile.status).toBe(10);
    writeFileSync(pipe, "");
    while (readdirSync(volumes).length > 0) await must("recover");
    // Again, and somebody begins to use the volume before recovery comes: it stays, with what is on it.
    writeScript(kills, `#!/bin/sh\n${bench.provisioner} "$@"\n[ "$2" != create ] || kill -9 $PPID\n`);
    spawnSync(node, [...words, "snapshot", "vda", `${group}/two`], { cwd: root });
    command("qemu-img", "create", "-q", "-f", "qcow2", `${group}/two`, "4M");
    let said = "";
    while (!said.includes("left")) said += (await must("recover")).stderr;
    expect(said).toContain(`left '${group}/two' as it is: something is on it`);
    expect(existsSync(`${volumes}/two`)).toBe(true);
  },
);

loops.test("volumes go with the layers on them, by the tag that they were made with", async () => {
  const bench = await makeBench();
  const { root, volumes, must } = bench;
  // As lvremove does, it refuses what anybody has open: this process too.
  const busy =
    'if [ "$2" = remove ] && ls -l /proc/[0-9]*/fd | grep -q "$(readlink -f "$3")$"; then exit 9; fi';
  const strict = wrap(bench, "strict", { before: busy });
  await must("device", "provision", "vda", `${strict} ${volumes}`);
  const layer = async (name: string, value: number): Promise<void> => {
    await must("snapshot", "vda", "--name", name, "--size", "3M");
    command("qemu-io", "-c", `write -P ${value} 2M 64k`, `${root}/devices/vda`);
  };
  const left = (): string[] => readdirSync(volumes).filter((name) => !name.endsWith(".tag"));
  await layer("one", 1);
  await layer("two", 2);
  await layer("three", 3);
  await layer("four", 4);
  expect((await must("snapshot-delete", "two", "--dry-run")).stdout).toContain("taken away by");
  await must("snapshot-delete", "two");
  expect(left()).toEqual(["disk-after-four", "disk-after-one", "disk-after-three"]);
  expect((await must("merge", "vda")).stdout).toContain("taken away by");
  expect(left()).toEqual(["disk-after-one", "disk-after-three"]);
  command("qemu-io", "-c", "read -P 4 2M 64k", "-c", "read -P 7 1M 1M", `${root}/devices/vda`);
  // What something was merged into is still what imgtx has made.
  await must("rollback", "vda", "--to", "one", "--discard", "--size", "3M");
  expect(left()).not.toContain("disk-after-three");
  await must("snapshot", "vda", "--name", "five", "--size", "3M");
  await must("rollback", "vda", "--to", "five", "--discard", "--size", "3M");
  expect(left()).not.toContain("disk-after-five");
  // Another volume has come to have the name, or there is no way to it: it stays, holds nothing, and is named.
  await layer("six", 6);
  writeFileSync(`${volumes}/disk-after-six.tag`, "mine\n");
  const named = await must("merge", "vda");
  expect(named.stderr).toMatch(/left '.*disk-after-six' as it is: the provisioner could not remove/);
  expect(left()).toContain("disk-after-six");
  command("qemu-io", "-c", "read -P 6 2M 64k", `${root}/devices/vda`);
  await must("status", "--check");
});

loops.test("gc has volumes taken away that nothing needs any more", async () => {
  const { root, volumes, run, must } = await makeBench();
  const left = (): string[] => readdirSync(volumes).filter((name) => !name.endsWith(".tag"));
  await must("snapshot", "vda", "--name", "x", "--size", "3M");
  await must("undo", "--force");
  await must("snapshot", "vda", "--name", "y", "--size", "3M");
  expect((await must("gc")).stdout).toContain("disk-after-x (volume, 3 MiB)");
  expect(left()).toEqual(["disk-after-x", "disk-after-y"]);
  await must("gc", "--yes");
  expect(left()).toEqual(["disk-after-y"]);
  await must("snapshot", "vda", "--name", "z", "--size", "3M");
  command("qemu-io", "-c", "write -P 8 2M 64k", `${root}/devices/vda`);
  await must("undo", "--force");
  await must("snapshot", "vda", "--name", "w", "--size", "3M");
  const written = await run("gc", "--yes");
  expect([written.status, written.stdout]).toEqual([
    1,
    expect.stringMatching(/stays: .*disk-after-z: it is not as/),
  ]);
  expect(left()).toContain("disk-after-z");
  // Of a volume and an overlay on another that stands on it, which nothing needs either, both go at once, or neither.
  const leave = async (one: string, other: string, write?: string): Promise<void> => {
    for (const name of [one, other]) await must("snapshot", "vda", "--name", name, "--size", "3M");
    if (write !== undefined) command("qemu-io", "-c", write, `${root}/devices/vda`);
    for (const _ of [one, other]) await must("undo", "--force");
    await must("snapshot", "vda", "--name", `past${one}`, "--size", "3M");
  };
  await leave("a", "b");
  await run("gc", "--yes");
  expect(left().filter((name) => /-[ab]$/.test(name))).toEqual([]);
  await leave("c", "d", "write -P 8 2M 64k");
  expect((await run("gc", "--yes")).stdout).toMatch(/stays: .*disk-after-c: '.*disk-after-d' stands on it/);
  expect(left()).toEqual(expect.arrayContaining(["disk-after-c", "disk-after-d"]));
  await must("status", "--check");
});

loops.test("a merge that was killed while its volume was taken away is ended by recovery", async () => {
  const bench = await makeBench();
  const { root, volumes, must } = bench;
  await must("snapshot", "vda", "--size", "3M");
  command("qemu-io", "-c", "write -P 8 2M 64k", `${root}/devices/vda`);
  const kills = wrap(bench, "kills", { before: '[ "$2" != remove ] || { kill -9 $PPID; exit 1; }' });
  await must("device", "provision", "vda", `${kills} ${volumes}`);
  const [node, ...words] = wordsToStart(PROGRAM);
  expect(spawnSync(node, [...words, "merge", "vda"], { cwd: root }).signal).toBe("SIGKILL");
  expect(readdirSync(volumes)).toHaveLength(2);
  writeScript(kills, `#!/bin/sh\nexec ${bench.provisioner} "$@"\n`);
  // As after a start of the host: its node is not there.
  detach(`${volumes}/${readdirSync(volumes)[0] ?? ""}`);
  rmSync(`${bench.group}/${readdirSync(volumes)[0] ?? ""}`);
  while (readdirSync(volumes).length > 0) await must("recover");
  command("qemu-io", "-c", "read -P 8 2M 64k", `${root}/devices/vda`);
  await must("status", "--check");
});

loops.test("a command that somebody else could have chosen or written is not run", async () => {
  const { root, group, volumes, provisioner, run, must } = await makeBench();
  command("qemu-img", "create", "-q", "-f", "qcow2", `${root}/a.qcow2`, "1M");
  await must("device", "add", "vdb", "a.qcow2", "--provision", `${provisioner} ${volumes}`);
  chmodSync(provisioner, 0o775);
  const open = await run("snapshot", "vda", `${group}/two`);
  expect(open).toMatchObject({ status: 14 });
  expect(open.stderr).toContain("others may write to it");
  chmodSync(provisioner, 0o755);
  await must("recover");
  const NOBODY = 65_534;
  command("chown", "-R", `${NOBODY}:${NOBODY}`, root);
  const env = { IMGTX_SAFE_WORKSPACES: root };
  const others = await runCli(["--workspace", root, "snapshot", "vdb", `${root}/two`], { cwd: root, env });
  expect(others).toMatchObject({ status: 14 });
  expect(others.stderr).toContain("a program that the workspace in");
  expect(readdirSync(volumes)).toEqual([]);
});

describe("the example for LVM", () => {
  test("is a script", () => {
    const file = `${makeFolder()}/imgtx-lvm`;
    writeFileSync(file, exampleOf("imgtx-block-devices.7", "Logical volumes"));
    expect(tell("sh", "-n", file)).toBe("");
    expect(exampleOf("imgtx-block-devices.7", "Logical volumes")).toContain("lvrename");
  });
});
