// What people run daily, by imgtx on Node and by the single file (where IMGTX_BIN names one) beside its peers, all in turns: a
// start, a look at an image, small commands, and snapshots of one disk and of many.

import { execFileSync } from "node:child_process";
import { mkdirSync, writeFileSync } from "node:fs";
import { LAUNCHER, PROGRAM, SINGLE_FILE, wordsToStart } from "../helpers/program.ts";
import { type Bench, inTurns, run } from "./bench-tools.ts";

interface Goal {
  readonly atLeast?: number;
}

/** Each way in which imgtx comes, with how it runs words in a folder. */
const PROGRAMS = [
  { name: "Node", words: wordsToStart(LAUNCHER) },
  ...(SINGLE_FILE === undefined ? [] : [{ name: "single file", words: wordsToStart(PROGRAM) }]),
].map(({ name, words: [program, ...start] }) => ({
  name,
  run: (cwd: string, ...args: readonly string[]) => run(cwd, program, [...start, ...args]),
}));

const ROUNDS = 11;

export function benchDaily(bench: Bench): void {
  const folder = `${bench.scratch}/daily`;
  mkdirSync(folder);
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", `${folder}/a.qcow2`, "10G"]);
  execFileSync("git", ["init", "-q", folder]);
  for (const { run } of PROGRAMS.slice(0, 1)) run(folder, "device", "add", "-q", "vda", "a.qcow2");
  const pair = (words: readonly string[], peer: readonly [string, ...string[]], goal: Goal): void => {
    const [program, ...args] = peer;
    compare(bench, words.join(" "), peer.join(" "), {
      ours: PROGRAMS.map((one) => () => one.run(folder, ...words)),
      theirs: () => run(folder, program, args),
      goal,
    });
  };
  pair(["--version"], ["qemu-img", "--version"], {});
  pair(["img", "info", "a.qcow2"], ["qemu-img", "info", "a.qcow2"], { atLeast: 0.29 });
  for (const words of [["status"], ["device", "list"], ["snapshot-list"]]) {
    pair(words, ["git", "status"], { atLeast: 1 });
  }
  compare(bench, "txn begin", "git status", {
    ours: PROGRAMS.map(({ run }) => () => {
      const milliseconds = run(folder, "txn", "begin", "--name", "bench");
      run(folder, "txn", "abort", "bench");
      return milliseconds;
    }),
    theirs: () => run(folder, "git", ["status"]),
    goal: { atLeast: 1 },
  });
  benchSnapshots(bench, 1, LOOP, 0.7);
  benchSnapshots(bench, 8, LOOP, 2.5);
  benchSnapshots(bench, 64, LOOP, 10);
  benchSnapshots(bench, 8, DAEMON, 1);
  benchSnapshots(bench, 64, DAEMON, 1);
}

/** Takes the snapshot of this number of the disks, durably, in the folder; milliseconds. */
interface Peer {
  readonly name: string;
  readonly take: (folder: string, disks: readonly string[], round: number) => number;
}

const LOOP: Peer = {
  name: "qemu-img create -b + sync -f, in a loop",
  take: (folder, disks, round) => {
    const script =
      'for name in "$@"; do qemu-img create -q -f qcow2 -b "$name-$((round - 1)).qcow2" -F qcow2 "$name-$round.qcow2" && sync -f "$name-$round.qcow2" || exit 1; done';
    return run(folder, "bash", ["-c", `round=${round}; ${script}`, "bash", ...disks]);
  },
};

const DAEMON: Peer = {
  name: "a transaction of qemu-storage-daemon, its start + sync -f",
  take: (folder, disks, round) => {
    const actions = disks.map((name) => {
      const data = {
        "node-name": name,
        "snapshot-file": `${name}-${round}.qcow2`,
        "snapshot-node-name": `${name}-new`,
        format: "qcow2",
      };
      return { type: "blockdev-snapshot-sync", data };
    });
    const commands = [
      { execute: "qmp_capabilities" },
      { execute: "transaction", arguments: { actions } },
      { execute: "quit" },
    ];
    writeFileSync(`${folder}/qmp`, commands.map((command) => `${JSON.stringify(command)}\n`).join(""));
    const nodes = disks.flatMap((name) => [
      "--blockdev",
      `driver=qcow2,node-name=${name},file.driver=file,file.filename=${name}-${round - 1}.qcow2`,
    ]);
    // The daemon ends with 0 over a command that failed.
    const script =
      'qemu-storage-daemon "$@" --chardev stdio,id=qmp --monitor chardev=qmp <qmp >answers && ! grep -q \'"error"\' answers && sync -f .';
    return run(folder, "bash", ["-c", script, "bash", ...nodes]);
  },
};

interface Rivals {
  readonly ours: readonly (() => number)[];
  readonly theirs: () => number;
  readonly goal: Goal;
}

function compare({ report }: Bench, what: string, peer: string, { ours, theirs, goal }: Rivals): void {
  const medians = inTurns(ROUNDS, [theirs, ...ours]);
  const [their, ...mine] = medians;
  for (const [index, { name }] of PROGRAMS.entries()) {
    const median = mine[index] ?? 0;
    // What is to be reached is meant for the single file.
    report(`${what}, ${name}`, median, peer, their, their / median, name === "Node" ? {} : goal);
  }
}

/** Chains grow by one layer each round, alike for all. */
function benchSnapshots(bench: Bench, disks: number, peer: Peer, atLeast: number): void {
  const names = Array.from({ length: disks }, (_, index) => `d${index}`);
  const places = [peer, ...PROGRAMS].map(({ name }, index) => {
    const folder = `${bench.scratch}/${index === 0 ? "peer" : `${name} beside`} ${disks} ${peer.name}`;
    mkdirSync(folder);
    for (const disk of names)
      execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", `${folder}/${disk}-0.qcow2`, "10G"]);
    return folder;
  });
  const [theirs = "", ...own] = places;
  for (const [index, program] of PROGRAMS.entries()) {
    for (const disk of names) program.run(own[index] ?? "", "device", "add", "-q", disk, `${disk}-0.qcow2`);
  }
  const rounds = PROGRAMS.map(() => 0);
  let round = 0;
  compare(bench, `snapshot of ${disks}`, peer.name, {
    ours: PROGRAMS.map((program, index) => () => {
      rounds[index] = (rounds[index] ?? 0) + 1;
      const targets = names.map((name) => `${name}=${name}-${rounds[index]}.qcow2`);
      return program.run(own[index] ?? "", "snapshot-group", "-q", ...targets);
    }),
    theirs: () => {
      round += 1;
      return peer.take(theirs, names, round);
    },
    goal: { atLeast },
  });
}
