// Mirrors against qemu-img convert and a flush, whole processes in turns; and what bringing them in sync costs.

import { execFileSync, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { type Bench, inTurns, type Job, type Report, run, runImgtx, warmMemory } from "./bench-tools.ts";

const MIB = 2 ** 20;
const QEMU_IO = "qemu-io";
const LIMIT_OF_NOTHING_MS = 100;

interface MirrorBench {
  readonly folder: string;
  readonly report: Report;
  readonly imgtx: (...args: readonly string[]) => number;
}

export function benchMirrors({ scratch, report }: Bench): void {
  const folder = `${scratch}/mirrors`;
  mkdirSync(folder);
  const bench: MirrorBench = { folder, report, imgtx: (...args) => runImgtx(folder, ...args) };
  try {
    runImgtx(folder, "init", ".");
    benchOne(bench, "qcow2");
    benchOne(bench, "raw");
    benchFour(bench);
    benchChanges(bench);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/**
 * What one job has left to the disk, the gibibyte that it removed included, is not the next one's to pay; nor
 * is it one's luck to find the source in memory, where the kernel may have made room for the copy before.
 */
function atRest(folder: string, job: Job): Job {
  const prepared = "sync -f . && cat -- *.qcow2 *.raw > /dev/null 2>&1";
  return () => {
    spawnSync("bash", ["-c", prepared], { cwd: folder });
    warmMemory(folder);
    return job();
  };
}

function benchOne({ folder, imgtx, report }: MirrorBench, format: "qcow2" | "raw"): void {
  const [name, source] = [`one-${format}`, `one.${format}`];
  fill(folder, source, format, 1024);
  imgtx("device", "add", name, source, "--format", format);
  const copy = `copy.${format}`;
  const words = `convert -f ${format} -O ${format} ${source} ${copy}`;
  const [ours, theirs] = inTurns(7, [
    atRest(folder, () => {
      const time = imgtx("mirror", name, copy);
      imgtx("mirror", name, "--cancel");
      rmSync(`${folder}/${copy}`);
      return time;
    }),
    atRest(folder, () => {
      const time = run(folder, "bash", ["-c", `qemu-img ${words} && sync ${copy}`]);
      rmSync(`${folder}/${copy}`);
      return time;
    }),
  ]);
  report(`mirror of 1 GiB, ${format}`, ours, `qemu-img ${words} + sync`, theirs, theirs / ours, {
    atLeast: 1,
  });
  rmSync(`${folder}/${source}`);
}

function benchFour({ folder, imgtx, report }: MirrorBench): void {
  const names = ["f1", "f2", "f3", "f4"];
  for (const name of names) {
    fill(folder, `${name}.qcow2`, "qcow2", 256);
    imgtx("device", "add", name, `${name}.qcow2`);
  }
  const clear = () => {
    for (const name of names) rmSync(`${folder}/${name}-copy.qcow2`);
  };
  const script =
    'for n in "$@"; do { qemu-img convert -O qcow2 $n.qcow2 $n-copy.qcow2 && sync $n-copy.qcow2; } & done; wait';
  const [ours, theirs] = inTurns(7, [
    atRest(folder, () => {
      const time = imgtx("mirror", ...names.map((name) => `${name}=${name}-copy.qcow2`));
      for (const name of names) imgtx("mirror", name, "--cancel");
      clear();
      return time;
    }),
    atRest(folder, () => {
      const time = run(folder, "bash", ["-c", script, "bash", ...names]);
      clear();
      return time;
    }),
  ]);
  report("mirror of 4 devices of 256 MiB", ours, "4 converts + sync in parallel", theirs, theirs / ours, {
    atLeast: 1,
  });
}

/** Of 4 GiB: of less, most of the time is the start of the process. */
function benchChanges({ folder, imgtx, report }: MirrorBench): void {
  fill(folder, "large.qcow2", "qcow2", 4096);
  imgtx("device", "add", "large", "large.qcow2");
  const whole = imgtx("mirror", "large", "large-copy.qcow2", "--bitmap");
  const [nothing] = inTurns(15, [atRest(folder, () => imgtx("mirror", "large"))]);
  const [limit, ratio] = [LIMIT_OF_NOTHING_MS, LIMIT_OF_NOTHING_MS / nothing];
  report("mirror, nothing changed", nothing, "the limit", limit, ratio, { atLeast: 1 });
  const [changed] = inTurns(5, [
    atRest(folder, () => {
      // A hundredth, in 40 places.
      const writes = Array.from({ length: 40 }, (_, index) => [
        "-c",
        `write -P ${index + 1} ${index * 100}M 1M`,
      ]);
      execFileSync(QEMU_IO, [...writes.flat(), "large.qcow2"], { cwd: folder, stdio: "ignore" });
      spawnSync("sync", ["large.qcow2"], { cwd: folder });
      return imgtx("mirror", "large");
    }),
  ]);
  report("mirror, 1 % of 4 GiB changed", changed, "the full copy", whole, whole / changed, { atLeast: 20 });
}

function fill(folder: string, name: string, format: "qcow2" | "raw", mebibytes: number): void {
  const raw = format === "raw" ? `${folder}/${name}` : `${folder}/fill.raw`;
  const file = openSync(raw, "w");
  const block = randomBytes(MIB);
  for (let at = 0; at < mebibytes; at += 1) {
    // No two blocks alike.
    block.writeUInt32LE(at, 0);
    writeSync(file, block);
  }
  closeSync(file);
  if (format === "raw") return;
  execFileSync("qemu-img", ["convert", "-f", "raw", "-O", format, raw, `${folder}/${name}`]);
  rmSync(raw);
}
