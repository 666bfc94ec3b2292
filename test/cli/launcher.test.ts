// The launcher and the bundle, as a process: built into a folder of its own, so that no other test's
// bundle is taken away.

import { execFile } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, realpath, rm, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { oracle } from "../helpers/oracles.ts";
import { SINGLE_FILE } from "../helpers/program.ts";

const TOP = fileURLToPath(new URL("../..", import.meta.url));

let folder = "";

beforeAll(async () => {
  folder = await mkdtemp(`${tmpdir()}/imgtx-launcher-`);
  for (const place of ["built", "bare"]) {
    await mkdir(`${folder}/${place}`);
    await cp(`${TOP}/bin`, `${folder}/${place}/bin`, { recursive: true });
    await cp(`${TOP}/package.json`, `${folder}/${place}/package.json`);
  }
  await symlink(`${TOP}/node_modules`, `${folder}/built/node_modules`);
  await runShell(`npm run --silent --prefix "${TOP}" build "${folder}/built/dist"`);
});

afterAll(async () => {
  await rm(folder, { recursive: true });
});

/** The words of the shell that start what is tested here. */
const program = (): string => SINGLE_FILE ?? `node "${folder}/built/bin/imgtx.js"`;
const QEMU_IMG = SINGLE_FILE === undefined ? `"${process.execPath}" ./qemu-img` : "./qemu-img";

/** Runs a line in bash, where `imgtx` is the built one and `bare` the one without a bundle. */
function runShell(line: string): Promise<{ status: number; stdout: string; stderr: string }> {
  const functions = [
    `imgtx() { ${program()} "$@"; }`,
    `bare() { node "${folder}/bare/bin/imgtx.js" "$@"; }`,
    "set -o pipefail",
  ].join("\n");
  return new Promise((resolve) => {
    execFile("bash", ["-c", `${functions}\n${line}`], { cwd: folder }, (error, stdout, stderr) => {
      resolve({ status: typeof error?.code === "number" ? error.code : 0, stdout, stderr });
    });
  });
}

/** Makes descriptor 3 a pipe whose reader has gone. */
const NOBODY_READS = "exec 3> >(true); wait $!";

