// Changes of one image in place against qemu-img with its file flushed: a disk of 1 TiB whose metadata is full, and which
// takes little of the real disk. Whole processes in turns, each on an image of its own.
//
// Lazy refcounts are a bit of the header: what they cost is the start and the flushes of any transaction, some 20 against
// one, so that row has no goal. QEMU's bitmap reads all refcounts, and ours all that refers to a cluster as well.

import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync } from "node:fs";
import { type Bench, inTurns, run, runWords } from "./bench-tools.ts";

const ROUNDS = 3;

/** What is done, and what takes it back before the next round, where it can't be done twice. */
const ROWS: readonly (readonly [string, readonly string[], (readonly string[])?])[] = [
  ["resize", ["resize", "-q", "IMAGE", "+1G"]],
  ["internal snapshot", ["snapshot", "-c", "one", "IMAGE"], ["snapshot", "-d", "one", "IMAGE"]],
  ["bitmap", ["bitmap", "--add", "IMAGE", "b"], ["bitmap", "--remove", "IMAGE", "b"]],
  ["amend", ["amend", "-o", "lazy_refcounts=on", "IMAGE"], ["amend", "-o", "lazy_refcounts=off", "IMAGE"]],
  ["check -r", ["check", "-q", "-r", "all", "IMAGE"]],
];

export function benchInPlace({ scratch, report }: Bench): void {
  const folder = `${scratch}/in-place`;
  mkdirSync(folder);
  const sh = (script: string, ...words: readonly string[]): number =>
    run(folder, "bash", ["-c", script, "bash", ...words]);
  const theirs = (words: readonly string[]) =>
    sh('qemu-img "$@" && sync -f theirs.qcow2', ...named(words, "theirs"));
  const ours = (words: readonly string[]) => runWords(folder, ["img", ...named(words, "ours")]);
  const one = (job: () => number, back: () => unknown) => (): number => {
    const milliseconds = job();
    back();
    return milliseconds;
  };
  try {
    const options = ["-o", "preallocation=metadata"];
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", ...options, "theirs.qcow2", "1T"], {
      cwd: folder,
    });
    sh("cp --sparse=always theirs.qcow2 ours.qcow2 && sync -f ours.qcow2");
    for (const [what, words, back] of ROWS) {
      const undo = (by: (words: readonly string[]) => number) => () => back && by(back);
      const [mine, qemus] = inTurns(ROUNDS, [
        one(() => ours(words), undo(ours)),
        one(() => theirs(words), undo(theirs)),
      ]);
      const against = `qemu-img ${words[0]}, sync -f`;
      report(
        `${what}, 1 TiB with full metadata`,
        mine,
        against,
        qemus,
        qemus / mine,
        what === "amend" ? {} : { atLeast: 1 },
      );
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function named(words: readonly string[], name: string): string[] {
  return words.map((word) => (word === "IMAGE" ? `${name}.qcow2` : word));
}
