// What other programs do with chains on volumes, as sequences of commands on loop devices: each command is killed at one of
// its calls, recovered, and given again where it was undone. What the guest sees, and what each snapshot keeps, is compared by
// qemu-img with raw files that get the same writes.

import { execFileSync, spawnSync } from "node:child_process";
import {
  chmodSync,
  closeSync,
  copyFileSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { basename } from "node:path";
import { expect, onTestFinished } from "vitest";
import { exampleOf } from "../../helpers/man-examples.ts";
import { attachLoop, detachLoop } from "../../helpers/loop-device.ts";
import { command } from "../../helpers/loop-disk.ts";
import { PROGRAM, wordsToStart } from "../../helpers/program.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const MIB = 2 ** 20;
const CALLS = "pwrite64,fsync,fdatasync,ftruncate,rename,renameat2,unlink,unlinkat,link,linkat,symlink";

/** `V/` stands for the folder of the volumes, `O/` for one of files. */
type SequenceStep =
  /** A command of imgtx's. */
  | { readonly run: string; readonly keeps?: string }
  /** A guest writes: a byte, where to, and how much. */
  | { readonly write: string }
  /** Who manages the volumes takes one away. */
  | { readonly wipe: string }
  /** Of a cluster that is used the image on the volume counts nothing, and of one that is not one. */
  | { readonly damage: string };

interface Sequence {
  readonly name: string;
  /** Of each volume that is there at first: `disk` has the image. */
  readonly volumes: Readonly<Record<string, number>>;
  readonly diskBytes: number;
  /** Whether volumes are made for it by the provisioner of the manual page. */
  readonly isProvisioned?: true;
  readonly steps: readonly SequenceStep[];
  /** Whether `npm test` runs it. */
  readonly inSlice?: true;
}

interface Bench {
  readonly root: string;
  readonly volumes: string;
  readonly files: string;
  /** What the guest is to see, and the states that snapshots keep, by their names. */
  readonly reference: string;
}

/** What befalls a command at a call. */
export type Mishap = "signal=SIGKILL" | "error=EIO" | "error=ENOSPC";

/** Returns how many commands did not come to their end. */
export function runSequence(sequence: Sequence, cutAt: number, mishap: Mishap): number {
  const bench = layOut(sequence);
  const place = (words: string): string[] =>
    words
      .split(" ")
      .map((word) => word.replace(/^V\//, `${bench.volumes}/`).replace(/^O\//, `${bench.files}/`));
  let kills = 0;
  let generation = look(bench);
  for (const step of sequence.steps) {
    if ("write" in step) {
      for (const file of [bench.reference, `${bench.root}/devices/vda`]) write(file, step.write);
      continue;
    }
    if ("wipe" in step) {
      command("blkdiscard", "-z", "--length", "1MiB", `${bench.volumes}/${step.wipe}`);
      continue;
    }
    if ("damage" in step) {
      damage(`${bench.volumes}/${step.damage}`);
      continue;
    }
    if (step.keeps !== undefined) copyFileSync(bench.reference, `${bench.files}/${step.keeps}.raw`);
    const argv = place(step.run);
    if (!runCut(bench, argv, cutAt, mishap)) {
      kills += 1;
      imgtx(bench, ["recover"]);
      assertSame(bench.reference, `${bench.root}/devices/vda`, step.run);
      if (look(bench) === generation) imgtx(bench, argv);
    }
    assertSame(bench.reference, `${bench.root}/devices/vda`, step.run);
    generation = look(bench);
  }
  assertSnapshots(bench);
  return kills;
}

function layOut({ volumes: sizes, diskBytes, isProvisioned }: Sequence): Bench {
  const root = makeFolder("on a disk");
  const files = makeFolder("on a disk");
  const made = makeFolder("on a disk");
  const volumes = `/dev/${basename(root)}`;
  mkdirSync(volumes);
  onTestFinished(() => {
    for (const name of readdirSync(made))
      command("sh", "-c", 'losetup -nO NAME -j "$0" | xargs -r losetup -d', `${made}/${name}`);
    rmSync(volumes, { recursive: true });
  });
  for (const [name, bytes] of Object.entries(sizes))
    symlinkSync(attachLoop(`${files}/${name}`, bytes), `${volumes}/${name}`);
  command("qemu-img", "create", "-q", "-f", "qcow2", `${volumes}/disk`, String(diskBytes));
  const reference = `${files}/reference.raw`;
  command("qemu-img", "create", "-q", "-f", "raw", reference, String(diskBytes));
  const bench = { root, volumes, files, reference };
  imgtx(bench, ["device", "add", "vda", `${volumes}/disk`, "--allow-devices"]);
  writeFileSync(`${files}/batch`, "bitmap add vda b0\ninternal-snapshot create vda s1\n");
  if (isProvisioned) {
    const provisioner = `${files}/imgtx-loops`;
    writeFileSync(provisioner, exampleOf("imgtx-block-devices.7", "Loop devices"));
    chmodSync(provisioner, 0o755);
    imgtx(bench, ["device", "provision", "vda", `${provisioner} ${made}`]);
  }
  return bench;
}

const REFCOUNT_TABLE_AT = 48;

function damage(volume: string): void {
  const file = openSync(volume, "r+");
  const read = (offset: number): number => {
    const bytes = Buffer.alloc(8);
    readSync(file, bytes, 0, 8, offset);
    return Number(bytes.readBigUInt64BE());
  };
  const block = read(read(REFCOUNT_TABLE_AT));
  writeSync(file, Uint8Array.of(0, 0), 0, 2, block + 2 * 5);
  writeSync(file, Uint8Array.of(0, 1), 0, 2, block + 2 * 300);
  fsyncSync(file);
  closeSync(file);
}

function start({ root }: Bench, words: readonly string[]) {
  const [program = "", ...rest] = words;
  return spawnSync(program, rest, { cwd: root, encoding: "utf8" });
}

function imgtx(bench: Bench, argv: readonly string[]): string {
  const { status, stdout, stderr } = start(bench, [...wordsToStart(PROGRAM), ...argv]);
  expect({ argv, status, stderr: status === 0 ? "" : stderr }).toEqual({ argv, status: 0, stderr: "" });
  return stdout;
}

/** Befalls it, or a program that it runs, at that call of a thread. Whether it ended well all the same. */
function runCut(bench: Bench, argv: readonly string[], cutAt: number, mishap: Mishap): boolean {
  const inject = `inject=${CALLS}:${mishap}:when=${cutAt}`;
  const trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", `trace=${CALLS}`, "-e", inject];
  return start(bench, [...trace, ...wordsToStart(PROGRAM), ...argv]).status === 0;
}

/** The generation, in which the device is sound. */
function look(bench: Bench): number {
  const { generation, devices } = JSON.parse(imgtx(bench, ["device", "list", "--json"])) as {
    generation: number;
    devices: { state: string }[];
  };
  expect(devices.map(({ state }) => state)).toEqual(["ok"]);
  return generation;
}

/** `7 1M 64k` */
function write(file: string, what: string): void {
  const format = file.endsWith(".raw") ? "raw" : "qcow2";
  command("qemu-io", "-f", format, "-c", `write -P ${what}`, file);
}

function assertSame(reference: string, image: string, after: string): void {
  const words = ["compare", "-f", "raw", "-F", "qcow2", reference, image];
  const { status, stdout, stderr } = spawnSync("qemu-img", words, { encoding: "utf8" });
  expect({ after, status, said: status === 0 ? "" : `${stdout}${stderr}` }).toEqual({
    after,
    status: 0,
    said: "",
  });
}

/** All that are left keep what they were. */
function assertSnapshots(bench: Bench): void {
  const listed = JSON.parse(imgtx(bench, ["snapshot-list", "--json"])) as {
    snapshots: { name: string | null; devices: { image: string }[] }[];
  };
  for (const { name, devices } of listed.snapshots) {
    const [one] = devices;
    if (name === null || !one || name.startsWith("before ")) continue;
    assertSame(`${bench.files}/${name}.raw`, one.image, `snapshot ${name}`);
    command("qemu-img", "check", "-q", "-f", "qcow2", one.image);
  }
}

/** Not long before the mark. */
const FIRST_CUT = 8;

/**
 * A resize that is killed after its commit mark, and whose volume is away when the next command comes. It comes back under another
 * number: by hand, or by the provisioner.
 */
export function loseVolume(isProvisioned: boolean): void {
  const sequence: Sequence = {
    name: "",
    volumes: { disk: 32 * MIB },
    diskBytes: 16 * MIB,
    ...(isProvisioned && { isProvisioned: true }),
    steps: [],
  };
  const bench = layOut(sequence);
  let volume = `${bench.volumes}/disk`;
  if (isProvisioned) {
    volume = `${bench.volumes}/made`;
    imgtx(bench, ["snapshot", "vda", volume, "--size", "32M"]);
  }
  for (const file of [bench.reference, `${bench.root}/devices/vda`]) write(file, "1 0 4M");
  for (let cutAt = FIRST_CUT; !isCommitted(bench); cutAt += 1) {
    imgtx(bench, ["recover"]);
    expect(runCut(bench, ["resize", "vda", "24M"], cutAt, "signal=SIGKILL")).toBe(false);
  }
  const node = realpathSync(volume);
  const file = tell("losetup", "-nO", "BACK-FILE", node);
  detachLoop(node);
  command("sh", "-c", 'losetup -nO NAME -j "$0" | xargs -r losetup -d', file);
  rmSync(volume);
  attachLoop(`${bench.files}/other`, MIB);
  if (!isProvisioned) {
    const { stderr } = start(bench, [...wordsToStart(PROGRAM), "recover"]);
    expect(stderr).toContain("waits");
    expect(isCommitted(bench)).toBe(true);
    symlinkSync(attachLoop(file), volume);
  }
  imgtx(bench, ["recover"]);
  expect(isCommitted(bench)).toBe(false);
  look(bench);
  expect(JSON.parse(tell("qemu-img", "info", "--output=json", volume))).toMatchObject({
    "virtual-size": 24 * MIB,
  });
  assertSame(bench.reference, volume, "a volume that was away");
}

function isCommitted({ root }: Bench): boolean {
  const folder = `${root}/.imgtx/journal`;
  const journals = readdirSync(folder).filter((name) => name.endsWith(".journal"));
  return journals.some((name) => readFileSync(`${folder}/${name}`, "latin1").includes('{"type":"commit"'));
}

function tell(program: string, ...words: string[]): string {
  return execFileSync(program, words, { encoding: "utf8" }).trim();
}

export const SEQUENCES: readonly Sequence[] = [
  {
    name: "Proxmox: snapshots onto volumes that are made, the disk resized, the first snapshot deleted",
    volumes: { disk: 32 * MIB },
    diskBytes: 16 * MIB,
    isProvisioned: true,
    steps: [
      { write: "1 0 4M" },
      { run: "snapshot vda --name first --size 32M", keeps: "first" },
      { write: "2 1M 2M" },
      { run: "snapshot vda --name second --size 32M", keeps: "second" },
      { write: "3 2M 2M" },
      { run: "resize vda 24M" },
      { write: "4 14M 1M" },
      { run: "snapshot-delete first --keep-images --yes" },
      { write: "5 5M 64k" },
    ],
  },
  {
    name: "oVirt: a cold merge of the layer in the middle, and of the top",
    volumes: { disk: 32 * MIB, middle: 32 * MIB, top: 32 * MIB },
    diskBytes: 16 * MIB,
    inSlice: true,
    steps: [
      { write: "1 0 4M" },
      { run: "snapshot vda V/middle" },
      { write: "2 1M 2M" },
      { run: "snapshot vda V/top" },
      { write: "3 2M 2M" },
      { run: "merge vda --from V/middle --into V/disk --keep --yes" },
      { wipe: "middle" },
      { write: "4 8M 1M" },
      { run: "merge vda --keep --yes" },
      { write: "5 9M 1M" },
    ],
  },
  {
    name: "a merge into a volume that is too small, and is extended; pull, rebase, a batch and a repair",
    volumes: { disk: 32 * MIB },
    diskBytes: 16 * MIB,
    isProvisioned: true,
    steps: [
      { write: "1 0 4M" },
      { run: "snapshot vda V/small --size 2M" },
      { write: "2 1M 1M" },
      { run: "snapshot vda V/top" },
      { write: "3 2M 4M" },
      { run: "merge vda --keep --yes" },
      { write: "4 8M 1M" },
      { run: "pull vda" },
      { run: "rebase vda --onto V/disk" },
      { run: "txn run O/batch" },
      { write: "5 9M 1M" },
      { damage: "small" },
      { run: "repair vda" },
      { write: "6 10M 1M" },
    ],
  },
  {
    name: "oVirt: a disk that moves from a volume to a file and back",
    volumes: { disk: 32 * MIB, other: 32 * MIB },
    diskBytes: 16 * MIB,
    steps: [
      { write: "1 0 4M" },
      { run: "mirror vda O/copy.qcow2" },
      { run: "reopen vda O/copy.qcow2" },
      { write: "2 1M 2M" },
      { run: "mirror vda V/other --allow-devices" },
      { run: "reopen vda V/other" },
      { write: "3 2M 2M" },
    ],
  },
  {
    name: "Incus: a snapshot of a full volume, and back to it",
    volumes: { disk: 4 * MIB + 5 * 64 * 1024, next: 16 * MIB, after: 16 * MIB },
    diskBytes: 4 * MIB,
    steps: [
      { write: "1 0 4M" },
      { run: "snapshot vda V/next --name full", keeps: "full" },
      { write: "2 1M 2M" },
      { run: "snapshot vda V/after --name later", keeps: "later" },
      { write: "3 0 1M" },
    ],
  },
];