describe("the launcher", () => {
  test("answers --version without a bundle", async () => {
    const { version } = JSON.parse(await readFile(`${TOP}/package.json`, "utf8")) as { version: string };
    const built = await runShell("imgtx --quiet --version");
    expect(built.stdout).toMatch(/^imgtx [\d.]+\n(Node|single file with Bun) [\d.]+, commit \w+(-dirty)?\n$/);
    for (const line of ["imgtx --version", "imgtx -V"]) expect(await runShell(line)).toEqual(built);
    for (const line of ["bare --version", "bare -V"]) {
      expect(await runShell(line)).toEqual({
        status: 0,
        stdout: `imgtx ${version}\nNode ${process.versions.node}, commit unknown\n`,
        stderr: "",
      });
    }
  });

  test("says how to build where that has not been done, and who can in a package without code", async () => {
    const packed = await runShell("bare device list");
    expect(packed).toMatchObject({ status: 1, stdout: "" });
    expect(packed.stderr).toMatch(
      /^error: this package of imgtx was packed without its code\n {2}hint: in a clone /,
    );

    await mkdir(`${folder}/bare/src`);
    const cloned = await runShell("bare device list");
    expect(cloned).toMatchObject({ status: 1, stdout: "" });
    expect(cloned.stderr).toBe(
      "error: imgtx has not been built\n  hint: run `npm ci && npm run build` in its folder\n",
    );
  });

  test("ends with the command's status, and prints all of its output", async () => {
    const help = await runShell("imgtx --help | cat");
    expect(help).toMatchObject({ status: 0, stderr: "" });
    expect(help.stdout).toMatch(/^imgtx changes disk images[^]*man imgtx[^]*\n$/);
    expect(await runShell("imgtx snapshto")).toMatchObject({ status: 64, stdout: "" });
  });

  test("is quiet when the reader goes away, and keeps its status", async () => {
    const unread = (command: string) => runShell(`${NOBODY_READS}; imgtx ${command}; echo "status $?"`);
    expect(await unread("--help >&3")).toEqual({ status: 0, stdout: "status 0\n", stderr: "" });
    expect(await unread("--version >&3")).toEqual({ status: 0, stdout: "status 0\n", stderr: "" });
    expect(await unread("snapshto >&3 2>&3")).toEqual({ status: 0, stdout: "status 64\n", stderr: "" });
  });

  test("does not end with 0 when its result can't be written", async () => {
    for (const command of ["--help", "--version"]) {
      const { status, stderr } = await runShell(`imgtx ${command} > /dev/full`);
      expect(status).toBe(1);
      expect(stderr).toMatch(
        /^error: the (result could not be written: No space left on device|version could not be written: ENOSPC.*)\n/,
      );
    }
    const { status, stderr } = await runShell(
      "truncate -s 1M full.raw && imgtx img info full.raw > /dev/full",
    );
    expect(status).toBe(1);
    expect(stderr).toMatch(/^error: the result could not be written: No space left on device/);
  });

  test("says what is done where its result can't be written, on a full disk or in a pipe that nobody reads", async () => {
    const begun = await runShell(
      "mkdir unwritten && cd unwritten && truncate -s 1M a.raw && imgtx device add vda a.raw --format raw -q &&" +
        " imgtx snapshot vda b.qcow2 > /dev/full",
    );
    expect(begun.status).toBe(1);
    expect(begun.stderr).toMatch(
      /^error: generation 2 is committed and durable, but the result could not be written: No space left on device/,
    );
    expect((await runShell("cd unwritten && readlink -f devices/vda")).stdout).toMatch(/b\.qcow2\n$/);
    for (const line of ["imgtx txn begin > /dev/full", `${NOBODY_READS}; imgtx txn begin >&3`]) {
      const { status, stderr } = await runShell(`cd unwritten && ${line}`);
      expect(status).toBe(1);
      expect(stderr).toMatch(
        /the id of the transaction could not be written: (No space left on device|Broken pipe); it is taken back\n/,
      );
      expect((await runShell("cd unwritten && imgtx txn list -q")).stdout).toBe("");
    }
  });

  test("tells what a restored table holds before what recovery makes of it", async () => {
    const { status, stdout } = await runShell(
      "mkdir lost && cd lost && truncate -s 1M a.raw b.raw && imgtx device add vda a.raw --format raw -q &&" +
        " imgtx device add vdb b.raw --format raw -q && rm .imgtx/table.json && imgtx init --restore . 2>&1",
    );
    expect(status).toBe(0);
    expect(stdout).toMatch(
      /^Put back generation 1 of [^]*\nimgtx: showed generation 1 in 'devices' again\n$/,
    );
  });

  test("leaves no transaction whose id went into a closed stdout, unless its name is known", async () => {
    const setUp = "mkdir -p closed && cd closed && imgtx init -q >/dev/null 2>&1";
    for (const line of [
      "imgtx txn begin >&-",
      "imgtx txn begin --json <&- >&-",
      "imgtx txn begin 1<>/dev/null",
    ]) {
      const { status, stderr } = await runShell(`${setUp}; ${line}`);
      expect(status, line).toBe(1);
      expect(stderr).toMatch(/could not be written: stdout is closed, or [^\n]*; it is taken back/);
      expect(stderr).toContain("imgtx txn begin --name NAME");
      expect((await runShell("cd closed && imgtx txn list -q")).stdout, line).toBe("");
    }
    for (const line of ["imgtx txn begin --name known >&-", "imgtx txn begin >/dev/null"]) {
      expect((await runShell(`${setUp}; ${line}`)).status, line).toBe(0);
      const left = await runShell("cd closed && imgtx txn list -q && imgtx txn abort -q");
      expect(left.stdout.trim().split("\n"), line).toHaveLength(1);
    }
  });
});

