// `txn run`: lines become requests, run together, and errors name their place. QMP's JSON is in qmp/.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { splitWords } from "../../../src/cli/batch/words.ts";
import { ImgtxError } from "../../../src/errors/index.ts";
import type { RunOptions } from "../../../src/transaction/index.ts";
import { recordingEngine, runCli } from "../../helpers/cli/harness.ts";

async function runBatch(stdin: string) {
  const { engine, calls } = recordingEngine();
  const result = await runCli(["txn", "run", "-"], { engine, stdin });
  return { ...result, requests: calls.flatMap(({ requests }) => requests), runs: calls.length };
}

describe("a batch of lines", () => {
  test("is one run of all its actions", async () => {
    const { status, requests, runs } = await runBatch(
      [
        "# a comment, and an empty line",
        "",
        "snapshot vda 'with space.qcow2' --relative # another",
        "imgtx reopen vdb new.qcow2",
        "device add vdc c.raw --format raw",
        "snapshot-group vda=x vdb=y",
        "rollback --to 3",
        "refuse",
      ].join("\n"),
    );
    expect(status).toBe(0);
    expect(runs).toBe(1);
    expect(requests.map(({ kind }) => kind)).toEqual([
      "snapshot",
      "reopen",
      "device-add",
      "snapshot-group",
      "rollback",
      "refuse",
    ]);
    expect(requests[0]).toMatchObject({
      targets: [{ file: "/srv/guests/with space.qcow2" }],
      relative: true,
    });
  });

  test.each([
    [
      "snapshot vda x\nsnapshto vdb y",
      "line 2: unknown command 'snapshto' (snapshto vdb y); no line was run",
      "did you mean snapshot?",
    ],
    ["\n\nsnapshot", "line 3: missing required argument 'DEV'", ""],
    ["snapshot vda x --reus", "line 1: unknown option '--reus'", "did you mean --reuse?"],
    ["snapshot vda x --workspace /w", "line 1: unknown option '--workspace'", ""],
    ["snapshot vda 'x", "line 1: a ' is not closed", ""],
    ["txn begin", "line 1: 'txn begin' is no action", "a batch is one transaction, which is committed"],
    [
      "tree",
      "line 1: 'tree' is no action",
      "a batch takes device add, device remove, device rename, device trust, device provision, snapshot",
    ],
    ["history", "line 1: 'history' is no action", ""],
    ["img create -f raw x 1M", "line 1: 'img create' is no action", "a batch takes device add"],
    ["help", "line 1: 'help' is no action", ""],
    [`snapshot vda ${"x".repeat(99)} y`, "line 1: ", `(snapshot vda ${"x".repeat(67)}…); no line was run`],
    ["snapshot vda x --cluster-size=3", "line 1: cluster size", ""],
    ["# nothing", "the batch has no actions", ""],
    ["", "the batch has no actions", ""],
    ["QFI\u{FB}\0\0\0\u{3}", "the batch is not text", ""],
  ])("%j is refused: %s", async (text, message, hint) => {
    const { status, stderr, runs } = await runBatch(text);
    expect({ status, runs }).toEqual({ status: 64, runs: 0 });
    expect(stderr).toContain(message);
    expect(stderr).toContain(hint);
  });

  test.each([
    ["a  b\tc", ["a", "b", "c"]],
    ["'a b' \"c d\" e\\ f", ["a b", "c d", "e f"]],
    [`a'b'"c"`, ["abc"]],
    ["'' \"\"", ["", ""]],
    [`"\\"\\\\\\$\\n"`, ['"\\$\\n']],
    ["a#b #c", ["a#b"]],
    ["'$HOME' *", ["$HOME", "*"]],
    ["a\r", ["a"]],
  ])("the words of %j are %j", (line, words) => {
    expect(splitWords(line)).toEqual(words);
  });
});

describe("an action that fails in a batch", () => {
  const engine = {
    runActions: async (_session: unknown, _requests: unknown, { onRequest }: RunOptions) => {
      onRequest?.(1);
      throw new ImgtxError("E_NO_DEVICE", "no device is called 'vdx'", { device: "vdx" });
    },
  };
  const stdin = "snapshot vda x\n\n# the third line\nsnapshot vdx y\n";

  test("is told with its line", async () => {
    const { status, stderr } = await runCli(["txn", "run", "-"], { engine, stdin });
    expect(status).toBe(14);
    expect(stderr).toContain("error: vdx: no device is called 'vdx'\n  at: line 4 of the batch\n");
    const { stderr: json } = await runCli(["txn", "run", "-", "--json"], { engine, stdin });
    expect(JSON.parse(json)).toMatchObject({ error: { code: "E_NO_DEVICE", line: 4 } });
  });

  test("is told without one where all of them fail together, at the commit", async () => {
    const runActions = async (_session: unknown, _requests: unknown, { onRequest }: RunOptions) => {
      onRequest?.(0);
      onRequest?.(undefined);
      throw new ImgtxError("E_CHANGED", "the image was changed");
    };
    const { stderr } = await runCli(["txn", "run", "-"], { engine: { runActions }, stdin });
    expect(stderr).toContain("error: the image was changed\n  No disk");
  });
});

describe("a batch where there is no workspace", () => {
  test.each([
    ["device add vda a.qcow2\nsnapshot vda b.qcow2", true],
    ["snapshot vda b.qcow2\ndevice add vdb a.qcow2", false],
  ])("%j makes one: %s, as its first action by itself would", async (stdin, makes) => {
    const { engine } = recordingEngine();
    const asked: boolean[] = [];
    const openSession = async (_storage: unknown, { createHere }: { createHere: boolean }) => {
      asked.push(createHere);
      return { root: "/srv/guests", recovered: [] } as never;
    };
    await runCli(["txn", "run", "-"], { engine: { ...engine, openSession }, stdin });
    expect(asked).toEqual([makes]);
  });
});

describe("a batch in a file", () => {
  let folder = "";
  beforeAll(async () => {
    folder = await mkdtemp(`${tmpdir()}/imgtx-batch-`);
    await writeFile(`${folder}/batch.txt`, "snapshot vda ä.qcow2\n");
  });
  afterAll(async () => {
    await rm(folder, { recursive: true });
  });

  test("is read from the current folder", async () => {
    const { engine, calls } = recordingEngine();
    const { status } = await runCli(["txn", "run", "batch.txt"], { engine, cwd: folder });
    expect(status).toBe(0);
    expect(calls[0]?.requests[0]).toMatchObject({ targets: [{ file: `${folder}/ä.qcow2` }] });
  });

  test("that is not there is refused, and nothing runs", async () => {
    const { engine, calls } = recordingEngine();
    const { status, stderr } = await runCli(["txn", "run", "none.txt"], { engine, cwd: folder });
    expect(status).toBe(14);
    expect(stderr).toContain(`at: ${folder}/none.txt`);
    expect(calls).toEqual([]);
  });

  test.each(["", "{"])("that is larger than 16 MiB is refused, begun with %j", async (start) => {
    const text = start.padEnd(16 * 1024 * 1024 + 1, " ");
    await writeFile(`${folder}/large.txt`, text);
    for (const argv of [
      ["txn", "run", "large.txt"],
      ["txn", "run", "-"],
    ]) {
      const { status, stderr } = await runCli(argv, { engine: {}, cwd: folder, stdin: text });
      expect(status).toBe(14);
      expect(stderr).toContain("a batch has at most 16777216 bytes");
    }
  });
});
