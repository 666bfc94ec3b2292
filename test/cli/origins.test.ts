// Which real commands join a transaction: from a shell and all that it calls, through su, and from elsewhere; and who is
// said to have begun it.

import { execFile } from "node:child_process";
import { mkdtemp, realpath, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { expect, onTestFinished } from "vitest";
import { oracle } from "../helpers/oracles.ts";
import { PROGRAM, wordsToStart } from "../helpers/program.ts";

const IMGTX = wordsToStart(PROGRAM)
  .map((word) => `'${word}'`)
  .join(" ");
const DRY_RUN = `${IMGTX} snapshot vda z.qcow2 --dry-run --json`;

/** What the last command of a line says of `pending`, where another line began the transaction before, in one shell. */
async function joins(begin: string, line: string): Promise<boolean> {
  const device = `truncate -s 1M a.raw; ${IMGTX} device add vda a.raw --format raw -q`;
  const out = await runAlone(await makeFolder(), `${device}; { ${begin}; } >/dev/null; ${line}`);
  return /"pending": true/.test(out);
}

/** A folder of its own, away from any workspace. */
async function makeFolder(): Promise<string> {
  const folder = await realpath(await mkdtemp(`${tmpdir()}/imgtx-origins-`));
  onTestFinished(async () => {
    await rm(folder, { recursive: true });
  });
  return folder;
}

/** In a session of its own. Returns what it prints. */
async function runAlone(cwd: string, script: string): Promise<string> {
  return await new Promise((resolve, reject) => {
    execFile("setsid", ["-w", "sh", "-ec", script], { cwd }, (error, stdout, stderr) => {
      if (error) reject(new Error(`${script}\n${stderr}`));
      else resolve(stdout);
    });
  });
}

const shell = oracle("setsid", "script");

shell.test.each([
  ["the same shell", `${IMGTX} txn begin`, DRY_RUN],
  ["a shell in it", `sh -c "${IMGTX} txn begin; true"`, DRY_RUN],
  ["a subshell", `id=$(${IMGTX} txn begin)`, `(${DRY_RUN})`],
  ["a pipe", `${IMGTX} txn begin | cat`, `${DRY_RUN} | cat`],
  ["the background, without an environment", `${IMGTX} txn begin`, `env -i ${DRY_RUN} & wait $!`],
])("%s joins", async (_where, begin, line) => {
  expect(await joins(begin, line)).toBe(true);
});

shell.test.each([
  ["a session of its own, as a job of cron has", `${IMGTX} txn begin`, `setsid -w ${DRY_RUN}`],
  ["another terminal", `${IMGTX} txn begin`, `script -qec "${DRY_RUN}" /dev/null`],
  ["where a session of its own has ended", `setsid -w ${IMGTX} txn begin`, DRY_RUN],
  ["here, but told to keep out", `${IMGTX} txn begin`, `${DRY_RUN} --txn none`],
])("%s does not join", async (_where, begin, line) => {
  expect(await joins(begin, line)).toBe(false);
});

oracle("setsid", "su", "root").test("su joins, whose command has a session of its own", async () => {
  const byRoot = (line: string): string => `su root -c "${line}"`;
  expect(await joins(`${IMGTX} txn begin`, byRoot(DRY_RUN))).toBe(true);
  expect(await joins(byRoot(`${IMGTX} txn begin`), DRY_RUN)).toBe(true);
  expect(await joins(`${IMGTX} txn begin`, `setsid -w ${byRoot(DRY_RUN)}`)).toBe(false);
});

oracle("setsid", "unshare", "root", "mounts").test.each([
  ["the file of users has", "operator:x:0:0::/root:/bin/sh"],
  ["only the C library finds", "operator:x:000:0::/root:/bin/sh"],
])("a transaction is begun by the name that %s, whatever USER says", async (_where, entry) => {
  const folder = await makeFolder();
  await writeFile(`${folder}/users`, `${entry}\n`);
  const begin = `${IMGTX} init -q; ${IMGTX} txn begin --name night >/dev/null; ${IMGTX} txn show night`;
  const inside = `mount --bind users /etc/passwd; export USER=mallory; ${begin}`;
  const out = await runAlone(folder, `unshare --mount sh -ec "${inside}"`);
  expect(out).toContain(", begun by operator\n");
});