describe("linked under the name qemu-img", () => {
  const linked = (line: string) =>
    runShell(
      `mkdir -p linked; cd linked; ln -sfn "${SINGLE_FILE ?? `${folder}/built/bin/imgtx.js`}" qemu-img; ${line}`,
    );

  test("gives its version in the form that scripts read", async () => {
    const { version } = JSON.parse(await readFile(`${TOP}/package.json`, "utf8")) as { version: string };
    for (const option of ["--version", "-V"]) {
      expect(await linked(`${QEMU_IMG} ${option}`)).toEqual({
        status: 0,
        stdout: `qemu-img version 10.0.0 (imgtx ${version})\n`,
        stderr: "",
      });
    }
  });

  test("is imgtx img, in words and statuses", async () => {
    expect(await linked(`${QEMU_IMG} create -f qcow2 a.qcow2 1M && ${QEMU_IMG} frob`)).toEqual({
      status: 1,
      stdout:
        "Formatting 'a.qcow2', fmt=qcow2 cluster_size=65536 extended_l2=off compression_type=zlib " +
        "size=1048576 lazy_refcounts=off refcount_bits=16\n",
      stderr: "qemu-img: Command not found: frob\nTry 'qemu-img --help' for more info\n",
    });
    const help = await linked(`${QEMU_IMG} --help`);
    expect(help.stdout).toMatch(/^ {2}create - .*\n/m);
    expect(help.stdout).toMatch(/^Supported image formats:\n\n {2}qcow2 raw$/m);
  });

  test.each(["INT", "TERM"])("SIG%s takes away the target that it was making", async (name) => {
    const result = await linked(
      [
        "rm -rf out big; truncate -s 1G big; printf x | dd of=big bs=1 seek=500M conv=notrunc status=none",
        `set -m; ${QEMU_IMG} convert -S 0 -r 64k big out & pid=$!`,
        "until [ -s out ]; do sleep 0.02; done",
        `kill -${name} $pid; wait $pid; echo $?; ls`,
      ].join("\n"),
    );
    expect(result.stdout).toMatch(name === "INT" ? /^130\n/ : /^143\n/);
    expect(result.stdout).not.toContain("out");
  });

  test("answers SIGUSR1 with how far it is, and goes on", async () => {
    // At this rate it would take hours: it has not ended by itself when it is asked again.
    const result = await linked(
      [
        "rm -rf out big; truncate -s 24M big; : > answers",
        `set -m; ${QEMU_IMG} convert -S 0 -r 1k big out 2> answers & pid=$!`,
        "until [ -s out ]; do sleep 0.02; done",
        'for n in 1 2; do kill -USR1 $pid; until [ "$(wc -l < answers)" -ge $n ]; do sleep 0.02; done; done',
        "kill -INT $pid; wait $pid; echo $?; cat answers",
      ].join("\n"),
    );
    expect(result.stdout).toMatch(
      /^130\n {4}\(\d+\.\d\d\/100%\)\n {4}\(\d+\.\d\d\/100%\)\nqemu-img: interrupted\n$/,
    );
  });
});

describe("on a terminal", () => {
  const pty = oracle("script");
  /**
   * What a terminal shows of a command, to whose question this is typed, and its status. Nothing stands between: a
   * shell there may die of the Ctrl-C that its command has outlived. The input stays open until the end: script would type an
   * end of input of its own behind a Ctrl-C, which may be read before that arrives.
   */
  const onTerminal = (command: string, typed: string) =>
    runShell(
      [
        "cd asked; rm -f shown ended",
        `{ until grep -q 'Go on' shown; do sleep 0.02; done 2> /dev/null; printf '${typed}'`,
        "until [ -e ended ]; do sleep 0.02; done; } |",
        `{ SHELL=/bin/sh script -qfec 'exec ${command}' shown; status=$?; touch ended; exit $status; }`,
        `exit "\${PIPESTATUS[1]}"`,
      ].join("\n"),
    );

  pty.test.each([
    ["yes", "y\\n", 11, /Go on\? \[y\/N\] [^]*no transaction '7f3k2m9qa1' waits/],
    ["no", "\\n", 14, /Go on\? \[y\/N\] [^]*the answer was not yes/],
    ["the end of the input", "\\004", 14, /Go on\? \[y\/N\] [^]*the answer was not yes/],
    ["Ctrl-C", "\\003", 130, /Go on\? \[y\/N\] [\^C\r\n]*\S*error:\S* interrupted; nothing was done\r\n/],
  ])("a question ends with %s", async (_what, input, status, shown) => {
    await runShell("mkdir -p asked && imgtx init asked -q");
    const command = `${program()} recover --give-up 7f3k2m9qa1`;
    const result = await onTerminal(command, input);
    expect(result.stdout).toMatch(shown);
    expect(result.status).toBe(status);
  });
});

