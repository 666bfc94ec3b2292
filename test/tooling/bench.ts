// Measures imgtx against qemu-img, both as whole processes in this one run, and prints the ratios.
//
// Machines are shared and noisy: only the ratio of two medians of one run says anything. Each pair is
// measured in turns, so that a slow minute hits both.

import { spawnSync } from "node:child_process";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { benchBackings } from "./bench-backings.ts";
import { benchDaily } from "./bench-daily.ts";
import { benchImages } from "./bench-images.ts";
import { benchInPlace } from "./bench-in-place.ts";
import { benchMemory } from "./bench-memory.ts";
import { benchMirrors } from "./bench-mirrors.ts";
import { benchScale } from "./bench-scale.ts";
import { type Bench, inTurns, Results, run, runImgtx } from "./bench-tools.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
// On a real disk: a tmpfs would make every flush free.
const scratch = mkdtempSync(`${process.env["IMGTX_BENCH_DIR"] ?? `${root}/node_modules`}/.bench-`);
const PARTS: readonly string[] = [
  "start",
  "daily",
  "images",
  "mirrors",
  "backings",
  "in-place",
  "memory",
  "scale",
];
const results = new Results();
const bench: Bench = { scratch, report: results.report };

try {
  const hasQemu = spawnSync("qemu-img", ["--version"]).status === 0;
  // `npm run bench -- mirrors` measures one of the parts.
  const [, , only] = process.argv;
  if (only !== undefined && !PARTS.includes(only)) {
    throw new Error(`there is no part '${only}' to be measured: one of ${PARTS.join(", ")}`);
  }
  const wants = (part: string) => only === undefined || only === part;
  if (wants("start")) benchStartUp(bench);
  if (hasQemu && wants("daily")) benchDaily(bench);
  if (hasQemu && wants("images")) benchImages(bench);
  if (hasQemu && wants("mirrors")) benchMirrors(bench);
  if (hasQemu && wants("backings")) benchBackings(bench);
  if (hasQemu && wants("in-place")) benchInPlace(bench);
  // Minutes, and gigabytes or a hundred thousand files: only where it is asked for.
  if (hasQemu && only === "memory") await benchMemory(bench);
  if (hasQemu && only === "scale") await benchScale(bench);
  if (!hasQemu) console.log("qemu-img is not here: all that is measured against it is left out");
  results.print();
} finally {
  rmSync(scratch, { recursive: true, force: true });
}

function benchStartUp({ report }: Bench): void {
  const empty = `${scratch}/empty.mjs`;
  writeFileSync(empty, "");
  const workspace = `${scratch}/start`;
  mkdirSync(workspace);
  runImgtx(workspace, "init");
  const [node, version, status] = inTurns(40, [
    () => run(workspace, process.execPath, [empty]),
    () => runImgtx(workspace, "--version"),
    () => runImgtx(workspace, "txn", "status"),
  ]);
  report("imgtx --version", version, "an empty node script", node, version / node, { atMost: 1.3 });
  report("imgtx txn status", status, "an empty node script", node, status / node, {});
}
