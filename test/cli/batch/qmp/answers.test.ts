// The forms that a batch of QMP comes in, and its answers: one line a command, errors in QMP's classes, and
// the exit status of every other command.

import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { describe, expect, onTestFinished, test } from "vitest";
import { ImgtxError } from "../../../../src/errors/index.ts";
import { runCli } from "../../../helpers/cli/harness.ts";
import { runQmp } from "../../../helpers/cli/run-qmp.ts";

const SNAPSHOT = {
  type: "blockdev-snapshot-sync",
  data: { device: "vda", "snapshot-file": "/x.qcow2", format: "qcow2" },
};
const REQUEST = {
  kind: "snapshot",
  targets: [{ device: "vda", file: "/x.qcow2", format: "qcow2" }],
  relative: false,
  reuse: false,
  overlay: {},
};
const REOPEN = { execute: "drive-reopen", arguments: { device: "vdb", source: "/y" } };
const DONE = { return: {} };
const GENERIC = expect.stringMatching("^GenericError$") as unknown;

function failed(desc: string, id?: unknown): object {
  const error = { class: GENERIC, desc: expect.stringContaining(desc) as unknown };
  return id === undefined ? { error } : { error, id };
}

describe("a batch", () => {
  test.each([
    ["the whole command", { execute: "transaction", arguments: { actions: [SNAPSHOT] }, id: 1 }],
    ["its arguments", { actions: [SNAPSHOT], properties: { "completion-mode": "individual" } }],
    ["its arguments, all grouped", { actions: [SNAPSHOT], properties: { "completion-mode": "grouped" } }],
    ["the bare list", [SNAPSHOT]],
    ["a list of one command", [{ execute: "blockdev-snapshot-sync", arguments: SNAPSHOT.data }]],
    [
      "the group snapshot of 2012",
      { execute: "blkdev-group-snapshot-sync", arguments: { devlist: [SNAPSHOT.data] } },
    ],
    ["the same with its list alone", { execute: "blockdev-group-snapshot-sync", arguments: [SNAPSHOT.data] }],
  ])("may be %s", async (_what, json) => {
    const { status, requests, calls } = await runQmp(` \n${JSON.stringify(json, null, 2)}`);
    expect({ status, calls: calls.length }).toEqual({ status: 0, calls: 1 });
    const kind = _what.includes("2012") || _what.startsWith("the same") ? "snapshot-group" : "snapshot";
    expect(requests).toEqual([{ ...REQUEST, kind }]);
  });

  test.each([
    ["one after another", (commands: object[]) => commands.map((each) => JSON.stringify(each)).join("\n")],
    ["in a list", (commands: object[]) => JSON.stringify(commands)],
  ])("of commands %s is run one by one, and each is answered", async (_, join) => {
    const batch = join([
      { execute: "qmp_capabilities", arguments: { enable: [] }, id: "hello" },
      { execute: "transaction", arguments: { actions: [SNAPSHOT] }, id: { a: [1, null] } },
      REOPEN,
    ]);
    const { status, calls, answers } = await runQmp(batch);
    expect(status).toBe(0);
    expect(calls.map((call) => (call.kind === "run" ? call.requests.map(({ kind }) => kind) : []))).toEqual([
      ["snapshot"],
      ["reopen"],
    ]);
    expect(answers).toEqual([{ ...DONE, id: "hello" }, { ...DONE, id: { a: [1, null] } }, DONE]);
  });

  test("may be in a file", async () => {
    const folder = await mkdtemp(`${tmpdir()}/imgtx-qmp-`);
    onTestFinished(async () => await rm(folder, { recursive: true }));
    await writeFile(`${folder}/batch.json`, JSON.stringify([SNAPSHOT]));
    const engine = { runActions: () => Promise.reject(new ImgtxError("E_LOCKED", "somebody has it")) };
    const { status, stdout } = await runCli(["txn", "run", `${folder}/batch.json`], { engine });
    expect(status).toBe(10);
    expect(stdout).toBe('{"error": {"class": "GenericError", "desc": "somebody has it"}}\n');
  });
});