oracle("script").test("a wait is drawn on a terminal, and ends with Ctrl-C", async () => {
  // At this rate the first command would take hours.
  const result = await runShell(
    [
      "mkdir waits; cd waits; head -c 16M /dev/zero | tr '\\0' x > w.raw; imgtx device add w w.raw --format raw -q",
      `set -m; ${program()} mirror w one.raw --rate-limit 1k 2> told & pid=$!`,
      'until [ -n "$(imgtx txn list -q)" ]; do sleep 0.02; done',
      "{ until grep -q waiting shown; do sleep 0.02; done 2> /dev/null; printf '\\003'; } |",
      `env -u CI TERM=xterm SHELL=/bin/sh script -qfec 'stty cols 80; exec ${program()} snapshot w --wait' shown`,
      'echo "${PIPESTATUS[1]}"; kill -INT $pid; wait $pid; echo $?',
    ].join("\n"),
  );
  expect(result.stdout).toMatch(/waiting: another imgtx command[^]*interrupted; rolled back[^]*130\n130\n$/);
});

describe("a batch as a process", () => {
  test.each(["snapshto vda x", "tree", "device list", "txn commit", "img create -f raw x 1M", "help"])(
    "with '%s' in it is a usage error, whose line is named",
    async (line) => {
      const { status, stderr } = await runShell(`printf '%s\\n' '# one' '${line}' | imgtx txn run -`);
      expect(status).toBe(64);
      expect(stderr).toContain("error: line 2: ");
      expect(stderr).toContain(`(${line}); no line was run`);
    },
  );

  test("that adds a device where there is no workspace makes one, as device add does", async () => {
    const lines = "printf '%s\\n' 'device add vda a.raw --format raw' 'snapshot vda b.qcow2'";
    const batch = await runShell(
      `mkdir fresh && cd fresh && truncate -s 1M a.raw && ${lines} | imgtx txn run - && imgtx device list -q`,
    );
    expect(batch).toMatchObject({ status: 0, stderr: "" });
    expect(batch.stdout).toMatch(/Generation 1, snapshot 1: .*\nvda\n$/);
  });
});

test("the bundle measures wide names as a terminal shows them", async () => {
  const add = "truncate -s 1M 日本.raw && imgtx device add vda 日本.raw --format raw -q";
  const { status, stdout } = await runShell(
    `mkdir wide && cd wide && ${add} && imgtx snapshot vda over.qcow2`,
  );
  expect(status).toBe(0);
  expect(stdout).toMatch(/over\.qcow2 {2}qcow2, active layer\n.*日本\.raw {4}raw, base\n/);
});

