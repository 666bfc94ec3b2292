// imgtx txn run FILE|-: batches of lines here, those of QMP in batch/qmp/.

import { ImgtxError, whileOpen } from "../../errors/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import type { Outcome } from "../../transaction/index.ts";
import type { BatchLine } from "../batch/lines.ts";
import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import {
  openSession,
  refuseOnce,
  runOptions,
  type Invocation,
  type OpenSession,
} from "../running/invocation.ts";
import { throwRot } from "../running/action.ts";
import { RATE_LIMIT } from "./rate-limit.ts";
import { OUTCOME } from "../running/outcomes.ts";

const LARGEST_BYTES = 16 * 1024 * 1024;

export const txnRun: PlainCommand = {
  kind: "plain",
  isOnce: true,
  definition: {
    arguments: [{ name: "FILE", about: "the batch; - reads it from stdin", completes: "file" }],
    options: [RATE_LIMIT],
    about:
      "Runs a batch of actions in one process and one transaction: all of them, or none. A batch is " +
      "imgtx lines (an action a line, quotes as in a shell, comments after #), or commands in the JSON of " +
      "QMP: transaction, each of its actions alone, and the commands that were proposed in 2012. Commands " +
      "of QMP are answered on stdout in QMP's words, a line each; imgtx-proposals(7) maps all of them.",
    examples: [
      {
        command: "printf 'snapshot vda a1.qcow2\\nreopen vdb new.qcow2\\n' | imgtx txn run -",
        about: "two actions, all or nothing",
      },
      { command: "imgtx txn run --dry-run changes.txt", about: "check a batch and print its plan" },
      { command: "imgtx txn run - < commands.json", about: "what a QMP client would send" },
    ],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const text = await readText(invocation);
    const isQmp = /^\s*[[{]/.test(text);
    if (isQmp) refuseOnce(invocation);
    if (isQmp) return (await import("../batch/qmp/run.ts")).runQmp(invocation, text);
    if (text.includes("\0")) {
      throw new ImgtxError("E_USAGE", "the batch is not text", { hint: "see `imgtx txn run --help`" });
    }
    const { commands, context } = invocation;
    const lines = await (await import("../batch/lines.ts")).readLines(text, commands, context.cwd);
    const [first] = lines;
    if (first === undefined) throw (await import("../batch/words.ts")).hasNoActions();
    // As its first action by itself would: a workspace is made by an action that runs, and by no plan.
    const { engine, session } = await openSession(invocation, { createHere: first.createsWorkspace });
    const outcome = await runLines(lines, invocation, { engine, session });
    invocation.report.done(outcome, OUTCOME);
    throwRot(outcome);
    return 0;
  },
};

/** An error of one of the lines says which. */
async function runLines(
  lines: readonly BatchLine[],
  invocation: Invocation,
  { engine, session }: OpenSession,
): Promise<Outcome> {
  let current: BatchLine | undefined;
  const onRequest = (index: number | undefined): void => {
    current = index === undefined ? undefined : lines[index];
  };
  try {
    const requests = lines.map(({ request }) => request);
    return await engine.runActions(session, requests, { ...runOptions(invocation, false), onRequest });
  } catch (error) {
    throw error instanceof ImgtxError && current ? error.with({ line: current.number }) : error;
  }
}

async function readText({ input, context }: Invocation): Promise<string> {
  if (input.argument("FILE") === "-") {
    const text = await context.stdin(LARGEST_BYTES);
    if (Buffer.byteLength(text) > LARGEST_BYTES) throw tooLarge();
    return text;
  }
  return await whileOpen(await openBatch(context, input.path("FILE")), async (file) => {
    const { sizeBytes } = await file.stat();
    if (sizeBytes > LARGEST_BYTES) throw tooLarge().with({ image: file.path });
    const bytes = new Uint8Array(sizeBytes);
    const length = await file.read(bytes, 0);
    return new TextDecoder().decode(bytes.subarray(0, length));
  });
}

/** A pipe, as a shell's `<(…)` is one, is read from stdin alone: opening it by name could wait for good. */
async function openBatch({ storage }: Invocation["context"], path: string): Promise<StorageFile> {
  try {
    return await storage.openFile(path, "read");
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_NOT_A_FILE") throw error;
    throw error.reworded(error.message, {
      hint: "name a regular file, or `-` to read the batch from stdin: `imgtx txn run - < BATCH`",
    });
  }
}

function tooLarge(): ImgtxError {
  return new ImgtxError("E_REFUSED", `a batch has at most ${LARGEST_BYTES} bytes`);
}
