// Which real commands join a transaction: from a shell and all that it calls, through su, and from elsewhere.

import { execFile } from "node:child_process";
import { mkdtemp, realpath, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { expect, onTestFinished } from "vitest";
import { oracle } from "../helpers/oracles.ts";

const BIN = fileURLToPath(new URL("../../bin/imgtx.js", import.meta.url));
const IMGTX = `'${process.execPath}' '${BIN}'`;
const DRY_RUN = `${IMGTX} snapshot vda z.qcow2 --dry-run --json`;

/** What the last command of a line says of `pending`, where another line began the transaction before, in one shell. */
async function joins(begin: string, line: string): Promise<boolean> {
  const folder = await realpath(await mkdtemp(`${tmpdir()}/imgtx-origins-`));
  onTestFinished(async () => {
    await rm(folder, { recursive: true });
  });
  const script = `truncate -s 1M a.raw; ${IMGTX} device add vda a.raw --format raw -q; { ${begin}; } >/dev/null; ${line}`;
  const out = await new Promise<string>((resolve, reject) => {
    execFile("setsid", ["-w", "sh", "-ec", script], { cwd: folder }, (error, stdout, stderr) => {
      if (error) reject(new Error(`${line}\n${stderr}`));
      else resolve(stdout);
    });
  });
  return /"pending": true/.test(out);
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
