// blockdev-start-transaction and what follows: one imgtx transaction where the text ends it, an open one
// where it does not, and nothing at all where a command in it fails.

import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../../src/errors/index.ts";
import { makeInterrupts } from "../../../helpers/cli/harness.ts";
import { type Call, runQmp, STARTED } from "../../../helpers/cli/run-qmp.ts";

const START = { execute: "blockdev-start-transaction", id: "start" };
const COMMIT = { execute: "blockdev-commit-transaction", id: "commit" };
const ABORT = { execute: "blockdev-abort-transaction", id: "abort" };
const FREEZE = { execute: "blockdev-freeze", arguments: { device: "vda" } };
const MIRROR = { execute: "drive-mirror", arguments: { device: "vda", target: "/m" } };

/** What was called, with the transaction that it was for. */
function told(calls: readonly Call[]): string[] {
  return calls.map((call) => {
    if (call.kind === "run") {
      const kinds = call.requests.map(({ kind }) => kind).join("+");
      return `${kinds} in ${call.options.transaction ?? "any"}`;
    }
    if (call.kind === "begin") return call.owned ? "begin, owned" : "begin";
    return call.kind === "release" ? "release" : `${call.kind} ${call.transaction ?? "any"}`;
  });
}

const failRun = () => {
  throw new ImgtxError("E_LOCKED", "somebody has it", { device: "vda" });
};

describe("a start", () => {
  test("with its commit is one transaction, told once", async () => {
    const { status, calls, answers, stderr } = await runQmp([START, FREEZE, MIRROR, COMMIT, FREEZE]);
    expect(status).toBe(0);
    expect(told(calls)).toEqual([
      "begin, owned",
      `freeze in ${STARTED}`,
      `mirror in ${STARTED}`,
      `commit ${STARTED}`,
      "release",
      "freeze in any",
    ]);
    expect(answers.map(({ id }) => id)).toEqual(["start", undefined, undefined, "commit", undefined]);
    expect(stderr).toBe("Committed transaction 7f3k2m9qa1: generation 4.\nGeneration 4.\n");
  });

  test("with its abort undoes what stands between", async () => {
    const { status, calls, answers } = await runQmp([START, MIRROR, ABORT]);
    expect({ status, answers }).toEqual({
      status: 0,
      answers: [{ return: {}, id: "start" }, { return: {} }, { return: {}, id: "abort" }],
    });
    expect(told(calls)).toEqual(["begin, owned", `mirror in ${STARTED}`, `abort ${STARTED}`, "release"]);
  });

  test("without an end leaves the transaction open, as `txn begin` does, and says so", async () => {
    const { status, calls, answers, stderr } = await runQmp([START, MIRROR]);
    expect({ status, answers }).toEqual({
      status: 0,
      answers: [{ return: {}, id: "start" }, { return: {} }],
    });
    expect(told(calls)).toEqual(["begin", "release", `mirror in ${STARTED}`]);
    expect(stderr).toContain(`transaction ${STARTED} is open, since the batch does not end it`);
    expect(stderr).toContain(`imgtx txn commit --txn ${STARTED}`);
  });

  test.each([
    ["a commit", [START, MIRROR, FREEZE, COMMIT], [START.id, "x", "-", "-"], ["begin, owned"]],
    ["an abort", [START, MIRROR, ABORT, FREEZE], [START.id, "x", ABORT.id, "-"], ["begin, owned"]],
    ["no end", [START, MIRROR, FREEZE], [START.id, "x", "-"], ["begin", "release"]],
  ])("with %s is aborted when a command in it fails", async (_, batch, expected, begun) => {
    const { status, calls, answers } = await runQmp(batch, { onRun: failRun });
    expect(status).toBe(10);
    const short = answers.map((answer) => {
      if ("return" in answer) return answer["id"];
      return (answer["error"] as { desc: string }).desc.startsWith("not run") ? "-" : "x";
    });
    expect(short).toEqual(expected);
    const release = begun.length === 1 ? ["release"] : [];
    expect(told(calls)).toEqual([...begun, `mirror in ${STARTED}`, `abort ${STARTED}`, ...release]);
  });

  test.each([
    ["E_CHANGED", 14, [`abort ${STARTED}`]],
    // Committed and not finished: the next command's, and nothing to take back.
    ["E_UNFINISHED", 16, []],
  ] as const)("whose commit ends with %s ends with %i", async (code, expected, undone) => {
    const onCommit = () => {
      throw new ImgtxError(code, "the commit failed");
    };
    const { status, calls } = await runQmp([START, MIRROR, COMMIT], { onCommit });
    expect(status).toBe(expected);
    expect(told(calls).slice(3)).toEqual([...undone, "release"]);
  });

  test.each([
    // Recovery has to mend the journal first, which it does once nobody owns the transaction.
    ["E_BUSY", ["release", "abort"], 10, false],
    ["E_NO_TRANSACTION", ["release"], 10, false],
    ["E_IO", ["release"], 13, true],
  ] as const)("whose abort ends with %s says how it ended", async (code, then, expected, isTold) => {
    let aborts = 0;
    const onAbort = () => {
      aborts += 1;
      if (aborts === 1) throw new ImgtxError(code, "the abort failed");
    };
    const { status, calls, stderr } = await runQmp([START, MIRROR, COMMIT], { onRun: failRun, onAbort });
    expect(status).toBe(expected);
    expect(calls.slice(3).map(({ kind }) => kind)).toEqual(then);
    expect(stderr.includes("and then it could not be undone: the abort failed")).toBe(isTold);
  });

  test("is aborted by an interrupt", async () => {
    const interrupts = makeInterrupts();
    const onRun = () => {
      interrupts.send("SIGINT");
    };
    const { status, calls, answers } = await runQmp([START, MIRROR, FREEZE, COMMIT], {
      onRun,
      cli: { onInterrupt: interrupts.onInterrupt },
    });
    expect(status).toBe(130);
    expect(told(calls)).toEqual(["begin, owned", `mirror in ${STARTED}`, `abort ${STARTED}`, "release"]);
    expect(answers[2]).toEqual({ error: { class: "GenericError", desc: "interrupted; rolled back" } });
    expect(answers).toHaveLength(4);
  });
});

describe("an end without a start", () => {
  test.each([
    [COMMIT, "commit"],
    [ABORT, "abort"],
  ])("is about the transaction that is open: %j", async (command, kind) => {
    expect(told((await runQmp(command)).calls)).toEqual([`${kind} any`]);
    expect(told((await runQmp(command, { argv: ["--txn", "abc"] })).calls)).toEqual([`${kind} abc`]);
  });

  test("may come with a start after it", async () => {
    const { calls } = await runQmp([MIRROR, COMMIT, START, FREEZE, COMMIT], { argv: ["--txn", "abc"] });
    expect(told(calls)).toEqual([
      "mirror in abc",
      "commit abc",
      "begin, owned",
      `freeze in ${STARTED}`,
      `commit ${STARTED}`,
      "release",
    ]);
  });
});

test("a dry run begins nothing, and plans each command on top of those before it", async () => {
  const { status, calls, answers } = await runQmp(
    [FREEZE, START, MIRROR, ABORT, START, MIRROR, COMMIT, FREEZE],
    {
      argv: ["--dry-run"],
    },
  );
  expect({ status, answers: answers.length }).toEqual({ status: 0, answers: 8 });
  expect(told(calls)).toEqual([
    "freeze in any",
    "freeze+mirror in any",
    "freeze+mirror in any",
    "freeze+mirror+freeze in any",
  ]);
});
