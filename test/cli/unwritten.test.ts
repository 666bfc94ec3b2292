// Results that can't be written: what was done is told all the same, and a transaction is never left open that
// nobody was told of.

import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../src/errors/index.ts";
import type { Outcome } from "../../src/transaction/index.ts";
import { makeOutcome, makeTransaction, runCli } from "../helpers/cli/harness.ts";

const FULL = { reason: "No space left on device", readerGone: false };
const GONE = { reason: "EPIPE: broken pipe, write", readerGone: true };

async function runAction(outcome: Partial<Outcome>, argv: readonly string[] = ["rollback"]) {
  const engine = { runActions: async () => makeOutcome(outcome) };
  return await runCli(argv, { engine, writeFailure: FULL });
}

describe("a result that can't be written", () => {
  test.each<[string, Partial<Outcome>, string]>([
    [
      "of a commit",
      {},
      "generation 4 is committed and durable, but the result could not be written: No space left on device",
    ],
    ["of a part", { pending: true }, "it is prepared in transaction 7f3k2m9qa1, but the result could"],
    ["of a dry run", { dryRun: true }, "the result could not be written: No space left on device"],
    [
      "of nothing that was changed",
      { changed: false },
      "the result could not be written: No space left on device",
    ],
  ])("%s ends with 1, and what stands is told", async (_what, outcome, message) => {
    const { status, stderr } = await runAction(outcome);
    expect(status).toBe(1);
    expect(stderr.startsWith(`error: ${message}`)).toBe(true);
  });

  test("is an error in JSON where that was asked for", async () => {
    const { stderr } = await runAction({}, ["rollback", "--json"]);
    expect(JSON.parse(stderr)).toMatchObject({ error: { code: "E_FAILED", changed: true } });
  });

  test("leaves a status that says more as it is", async () => {
    const { status, stderr } = await runCli(["rollback"], {
      engine: {
        runActions: async () => {
          throw new ImgtxError("E_EXISTS", "the target exists already");
        },
      },
      writeFailure: FULL,
    });
    expect(status).toBe(14);
    expect(stderr).toContain("the target exists already");
  });

  test("is no error where its reader went away", async () => {
    const engine = { runActions: async () => makeOutcome({}) };
    expect(await runCli(["rollback"], { engine, writeFailure: GONE })).toMatchObject({
      status: 0,
      stderr: "",
    });
  });
});

describe("txn begin whose id can't be written", () => {
  function makeBegin(abort: () => Outcome) {
    const aborted: (string | undefined)[] = [];
    return {
      aborted,
      engine: {
        beginTransaction: async () => ({ description: makeTransaction({}), release: async () => undefined }),
        abortTransaction: async (_session: unknown, id: string | undefined) => {
          aborted.push(id);
          return abort();
        },
      },
    };
  }

  test.each([FULL, GONE])("takes the transaction back: $reason", async (writeFailure) => {
    const { aborted, engine } = makeBegin(() => makeOutcome({}));
    const { status, stderr } = await runCli(["txn", "begin"], { engine, writeFailure });
    expect({ status, aborted }).toEqual({ status: 1, aborted: ["7f3k2m9qa1"] });
    expect(stderr).toContain(`could not be written: ${writeFailure.reason}; it is taken back\n`);
    expect(stderr).toContain("No disk was changed.");
  });

  test("names it, and how to abort it, where it can't be taken back", async () => {
    const { engine } = makeBegin(() => {
      throw new ImgtxError("E_IO", "the disk failed");
    });
    const { status, stderr } = await runCli(["txn", "begin"], { engine, writeFailure: FULL });
    expect(status).toBe(1);
    expect(stderr).toContain("and it could not be taken back: the disk failed");
    expect(stderr).toContain("hint: `imgtx txn abort 7f3k2m9qa1` takes it back");
  });
});
