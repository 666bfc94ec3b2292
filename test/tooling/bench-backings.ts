// Other backing images for active layers, and layers merged into them, against qemu-img: whole processes in turns.
//
// Durable against durable: qemu-img commit and rebase end with fdatasync of what they have written, as imgtx does. Before
// each turn all is synced: what laying out the disks has left to write would count for whoever flushes that file first.

import { execFileSync } from "node:child_process";
import { closeSync, copyFileSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { randomBytes } from "node:crypto";
import { type Bench, inTurns, run, runImgtx, warmMemory } from "./bench-tools.ts";

const MIB = 2 ** 20;

export function benchBackings({ scratch, report }: Bench): void {
  const folder = `${scratch}/backings`;
  mkdirSync(folder);
  const qemu = (...args: string[]): void => void execFileSync("qemu-img", args, { cwd: folder });
  const over = (name: string, below: string) =>
    qemu("create", "-q", "-f", "qcow2", "-b", below, "-F", "qcow2", name);
  try {
    writeNoise(`${folder}/noise`, 1024);
    qemu("convert", "-f", "raw", "-O", "qcow2", "noise", "base.qcow2");
    qemu("create", "-q", "-f", "qcow2", "empty.qcow2", "1G");
    for (const name of ["one.qcow2", "other.qcow2"]) {
      over(name, "base.qcow2");
      execFileSync("qemu-io", ["-c", "write -P 7 100M 16M", name], { cwd: folder, stdio: "ignore" });
    }
    over("on-base.qcow2", "base.qcow2");
    over("on-one.qcow2", "one.qcow2");
    const place = (name: string): void => {
      copyFileSync(`${folder}/${name}`, `${folder}/t.qcow2`);
      run(folder, "sync", []);
      warmMemory(folder);
    };
    const compare = (
      what: string,
      top: string,
      ours: string[],
      theirs: string[],
      atLeast: number,
      begin = (): void => undefined,
    ): void => {
      const [mine, qemus] = inTurns(5, [
        () => {
          begin();
          for (const name of [".imgtx", "devices", "t.qcow2"]) {
            rmSync(`${folder}/${name}`, { recursive: true, force: true });
          }
          place(top);
          runImgtx(folder, "init");
          runImgtx(folder, "device", "add", "vda", "t.qcow2");
          return runImgtx(folder, ...ours);
        },
        () => {
          begin();
          place(top);
          return run(folder, "qemu-img", theirs);
        },
      ]);
      report(what, mine, `qemu-img ${theirs.join(" ")}`, qemus, qemus / mine, { atLeast });
    };
    // Each turn merges into an empty image of its own. In another folder: an overlay beside it would be in the way.
    mkdirSync(`${folder}/kept`);
    over("kept/full.qcow2", "../empty.qcow2");
    qemu("convert", "-f", "raw", "-O", "qcow2", "-n", "noise", "kept/full.qcow2");
    qemu("rebase", "-u", "-b", "low.qcow2", "-F", "qcow2", "kept/full.qcow2");
    const low = () => copyFileSync(`${folder}/empty.qcow2`, `${folder}/low.qcow2`);
    compare("merge, 1 GiB", "kept/full.qcow2", ["merge", "vda"], ["commit", "-q", "t.qcow2"], 1, low);
    const onto = (name: string) => ["rebase", "-b", name, "-F", "qcow2", "t.qcow2"];
    compare("pull, 1 GiB", "on-base.qcow2", ["pull", "vda"], ["rebase", "-b", "", "t.qcow2"], 1);
    const elsewhere = ["rebase", "vda", "--onto", "empty.qcow2"];
    compare("rebase, 1 GiB that differs", "on-base.qcow2", elsewhere, onto("empty.qcow2"), 1);
    const beside = ["rebase", "vda", "--onto", "other.qcow2"];
    compare("rebase, 1 GiB in common", "on-one.qcow2", beside, onto("other.qcow2"), 3);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** So many MiB that nothing compresses, and no two alike. */
function writeNoise(path: string, lengthMib: number): void {
  const noise = randomBytes(MIB);
  const file = openSync(path, "w");
  for (let number = 0; number < lengthMib; number += 1) {
    noise.writeUInt32BE(number, 0);
    writeSync(file, noise);
  }
  closeSync(file);
}
