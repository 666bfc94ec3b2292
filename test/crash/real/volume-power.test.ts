// The power fails under volumes: loop devices over files of a file system that is shut down without writing its log, right
// after the command was killed at one of its calls, or has ended. What it had not flushed is gone.

import { spawnSync } from "node:child_process";
import { mkdirSync, rmSync, symlinkSync } from "node:fs";
import { basename } from "node:path";
import { expect, onTestFinished } from "vitest";
import { command, LoopDisk } from "../../helpers/loop-disk.ts";
import { attachLoop, detachLoop } from "../../helpers/loop-device.ts";
import { oracle } from "../../helpers/oracles.ts";
import { PROGRAM, wordsToStart } from "../../helpers/program.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const loops = oracle("root", "loops", "mkfs.ext4", "strace", "qemu-img", "qemu-io");
const CALLS = "pwrite64,fsync,fdatasync,ftruncate,rename,renameat2,unlink,unlinkat,link,linkat,symlink";
const VOLUME_BYTES = 8 * 2 ** 20;
const VOLUMES = ["disk", "next"];
const IS_WHOLE = process.env.IMGTX_TEST_EVERY_CALL === "1";

class Host {
  readonly root: string;
  /** Where the nodes of the volumes are. */
  readonly group: string;
  readonly #disk: LoopDisk;
  readonly #nodes = new Map<string, string>();

  constructor() {
    const folder = makeFolder("on a disk");
    this.#disk = LoopDisk.make(folder, "disk", "ext4");
    this.root = `${this.#disk.mountPoint}/work`;
    this.group = `/dev/${basename(folder)}`;
    mkdirSync(this.root);
    mkdirSync(this.group);
    onTestFinished(() => {
      this.#detach();
      rmSync(this.group, { recursive: true });
    });
    this.#attach(VOLUME_BYTES);
  }

  /** Whatever is in memory alone is lost, of the workspace and of the volumes; then the host starts anew. */
  cutPower(): void {
    this.#disk.shutDown();
    this.#detach();
    this.#disk.remount();
    this.#attach();
  }

  run(...argv: string[]): { status: number | null; text: string } {
    return this.#start([...wordsToStart(PROGRAM), ...argv]);
  }

  /** Killed at the nth of its calls, where it comes to that. */
  runCut(nth: number, argv: readonly string[]): { status: number | null; text: string } {
    const inject = `inject=${CALLS}:signal=SIGKILL:when=${nth}`;
    const trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", `trace=${CALLS}`, "-e", inject];
    return this.#start([...trace, ...wordsToStart(PROGRAM), ...argv]);
  }

  #start([program = "", ...rest]: readonly string[]): { status: number | null; text: string } {
    const env = { ...process.env, UV_THREADPOOL_SIZE: "1" };
    const { status, stdout, stderr } = spawnSync(program, rest, { cwd: this.root, env, encoding: "utf8" });
    return { status, text: `${stdout}${stderr}` };
  }

  #attach(sizeBytes?: number): void {
    for (const name of VOLUMES) {
      const node = attachLoop(`${this.#disk.mountPoint}/${name}`, sizeBytes);
      this.#nodes.set(name, node);
      symlinkSync(node, `${this.group}/${name}`);
    }
  }

  #detach(): void {
    for (const [name, node] of this.#nodes) {
      detachLoop(node);
      rmSync(`${this.group}/${name}`, { force: true });
    }
    this.#nodes.clear();
  }
}

interface Trial {
  readonly name: string;
  /** Whether the device is on an overlay on the other volume before. */
  readonly isOver: boolean;
  readonly argv: (host: Host) => readonly string[];
  /** Where `npm test` kills it: past its last call, it has ended. */
  readonly cuts: readonly number[];
}

const TRIALS: readonly Trial[] = [
  {
    name: "a snapshot onto a volume",
    isOver: false,
    argv: ({ group }) => ["snapshot", "vda", `${group}/next`, "--overwrite"],
    cuts: [30, 999],
  },
  {
    name: "a merge from one volume into another",
    isOver: true,
    argv: () => ["merge", "vda"],
    cuts: [36],
  },
];

function layOut(host: Host, isOver: boolean): void {
  rmSync(host.root, { recursive: true });
  mkdirSync(host.root);
  const disk = `${host.group}/disk`;
  command("qemu-img", "create", "-q", "-f", "qcow2", disk, "4M");
  command("qemu-io", "-c", "write -P 7 0 2M", disk);
  must(host, "device", "add", "vda", disk, "--allow-devices");
  const next = `${host.group}/next`;
  command("qemu-io", "-f", "raw", "-c", "write -P 90 0 1M", next);
  if (!isOver) return;
  must(host, "snapshot", "vda", next, "--overwrite");
  command("qemu-io", "-c", "write -P 9 1M 2M", next);
}

function must(host: Host, ...argv: string[]): string {
  const { status, text } = host.run(...argv);
  expect([argv, status, status === 0 ? "" : text]).toEqual([argv, 0, ""]);
  return text;
}

/** The images of the device's chain, which has to be sound and to read as it did. */
function look(host: Host, isOver: boolean): number {
  const { devices } = JSON.parse(must(host, "device", "list", "--json")) as {
    devices: { image: string; state: string; chain: unknown[] }[];
  };
  expect(devices.map(({ state }) => state)).toEqual(["ok"]);
  const second = isOver ? ["read -P 9 1M 2M"] : ["read -P 7 1M 1M", "read -P 0 2M 1M"];
  const reads = ["read -P 7 0 1M", ...second, "read -P 0 3M 1M"].flatMap((each) => ["-c", each]);
  const image = devices[0]?.image ?? "";
  const read = spawnSync("qemu-io", ["-f", "qcow2", ...reads, image], { encoding: "utf8" });
  expect([read.status, read.stdout.includes("failed")]).toEqual([0, false]);
  command("qemu-img", "check", "-q", image);
  return devices[0]?.chain.length ?? 0;
}

loops.test.each(TRIALS)("under $name leaves the device before or after", ({ isOver, argv, cuts }) => {
  const host = new Host();
  const ends = new Set<string>();
  const nths = IS_WHOLE ? [...Array.from({ length: 90 }, (_, index) => index + 1), 999] : cuts;
  for (const nth of nths) {
    layOut(host, isOver);
    const before = look(host, isOver);
    command("sync");
    const { status } = host.runCut(nth, argv(host));
    host.cutPower();
    must(host, "recover");
    const now = look(host, isOver);
    const isAfter = now !== before;
    expect({ nth, status, isAfter: status === 0 ? isAfter : true }).toEqual({ nth, status, isAfter: true });
    ends.add(`${status === 0 ? "ended" : "killed"}, ${isAfter ? "after" : "before"}`);
    if (!isAfter) must(host, ...argv(host));
    expect(look(host, isOver)).not.toBe(before);
  }
  if (IS_WHOLE) expect([...ends]).toEqual(expect.arrayContaining(["killed, before", "ended, after"]));
  expect(ends.size).toBeGreaterThan(0);
});