describe("an answer", () => {
  test("is one line, as QEMU prints it, with the id as it came", async () => {
    const id = '{"n": 12345678901234567890, "t": "\\u001b[1m"}';
    const { stdout } = await runQmp(`{"id": ${id}, "execute": "qmp_capabilities"}`);
    expect(stdout).toBe(`{"return": {}, "id": ${id}}\n`);
  });

  test.each([
    [new ImgtxError("E_NO_DEVICE", "there is no device 'vdx'", { device: "vdx" }), "DeviceNotFound", 14],
    [new ImgtxError("E_EXISTS", "the target exists already", { image: "/x" }), "GenericError", 14],
    [new ImgtxError("E_LOCKED", "it is in use"), "GenericError", 10],
    [new ImgtxError("E_UNFINISHED", "committed, but not finished"), "GenericError", 16],
    [new TypeError("x is not a function"), "GenericError", 1],
  ])("of a failure has a class and what happened: %s", async (error, qmpClass, status) => {
    const onRun = () => {
      throw error;
    };
    const result = await runQmp(
      { execute: "transaction", arguments: { actions: [SNAPSHOT] }, id: 7 },
      { onRun },
    );
    expect(result.status).toBe(status);
    expect(result.answers).toEqual([
      { error: { class: qmpClass, desc: expect.stringContaining(error.message) }, id: 7 },
    ]);
    expect(result.stderr).toContain(error.message);
  });

  test("names the device, and the file where the message does not", async () => {
    const onRun = () => {
      throw new ImgtxError("E_EXISTS", "the target exists already", { device: "vdb", image: "/x.qcow2" });
    };
    const { answers } = await runQmp([SNAPSHOT], { onRun });
    expect(answers).toEqual([failed("vdb: the target exists already (/x.qcow2)")]);
  });

  test("is all there is on stdout; what was done is on stderr, in the form that was asked for", async () => {
    const human = await runQmp([SNAPSHOT]);
    expect({ stdout: human.stdout, stderr: human.stderr }).toEqual({
      stdout: '{"return": {}}\n',
      stderr: "Generation 4.\n",
    });
    const json = await runQmp([SNAPSHOT], { argv: ["--output", "json"] });
    expect(json.stdout).toBe('{"return": {}}\n');
    expect(JSON.parse(json.stderr)).toMatchObject({ schema: 1, changed: true, generation: 4 });
    expect(json.stderr.trimEnd()).not.toContain("\n");
    const quiet = await runQmp([SNAPSHOT], { argv: ["--quiet"] });
    expect({ stdout: quiet.stdout, stderr: quiet.stderr }).toEqual({
      stdout: '{"return": {}}\n',
      stderr: "",
    });
  });

  test("of a failure comes with the error object of every command under --json", async () => {
    const { stderr, answers } = await runQmp([{ type: "nothing" }], { argv: ["--json"] });
    expect(JSON.parse(stderr)).toMatchObject({ schema: 1, error: { code: "E_UNSUPPORTED", changed: false } });
    expect(answers).toEqual([failed("actions[0]: type 'nothing'")]);
  });
});

