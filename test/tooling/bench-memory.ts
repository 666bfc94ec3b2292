// How much memory changes of a full disk of 8 TiB take at their peak: its metadata is full, and its data are holes, so that
// it takes 1.3 GiB of the real disk, and a log as much again. Minutes, so only where it is asked for.
//
// The kernel keeps the peak of a process as long as that lives: it is asked again and again.

import { execFileSync, spawn } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync, readSync, rmSync, writeSync } from "node:fs";
import { PROGRAM, wordsToStart } from "../helpers/program.ts";
import type { Bench } from "./bench-tools.ts";

const QEMU_IO = "qemu-io";
const MEMORY_MIB_MAX = 256;
const POLL_MS = 20;
const CLUSTER_BYTES = 65_536;

type Row = readonly [what: string, words: readonly string[], before?: (folder: string) => void];

const ROWS: readonly Row[] = [
  ["check", ["check", "full.qcow2"]],
  ["check -r all of a sound one", ["check", "-r", "all", "full.qcow2"]],
  ["check -r all, a leak in each block", ["check", "-r", "all", "full.qcow2"], leakInEachBlock],
  ["resize", ["resize", "full.qcow2", "+1G"]],
  ["bitmap --add", ["bitmap", "--add", "full.qcow2", "night"]],
  ["bitmap --remove", ["bitmap", "--remove", "full.qcow2", "night"]],
  ["snapshot -c", ["snapshot", "-c", "one", "full.qcow2"]],
  ["snapshot -a", ["snapshot", "-a", "one", "full.qcow2"]],
  ["snapshot -d", ["snapshot", "-d", "one", "full.qcow2"]],
  ["amend to refcounts of 64 bits", ["amend", "-o", "refcount_bits=64", "full.qcow2"]],
  ["commit of 64 places of an overlay", ["commit", "-q", "top.qcow2"], makeOverlay],
];

export async function benchMemory({ scratch }: Bench): Promise<void> {
  const folder = `${scratch}/memory`;
  mkdirSync(folder);
  try {
    qemu(folder, "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", "full.qcow2", "8T");
    for (const [what, words, before] of ROWS) {
      before?.(folder);
      const mib = await peakMib(folder, ["img", ...words]);
      const verdict = mib <= MEMORY_MIB_MAX ? "" : "  NOT REACHED";
      console.log(`${what}, 8 TiB: ${mib.toFixed(0)} MiB at most, of ${MEMORY_MIB_MAX}${verdict}`);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function qemu(cwd: string, ...words: readonly string[]): void {
  execFileSync("qemu-img", words, { cwd });
}

/** Of each refcount block of 16 bits, one count is too high. */
function leakInEachBlock(folder: string): void {
  const file = openSync(`${folder}/full.qcow2`, "r+");
  const header = Buffer.alloc(64);
  readSync(file, header, 0, header.length, 0);
  const table = Buffer.alloc(header.readUInt32BE(56) * CLUSTER_BYTES);
  readSync(file, table, 0, table.length, Number(header.readBigUInt64BE(48)));
  const blocks: number[] = [];
  for (let at = 0; at < table.length; at += 8) blocks.push(Number(table.readBigUInt64BE(at)));
  // The last one counts the end of the file, and what is after it.
  for (const block of blocks.filter((offset) => offset > 0).slice(0, -1)) {
    writeSync(file, Uint8Array.of(0, 2), 0, 2, block + 2000);
  }
  closeSync(file);
}

function makeOverlay(folder: string): void {
  rmSync(`${folder}/top.qcow2`, { force: true });
  qemu(folder, "create", "-q", "-f", "qcow2", "-b", "full.qcow2", "-F", "qcow2", "top.qcow2");
  const writes = Array.from({ length: 64 }, (_, index) => ["-c", `write ${index * 100}G 64k`]).flat();
  execFileSync(QEMU_IO, ["-f", "qcow2", ...writes, "top.qcow2"], { cwd: folder, stdio: "ignore" });
}

async function peakMib(cwd: string, words: readonly string[]): Promise<number> {
  const [program, ...first] = wordsToStart(PROGRAM);
  const child = spawn(program, [...first, ...words], { cwd, stdio: "ignore" });
  let peakKib = 0;
  const look = (): void => {
    const seen = readStatus(child.pid);
    peakKib = Math.max(peakKib, Number(/^VmHWM:\s+(\d+)/m.exec(seen)?.[1] ?? 0));
  };
  const timer = setInterval(look, POLL_MS);
  const status = await new Promise((resolve, reject) => child.on("error", reject).on("exit", resolve));
  clearInterval(timer);
  if (status !== 0) throw new Error(`${words.join(" ")}: exit status ${String(status)}`);
  return peakKib / 1024;
}

/** Nothing once it has ended. */
function readStatus(pid: number | undefined): string {
  try {
    return readFileSync(`/proc/${pid}/status`, "utf8");
  } catch {
    return "";
  }
}
