// man/imgtx-nightly.7: its script is run as it stands, night after night, and the metrics that its rules ask for are those
// that it writes.

import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, symlinkSync, utimesSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { expect, test } from "vitest";
import { listSnapshots } from "../../src/transaction/index.ts";
import { oracle } from "../helpers/oracles.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";
import { makeWorkbench, type Workbench } from "../helpers/transaction/workbench.ts";

const TOP = fileURLToPath(new URL("../..", import.meta.url));
const PAGE = readFileSync(`${TOP}/man/imgtx-nightly.7`, "utf8");

/** The literal blocks of a section, as they read. */
function blocksOf(section: string): string[] {
  const part = PAGE.split(/^(?=\.Sh )/m).find((one) => one.startsWith(`.Sh ${section}\n`)) ?? "";
  return [...part.matchAll(/^\.Bd -literal.*\n([^]*?)^\.Ed$/gm)].map(([, lines = ""]) =>
    lines.replaceAll("\\e", "\\"),
  );
}

const [SCRIPT = "", GIVEN_OUT = ""] = blocksOf("THE SCRIPT");

/** Days with their snapshots, of years ago: of the three the one in the middle goes. */
async function withOldSnapshots(): Promise<Workbench> {
  const bench = await makeWorkbench();
  for (const hour of [1, 2, 3]) {
    const now = () => Date.parse(`2020-01-01T0${hour}:00:00Z`);
    const { host } = bench.storage;
    const then = bench.through({ ...bench.storage, host: { ...host, now } });
    await then.snapshot({}, { kind: "snapshot-group", targets: [], isOfAll: true, name: `old-${hour}` });
  }
  return bench;
}

test("the script takes a snapshot of all disks, prunes, looks, and leaves metrics; what cron runs besides works", async () => {
  const bench = await withOldSnapshots();
  const [metrics, bin] = [makeFolder(), makeFolder()];
  symlinkSync(`${TOP}/bin/imgtx.js`, `${bin}/imgtx`);
  writeFileSync(`${bin}/imgtx-nightly`, SCRIPT, { mode: 0o755 });
  // Each call is another night's: a name tells nights apart by seconds, and two may run within one.
  const nights = `${bin}/nights`;
  writeFileSync(
    `${bin}/date`,
    `#!/bin/sh\necho >> ${nights}\nexec /bin/date -d "+$(wc -l < ${nights}) days" "$@"\n`,
    { mode: 0o755 },
  );
  const run = (line: string): { status: number | null; printed: string } => {
    const env = { PATH: `${bin}:${process.env["PATH"] ?? ""}`, NO_COLOR: "1" };
    const { status, stdout, stderr } = spawnSync("bash", ["--norc", "-euo", "pipefail", "-c", line], {
      env,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "pipe"],
    });
    return { status, printed: stdout + stderr };
  };
  const nightly = () => run(`bash --norc -euo pipefail ${bin}/imgtx-nightly ${bench.root} ${metrics}`);
  const metricsNow = () => readFileSync(`${metrics}/imgtx.prom`, "utf8");

  expect(nightly()).toEqual({ status: 0, printed: "" });
  const names = (await listSnapshots(await bench.session(), {})).map(({ name }) => name);
  expect(names).toEqual([expect.stringMatching(/^nightly-/), "old-3", "old-1"]);
  expect(metricsNow()).toContain("imgtx_problems 0\n");
  expect(metricsNow()).toContain("imgtx_snapshots 3\n");
  expect(readdirSync(metrics)).toEqual(["imgtx.prom"]);

  // Each metric that the rules of the page name is written.
  const named = blocksOf("MONITORING")
    .flatMap((block) => [...block.matchAll(/imgtx_\w+/g)])
    .map(([name]) => name);
  expect(named.length).toBeGreaterThan(2);
  for (const name of named) expect(metricsNow()).toContain(`\n${name} `);

  const lines = (blocksOf("CRON")[0] ?? "").split("\n").flatMap((line) => line.split("  root  ")[1] ?? []);
  const commands = lines.map((line) => line.replaceAll("/srv/guests", bench.root));
  expect(commands).toEqual([`imgtx-nightly ${bench.root}`, expect.stringContaining("gc")]);
  expect(run(commands[1] ?? "false")).toEqual({ status: 0, printed: "" });

  // An image that a snapshot keeps is not what it was: the snapshot is taken, and monitoring is told.
  utimesSync(bench.at("c.qcow2"), new Date(), new Date("2001-01-01"));
  const { status, printed } = nightly();
  expect(status, printed).toBe(1);
  expect(printed).toContain("c.qcow2");
  expect(metricsNow()).not.toContain("imgtx_problems 0\n");
});

test("the page gives the script out as it reads, and without a folder for metrics it writes none", async () => {
  // The Debian package has its pages packed.
  const folder = makeFolder();
  const packed = `${folder}/imgtx-nightly.7.gz`;
  writeFileSync(packed, gzipSync(readFileSync(`${TOP}/man/imgtx-nightly.7`)));
  for (const page of [`${TOP}/man/imgtx-nightly.7`, packed]) {
    const line = GIVEN_OUT.replace("$(man -w imgtx-nightly)", page);
    const print = line.slice(0, line.lastIndexOf(" |\n"));
    const { stdout } = spawnSync("bash", ["-euo", "pipefail", "-c", print], { encoding: "utf8" });
    expect(stdout).toBe(SCRIPT);
  }

  const bench = await makeWorkbench();
  const bin = makeFolder();
  symlinkSync(`${TOP}/bin/imgtx.js`, `${bin}/imgtx`);
  const env = { PATH: `${bin}:${process.env["PATH"] ?? ""}`, NO_COLOR: "1" };
  const night = spawnSync("bash", ["--norc", "-s", bench.root], { input: SCRIPT, env, encoding: "utf8" });
  expect(night).toMatchObject({ status: 0, stdout: "", stderr: "" });
});

oracle("shellcheck").test("the script is clean to shellcheck", () => {
  const { stdout } = spawnSync("shellcheck", ["-s", "bash", "-"], { input: SCRIPT, encoding: "utf8" });
  expect(stdout).toBe("");
});
