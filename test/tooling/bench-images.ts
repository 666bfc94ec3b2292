// The image commands against qemu-img with its best flags: whole processes in turns, and for large metadata
// the memory that imgtx took at most.

import { execFileSync, spawnSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import {
  closeSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { LAUNCHER } from "../helpers/program.ts";
import { type Bench, inTurns, type Report, run, runWords, warmMemory } from "./bench-tools.ts";

const MIB = 2 ** 20;
const MEMORY_MIB_MAX = 256;
const QEMU_IO = "qemu-io";
const MKFS_XFS = "mkfs.xfs";

/** How `img` is called, and qemu-img for the same. */
interface PairOptions {
  /** The words of `img`, where they are not qemu-img's. */
  readonly ours?: readonly string[];
  /** How many times as fast it ought to be at least. */
  readonly reach?: number;
  readonly rounds?: number;
  readonly before?: () => void;
  readonly cwd?: string;
}

interface ImageBench {
  readonly folder: string;
  readonly report: Report;
  readonly qemu: (...args: readonly string[]) => void;
  readonly pair: (what: string, words: readonly string[], options: PairOptions) => void;
}

export function benchImages({ scratch, report }: Bench): void {
  const folder = `${scratch}/images`;
  mkdirSync(folder);
  const bench = makeBench(folder, report);
  try {
    benchMetadata(bench);
    benchData(bench);
    benchCompression(bench);
    benchSparse(bench);
    benchClone(bench);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function makeBench(folder: string, report: Report): ImageBench {
  const qemu: ImageBench["qemu"] = (...args) => {
    execFileSync("qemu-img", args, { cwd: folder });
  };
  const pair: ImageBench["pair"] = (what, words, options) => {
    const { ours = words, reach, rounds = 5, before, cwd = folder } = options;
    const timed = (start: () => number): number => {
      before?.();
      return start();
    };
    const [mine, theirs] = inTurns(rounds, [
      () => timed(() => runWords(cwd, ["img", ...ours])),
      () => timed(() => run(cwd, "qemu-img", words)),
    ]);
    const goal = reach === undefined ? {} : { atLeast: reach };
    report(what, mine, `qemu-img ${words.join(" ")}`, theirs, theirs / mine, goal);
  };
  return { folder, report, qemu, pair };
}

/** All metadata of 1 TiB: 128 MiB of L2 tables and 32 MiB of refcount blocks. */
function benchMetadata({ folder, qemu, pair }: ImageBench): void {
  qemu("create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "large.qcow2", "1T");
  for (const [reach, ...words] of [
    [5, "check", "large.qcow2"],
    [8, "map", "--output=json", "large.qcow2"],
  ] as const) {
    pair(`img ${words[0]}, 1 TiB with all metadata`, words, { reach, rounds: 3 });
    const mib = peakMemoryMib(folder, words);
    const verdict = mib <= MEMORY_MIB_MAX ? "" : "  NOT REACHED";
    console.log(`img ${words[0]} took ${mib.toFixed(0)} MiB at most, of ${MEMORY_MIB_MAX}${verdict}`);
  }
  rmSync(`${folder}/large.qcow2`);
}

function benchData({ folder, qemu, pair }: ImageBench): void {
  writeRandom(`${folder}/a.raw`, 1024);
  execFileSync("cp", ["a.raw", "b.raw"], { cwd: folder });
  qemu("convert", "-O", "qcow2", "a.raw", "a.qcow2");
  pair("img compare, equal 1 GiB, raw", ["compare", "a.raw", "b.raw"], { reach: 1.5 });
  pair("img compare, equal 1 GiB, raw and qcow2", ["compare", "a.qcow2", "b.raw"], { reach: 1.5 });
  rmSync(`${folder}/b.raw`);
  benchConvert({ folder, pair }, "a", "1 GiB of data");
  // Every other run of 32 MiB is a hole.
  execFileSync("cp", ["a.raw", "holes.raw"], { cwd: folder });
  for (let at = 0; at < 1024; at += 64) {
    const words = ["--punch-hole", "--offset", `${at}M`, "--length", "32M", "holes.raw"];
    execFileSync("fallocate", words, { cwd: folder });
  }
  qemu("convert", "-O", "qcow2", "holes.raw", "holes.qcow2");
  benchConvert({ folder, pair }, "holes", "1 GiB, half of it holes");
}

function benchConvert(
  { folder, pair }: Pick<ImageBench, "folder" | "pair">,
  name: string,
  what: string,
): void {
  const before = () => {
    rmSync(`${folder}/out`, { force: true });
    warmMemory(folder);
  };
  for (const source of ["raw", "qcow2"]) {
    for (const target of ["raw", "qcow2"]) {
      const words = ["convert", "-f", source, "-O", target, `${name}.${source}`, "out"];
      pair(`img convert, ${what}, ${source} to ${target}`, words, { reach: 1, before });
    }
  }
  before();
}

function benchCompression({ folder, pair }: ImageBench): void {
  writeText(`${folder}/text.raw`, 256);
  const before = () => rmSync(`${folder}/out`, { force: true });
  for (const type of ["zlib", "zstd"]) {
    const options = ["-c", "-W", "-m", "16", "-O", "qcow2", "-o", `compression_type=${type}`];
    const words = ["convert", ...options, "text.raw", "out"];
    pair(`img convert -c, 256 MiB of text, ${type}`, words, { reach: 1, rounds: 3, before });
  }
  before();
  rmSync(`${folder}/text.raw`);
}

/** The same data in a disk of its own size is the measure. */
function benchSparse({ folder, qemu, report }: ImageBench): void {
  const fill = (name: string, size: string, places: readonly string[]): void => {
    qemu("create", "-q", "-f", "qcow2", name, size);
    const writes = places.flatMap((place) => ["-c", `write ${place} 64M`]);
    execFileSync(QEMU_IO, ["-f", "qcow2", ...writes, name], { cwd: folder });
  };
  fill("sparse.qcow2", "1T", ["0", "250G", "500G", "1000G"]);
  fill("dense.qcow2", "256M", ["0", "64M", "128M", "192M"]);
  const convert = (name: string) => (): number => {
    rmSync(`${folder}/out`, { force: true });
    return runWords(folder, ["img", "convert", "-O", "qcow2", name, "out"]);
  };
  const [sparse, dense] = inTurns(5, [convert("sparse.qcow2"), convert("dense.qcow2")]);
  const against = "imgtx img convert of 256 MiB";
  report("img convert, 256 MiB of data in 1 TiB", sparse, against, dense, sparse / dense, { atMost: 1.3 });
}

/** Needs root, mkfs.xfs and a loop device. */
function benchClone({ folder, pair }: ImageBench): void {
  const mount = `${folder}/xfs`;
  mkdirSync(mount);
  writeFileSync(`${folder}/disk`, "");
  truncateSync(`${folder}/disk`, 4 * 1024 * MIB);
  const made =
    spawnSync(MKFS_XFS, ["-q", "-m", "reflink=1", "disk"], { cwd: folder }).status === 0 &&
    spawnSync("mount", ["-o", "loop", "disk", mount], { cwd: folder }).status === 0;
  if (!made) {
    console.log("no XFS can be mounted here: sharing blocks is left out");
    return;
  }
  try {
    execFileSync("cp", [`${folder}/a.raw`, `${mount}/a.raw`]);
    execFileSync("sync", ["-f", mount]);
    const before = () => rmSync(`${mount}/out`, { force: true });
    const plain = ["convert", "-f", "raw", "-O", "raw", "a.raw", "out"];
    pair("img convert, 1 GiB, raw to raw on XFS", plain, { reach: 6, rounds: 3, before, cwd: mount });
    const offloaded = ["convert", "-C", ...plain.slice(1)];
    pair("the same against qemu-img -C", offloaded, { ours: plain, reach: 1, rounds: 3, before, cwd: mount });
  } finally {
    spawnSync("umount", [mount]);
  }
}

/** On Node, which can tell. */
function peakMemoryMib(folder: string, words: readonly string[]): number {
  const hook = `${folder}/hook.cjs`;
  writeFileSync(
    hook,
    `process.on("exit", () => require("node:fs").writeFileSync(${JSON.stringify(`${folder}/rss`)}, String(process.resourceUsage().maxRSS)));`,
  );
  const args = ["--require", hook, LAUNCHER, "img", ...words];
  const { status } = spawnSync(process.execPath, args, { cwd: folder, stdio: "ignore" });
  if (status !== 0) throw new Error(`img ${words.join(" ")}: exit status ${status}`);
  return Number(readFileSync(`${folder}/rss`, "utf8")) / 1024;
}

function writeRandom(path: string, mib: number): void {
  const file = openSync(path, "w");
  for (let index = 0; index < mib; index += 1) writeSync(file, randomBytes(MIB));
  closeSync(file);
}

/** Words from a small vocabulary, with random bytes between: about what a system's disk compresses to. */
function writeText(path: string, mib: number): void {
  const vocabulary = Array.from({ length: 4096 }, () => randomBytes(4).toString("base64url"));
  const file = openSync(path, "w");
  for (let index = 0; index < mib; index += 1) {
    const picks = randomBytes(2 * 128 * 1024);
    const words = Array.from(
      { length: 128 * 1024 },
      (_, at) => vocabulary[picks.readUInt16LE(2 * at) % 4096],
    );
    writeSync(file, Buffer.concat([Buffer.from(words.join(" ")), randomBytes(MIB)]).subarray(0, MIB));
  }
  closeSync(file);
}