describe("txn exec as a process", () => {
  beforeAll(async () => {
    await mkdir(`${folder}/disks`);
    await writeFile(`${folder}/disks/a.raw`, Buffer.alloc(65536));
    const { status, stderr } = await runShell("cd disks; imgtx device add vda a.raw --format raw");
    expect({ status, stderr }).toEqual({ status: 0, stderr: "" });
  });

  /** `$IMGTX` in a script is the launcher. */
  const exec = (script: string) =>
    runShell(`cd disks; export IMGTX='${program()}'; imgtx txn exec -q -- sh -c '${script}'`);

  test("commits what a script did that ended with 0", async () => {
    const result = await exec("eval $IMGTX snapshot vda one.qcow2 -q && echo $IMGTX_WORKSPACE");
    expect(result).toEqual({ status: 0, stdout: `${await realpath(folder)}/disks\n`, stderr: "" });
    const { stdout } = await runShell("cd disks; imgtx device show vda --json | grep -c one.qcow2");
    expect(stdout).toBe("2\n");
  });

  test.each([
    ["exit 7", 7],
    ["kill -TERM $$", 143],
    ["exec no-such-program-here", 127],
  ])("undoes what a script did that ended with `%s`", async (end, status) => {
    const result = await exec(`eval $IMGTX snapshot vda two.qcow2 -q && ${end}`);
    expect(result.status).toBe(status);
    expect(await readdir(`${folder}/disks`)).toEqual([".imgtx", "a.raw", "devices", "one.qcow2"]);
  });

  test.each([
    ["no-such-program-here", 127, "no program 'no-such-program-here' was found"],
    ["./a.raw", 126, "'./a.raw' can't be executed"],
    ["./a.raw/x", 126, "'./a.raw/x' can't be executed: Not a directory"],
    ["''", 127, "no program '' was found"],
  ])("says why the program %s could not be run, and ends with %i", async (program, status, reason) => {
    const asText = await runShell(`cd disks; imgtx txn exec -- ${program}`);
    const message = `the command could not be run: ${reason}`;
    expect(asText).toEqual({ status, stdout: "", stderr: `error: ${message}\n  No disk was changed.\n` });
    const asJson = await runShell(`cd disks; imgtx txn exec --json -- ${program}`);
    expect({ ...asJson, stderr: JSON.parse(asJson.stderr) as unknown }).toMatchObject({
      status,
      stdout: "",
      stderr: { schema: 1, error: { code: "E_COMMAND_FAILED", message, changed: false } },
    });
  });

  test("says so when the current folder has been removed", async () => {
    const { status, stderr } = await runShell("mkdir gone; cd gone; rmdir ../gone; imgtx device list");
    // The single file's runtime says so by itself, before it loads anything.
    expect(status).toBe(SINGLE_FILE === undefined ? 14 : 1);
    expect(stderr).toMatch(/^error: (the current folder is not there any more|.*\bdirectory\b.*)\n/);
  });

  test("passes SIGTERM on, undoes, and ends with the command's status", async () => {
    const result = await runShell(
      [
        "cd disks",
        `${program()} txn exec -q -- sh -c 'echo ready; exec sleep 600' > ready & pid=$!`,
        "until grep -qs ready ready; do sleep 0.05; done; rm ready",
        "kill -TERM $pid; wait $pid; echo $?; imgtx txn list -q",
      ].join("\n"),
    );
    expect(result.stdout).toBe("143\n");
    expect(result.stderr).toContain("imgtx: terminated: rolling back, unless it is committed already\n");
  });

  test("ends hooks with all that they started, and tells after a kill that the last one was not run", async () => {
    const result = await runShell(
      [
        "mkdir hooked; cd hooked; imgtx img create -q -f qcow2 a.qcow2 1M; imgtx device add -q vda a.qcow2",
        `take() { ${program()} snapshot-group -q vda=a1.qcow2 --before 'sleep 600 & echo $! > ready; wait' --after 'touch thawed' & pid=$!; until [ -s ready ]; do sleep 0.05; done; sleeper=$(cat ready); rm ready; }`,
        "take; kill -TERM $pid; wait $pid; echo $?; ls; while grep -qs State:.S /proc/$sleeper/status; do sleep 0.05; done; echo ended",
        "rm thawed; take; kill -KILL $pid; wait $pid; kill $sleeper; ls; imgtx device list -q; imgtx recover -q; imgtx device list -q",
      ].join("\n"),
    );
    expect(result.stdout).toBe("143\na.qcow2\ndevices\nthawed\nended\na.qcow2\ndevices\nvda\nvda\n");
    const told = result.stderr.split("\n").filter((line) => line.startsWith("imgtx: the group snapshot"));
    expect(told).toHaveLength(2);
    expect(told[0]).toMatch(
      /a guest may still be frozen: run `sh -c 'touch thawed'`; then `imgtx recover` forgets it$/,
    );
    expect(told[1]).toMatch(/this is not told again$/);
  });

  test("says on SIGUSR1 what it is at, and opens no debugger", async () => {
    const result = await runShell(
      [
        "cd disks",
        `${program()} txn exec -q -- sh -c 'echo ready; until [ -e go ]; do sleep 0.05; done' > ready 2> answer & pid=$!`,
        "until grep -qs ready ready; do sleep 0.05; done; rm ready",
        "kill -USR1 $pid; until [ -s answer ]; do sleep 0.05; done; touch go; wait $pid; echo $?; cat answer >&2",
      ].join("\n"),
    );
    expect(result.stdout).toBe("0\n");
    expect(result.stderr).toMatch(/^imgtx: at work for \d+ s on: txn exec -q -- sh -c .*\n$/);
  });
});