describe("nothing runs, and every command is answered, where", () => {
  test.each([
    ["the JSON is broken", '{"execute": "transaction",', 64, ["the batch is not JSON: line 1, column 27"]],
    ["a second text is broken", `${JSON.stringify(REOPEN)} {`, 64, ["the batch is not JSON"]],
    ["there are no actions", "[]", 64, ["the batch has no actions"]],
    ["a transaction has none", { actions: [] }, 64, ["actions: is empty: the batch has no actions"]],
    ["the actions are no list", { actions: {} }, 64, ["actions: is not a list"]],
    ["there is nothing to do", {}, 64, ["actions: is missing"]],
    ["an action is no object", [SNAPSHOT, "abort"], 64, ["actions[1]: is not an object"]],
    ["an action has no type", [SNAPSHOT, {}], 64, ["actions[1].type: is missing"]],
    ["an action has a member more", [{ ...SNAPSHOT, x: 1 }], 12, ["actions[0]: member 'x' is not supported"]],
    ["abort has data", [{ type: "abort", data: { x: 1 } }], 12, ["actions[0].data: member 'x'"]],
    [
      "a property is not known",
      { actions: [SNAPSHOT], properties: { a: 1 } },
      12,
      ["properties: member 'a'"],
    ],
    [
      "a completion mode is not known",
      { actions: [SNAPSHOT], properties: { "completion-mode": "x" } },
      64,
      ["properties.completion-mode: 'x' is none of individual, grouped"],
    ],
    ["the arguments have a member more", { actions: [SNAPSHOT], x: 1 }, 12, ["the batch: member 'x'"]],
    ["the command has one", { ...REOPEN, x: 1 }, 12, ["the batch: member 'x'"]],
    ["the command is out of band", { "exec-oob": "transaction" }, 64, ["execute: is missing"]],
    ["arguments are no object", { execute: "transaction", arguments: [] }, 64, ["is not an object"]],
    [
      "the second of three commands is refused",
      [{ ...REOPEN, id: 1 }, { execute: "drive-reopen", id: 2 }, REOPEN],
      64,
      ["not run: commands[1] is refused", "commands[1].arguments.device: is missing", "not run: commands[1]"],
    ],
    [
      "an action stands between commands",
      [REOPEN, SNAPSHOT],
      64,
      ["not run: commands[1] is refused", "commands[1].execute: is missing"],
    ],
    [
      "a value is no command",
      '{"execute": "qmp_capabilities"} 7',
      64,
      ["not run", "commands[1]: is not an object"],
    ],
    [
      "a transaction is started twice",
      [{ execute: "blockdev-start-transaction" }, { execute: "blockdev-start-transaction" }],
      64,
      ["not run", "commands[1].execute: a transaction is started already"],
    ],
    [
      "a start has arguments",
      { execute: "blockdev-start-transaction", arguments: { x: 1 } },
      12,
      ["arguments: member 'x'"],
    ],
    [
      "a capability is asked for",
      { execute: "qmp_capabilities", arguments: { enable: ["oob"] } },
      12,
      ["arguments.enable: imgtx has none"],
    ],
  ])("%s", async (_, batch, status, says) => {
    const result = await runQmp(batch);
    expect({ status: result.status, calls: result.calls }).toEqual({ status, calls: [] });
    expect(result.answers).toMatchObject(
      says.map((text) => ({ error: { class: "GenericError", desc: expect.stringContaining(text) } })),
    );
  });

  test.each([
    [{ execute: "query-block", id: 1 }, "execute: 'query-block' is not supported"],
    [{ execute: "abort", id: 1 }, "execute: 'abort' is not supported"],
    [{ execute: "constructor", id: 1 }, "execute: 'constructor' is not supported"],
  ])("a command is not known: %j", async (batch, says) => {
    const { status, answers, calls } = await runQmp(batch);
    expect({ status, calls }).toEqual({ status: 12, calls: [] });
    expect(answers).toEqual([
      { error: { class: "CommandNotFound", desc: expect.stringContaining(says) }, id: 1 },
    ]);
  });

  test("the negotiation comes late", async () => {
    const { status, answers } = await runQmp([REOPEN, { execute: "qmp_capabilities" }]);
    expect(status).toBe(12);
    expect(answers[1]).toEqual({
      error: { class: "CommandNotFound", desc: expect.stringContaining("only the first command may be") },
    });
  });
});

test("a command that fails is the last one that runs", async () => {
  const onRun = (requests: readonly { kind: string }[]) => {
    if (requests[0]?.kind === "reopen")
      throw new ImgtxError("E_CHANGED", "it has changed", { device: "vdb" });
  };
  const { status, answers, calls, stderr } = await runQmp(
    [{ execute: "transaction", arguments: { actions: [SNAPSHOT] } }, REOPEN, REOPEN],
    {
      onRun,
    },
  );
  expect({ status, calls: calls.length }).toEqual({ status: 14, calls: 2 });
  expect(answers).toEqual([
    DONE,
    failed("vdb: it has changed"),
    failed("not run: a command before it failed"),
  ]);
  expect(stderr).toContain("error: vdb: commands[1]: it has changed");
});
