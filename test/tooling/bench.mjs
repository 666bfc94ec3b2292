// Measures imgtx against qemu-img, both as whole processes in this one run, and prints the ratios.
//
// Machines are shared and noisy: only the ratio of two medians of one run says anything. Each pair is
// measured in turns, so that a slow minute hits both.

import { execFileSync, spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { benchImages } from "./bench-images.mjs";
import { benchMirrors } from "./bench-mirrors.mjs";

const root = fileURLToPath(new URL("../..", import.meta.url));
const launcher = `${root}/bin/imgtx.js`;
// On a real disk: a tmpfs would make every flush free.
const scratch = mkdtempSync(`${process.env.IMGTX_BENCH_DIR ?? `${root}/node_modules`}/.bench-`);
const env = { ...process.env, NODE_EXTRA_CA_CERTS: undefined, NO_COLOR: "1" };
for (const key of Object.keys(env)) if (env[key] === undefined) delete env[key];

const rows = [];
let missed = 0;

try {
  const hasQemu = spawnSync("qemu-img", ["--version"]).status === 0;
  // `npm run bench -- mirrors` measures one of the parts.
  const [, , only] = process.argv;
  const wants = (part) => only === undefined || only === part;
  const tools = { scratch, launcher, run, inTurns, report };
  if (wants("start")) benchStartUp();
  if (hasQemu && wants("groups"))
    for (const [disks, reach] of [
      [1, undefined],
      [8, 2],
      [64, 10],
    ])
      benchGroup(disks, reach);
  if (hasQemu && wants("images")) benchImages(tools);
  if (hasQemu && wants("mirrors")) benchMirrors(tools);
  if (!hasQemu) console.log("qemu-img is not here: all that is measured against it is left out");
  print();
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
// Names what is not reached, without failing: a ratio on a noisy machine is for people to judge.
if (missed > 0) console.log(`${missed} not reached`);

function benchStartUp() {
  const empty = `${scratch}/empty.mjs`;
  writeFileSync(empty, "");
  const workspace = `${scratch}/start`;
  mkdirSync(workspace);
  imgtx(workspace, "init");
  const [node, version, status] = inTurns(40, [
    () => run(workspace, process.execPath, [empty]),
    () => imgtx(workspace, "--version"),
    () => imgtx(workspace, "txn", "status"),
  ]);
  report("imgtx --version", version, "an empty node script", node, version / node, { atMost: 1.3 });
  report("imgtx txn status", status, "an empty node script", node, status / node, {});
}

function benchGroup(disks, reach) {
  const workspace = `${scratch}/group-${disks}`;
  mkdirSync(workspace);
  const names = Array.from({ length: disks }, (_, index) => `d${index}`);
  for (const name of names) {
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", `${workspace}/${name}.qcow2`, "10G"]);
    imgtx(workspace, "device", "add", name, `${name}.qcow2`);
  }
  let round = 0;
  const [ours, theirs] = inTurns(disks === 64 ? 7 : 15, [
    () => {
      // Back to the bare disks first, so that each round has the same chains.
      if (round > 0) imgtx(workspace, "rollback", "--to", String(disks));
      round += 1;
      const targets = names.map((name) => `${name}=${name}-i${round}.qcow2`);
      return imgtx(workspace, "snapshot-group", ...targets);
    },
    () => {
      const script =
        'for name in "$@"; do qemu-img create -q -f qcow2 -b "$name.qcow2" -F qcow2 "$name-q$round.qcow2" && sync -f "$name-q$round.qcow2" || exit 1; done';
      return run(workspace, "bash", ["-c", `round=${round}; ${script}`, "bash", ...names]);
    },
  ]);
  const goal = reach === undefined ? {} : { atLeast: reach };
  report(
    `snapshot-group, ${disks} disks`,
    ours,
    "qemu-img create -b + sync -f, in a loop",
    theirs,
    theirs / ours,
    goal,
  );
}

/** Runs each job `rounds` times, one behind the other in turns; the medians in milliseconds. */
function inTurns(rounds, jobs) {
  const times = jobs.map(() => []);
  for (let round = 0; round < rounds; round += 1)
    for (const [index, job] of jobs.entries()) times[index].push(job());
  return times.map((each) => each.sort((a, b) => a - b)[Math.floor(each.length / 2)]);
}

function imgtx(workspace, ...args) {
  return run(
    workspace,
    process.execPath,
    [launcher, "--workspace", ".", ...args].filter(
      (arg, index, all) =>
        // init takes its folder from here, and --version needs none.
        !["init", "--version"].some((word) => all.includes(word)) || !(index === 1 || index === 2),
    ),
  );
}

/** Milliseconds that the program took. Throws when it fails: a failure is not fast. */
function run(cwd, program, args) {
  const start = performance.now();
  const { status, stderr } = spawnSync(program, args, { cwd, env, stdio: ["ignore", "ignore", "pipe"] });
  const milliseconds = performance.now() - start;
  if (status !== 0) throw new Error(`${program} ${args.join(" ")}: exit status ${status}\n${stderr}`);
  return milliseconds;
}

function report(what, ours, against, theirs, ratio, { atLeast, atMost }) {
  const reached = (atLeast === undefined || ratio >= atLeast) && (atMost === undefined || ratio <= atMost);
  if (!reached) missed += 1;
  const goal =
    atLeast !== undefined ? `at least ${atLeast}` : atMost !== undefined ? `at most ${atMost}` : "";
  rows.push([
    what,
    `${ours.toFixed(1)} ms`,
    against,
    `${theirs.toFixed(1)} ms`,
    ratio.toFixed(2),
    goal,
    reached ? "" : "NOT REACHED",
  ]);
}

function print() {
  const header = ["imgtx", "median", "against", "median", "ratio", "reach", ""];
  const widths = header.map((_, column) => Math.max(...[header, ...rows].map((row) => row[column].length)));
  for (const row of [header, ...rows]) {
    console.log(
      row
        .map((cell, column) => cell.padEnd(widths[column]))
        .join("  ")
        .trimEnd(),
    );
  }
}
