// man/imgtx-cookbook.7: each job is done as it stands there, in a folder of its own.

import { readFileSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { runScript } from "../helpers/cli/scripts.ts";
import { shell } from "../helpers/cli/against-qemu.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const PAGE = readFileSync(fileURLToPath(new URL("../../man/imgtx-cookbook.7", import.meta.url)), "utf8");

function linesOf(part: string): string[] {
  return (/^\.Bd -literal.*\n([^]*?)^\.Ed$/m.exec(part)?.[1] ?? "").trimEnd().split("\n");
}

const [BEGINNING = "", ...JOBS] = PAGE.split(/^\.Ss /m);

test("the page has the jobs, and a beginning for all", () => {
  expect(JOBS.length).toBeGreaterThanOrEqual(20);
  expect(linesOf(BEGINNING)).toHaveLength(4);
});

test.each(JOBS.map((job) => [job.split("\n")[0] ?? "", job]))("%s", async (_, job) => {
  const cwd = makeFolder("on a disk");
  shell(cwd, "qemu-img create -q -f qcow2 stranger.qcow2 1M");
  writeFileSync(`${cwd}/vars.fd`, "variables");
  if (!job.includes("stranger")) shell(cwd, "rm stranger.qcow2");
  await runScript(cwd, [...linesOf(BEGINNING), ...linesOf(job)].join("; "));
});
