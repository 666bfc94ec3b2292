// `txn run`: lines and QMP's JSON become requests, run together, and errors name their place.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { splitWords } from "../../src/cli/batch/words.ts";
import { recordingEngine, runCli } from "./harness.ts";

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
    ["snapshot vda x\nsnapshto vdb y", "line 2: unknown command 'snapshto'", "did you mean snapshot?"],
    ["\n\nsnapshot vda", "line 3: missing required argument 'FILE'", ""],
    ["snapshot vda x --reus", "line 1: unknown option '--reus'", "did you mean --reuse?"],
    ["snapshot vda x --workspace /w", "line 1: unknown option '--workspace'", ""],
    ["snapshot vda 'x", "line 1: a ' is not closed", ""],
    ["txn begin", "line 1: 'txn begin' is no action", "a batch takes device add, device remove, snapshot"],
    ["history", "line 1: 'history' is no action", ""],
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

describe("a batch of QMP", () => {
  const snapshot = {
    type: "blockdev-snapshot-sync",
    data: { device: "vda", "snapshot-file": "/x.qcow2", format: "qcow2" },
  };

  test.each([
    ["the whole command", { execute: "transaction", arguments: { actions: [snapshot] }, id: 1 }],
    ["its arguments", { actions: [snapshot], properties: { "completion-mode": "individual" } }],
    ["the bare list", [snapshot]],
  ])("may be %s", async (_what, json) => {
    const { status, requests } = await runBatch(` \n${JSON.stringify(json, null, 2)}`);
    expect(status).toBe(0);
    expect(requests).toEqual([
      {
        kind: "snapshot",
        targets: [{ device: "vda", file: "/x.qcow2", format: "qcow2" }],
        relative: false,
        reuse: false,
        overlay: {},
      },
    ]);
  });

  test("mode existing reuses, a node name is a device, and abort refuses", async () => {
    const { requests } = await runBatch(
      JSON.stringify([
        {
          type: "blockdev-snapshot-sync",
          data: { "node-name": "vdb", "snapshot-file": "y", mode: "existing" },
        },
        { type: "abort", data: {} },
      ]),
    );
    expect(requests).toMatchObject([
      { targets: [{ device: "vdb", file: "/srv/guests/y" }], reuse: true },
      { kind: "refuse" },
    ]);
  });

  test.each([
    [[{ type: "drive-backup", data: {} }], 12, "actions[0]: type 'drive-backup' is not supported"],
    [[snapshot, {}], 12, "actions[1]: type none is not supported"],
    [{ execute: "query-block" }, 12, "execute: 'query-block' is not supported"],
    [
      { actions: [], properties: { "completion-mode": "grouped" } },
      12,
      "completion-mode 'grouped' is not supported",
    ],
    [
      [{ ...snapshot, data: { ...snapshot.data, "snapshot-node-name": "n" } }],
      12,
      "actions[0].data: member 'snapshot-node-name' is not supported",
    ],
    [[{ ...snapshot, data: { device: "vda" } }], 64, "actions[0].data: snapshot-file is missing"],
    [[{ ...snapshot, data: { ...snapshot.data, device: 3 } }], 64, "device is not a string"],
    [[{ ...snapshot, data: { ...snapshot.data, "node-name": "n" } }], 64, "one of device and node-name"],
    [[{ ...snapshot, data: { ...snapshot.data, mode: "new" } }], 64, "mode 'new' is neither"],
    [[snapshot, "abort"], 64, "actions[1]: not an object"],
    [{ actions: {} }, 64, "actions: not a list"],
    [[], 64, "the batch has no actions"],
  ])("%j is refused with %i: %s", async (json, status, message) => {
    const result = await runBatch(JSON.stringify(json));
    expect(result).toMatchObject({ status, runs: 0 });
    expect(result.stderr).toContain(message);
  });

  test("broken JSON is a usage error", async () => {
    expect(await runBatch("[{]")).toMatchObject({ status: 64, runs: 0 });
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
});
