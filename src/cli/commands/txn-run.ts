// imgtx txn run FILE|-

import { ImgtxError } from "../../errors/index.ts";
import type { ActionRequest } from "../../transaction/index.ts";
import type { PlainCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { openSession, runOptions, type Invocation } from "../invocation.ts";
import { OUTCOME } from "./action.ts";

const LARGEST_BYTES = 16 * 1024 * 1024;

export const txnRun: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [{ name: "FILE", about: "the batch; - reads it from stdin", completes: "file" }],
    options: [],
    about:
      "Runs a batch of actions in one process and one transaction: all of them, or none. A batch is " +
      "imgtx lines (an action a line, quotes as in a shell, comments behind #), or the JSON of QMP's " +
      "transaction command, with the actions blockdev-snapshot-sync and abort.",
    examples: [
      {
        command: "printf 'snapshot vda a1.qcow2\\nreopen vdb new.qcow2\\n' | imgtx txn run -",
        about: "two actions, all or nothing",
      },
      { command: "imgtx txn run --dry-run changes.txt", about: "check a batch and print its plan" },
    ],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const requests = await readBatch(invocation);
    if (requests.length === 0) {
      throw new ImgtxError("E_USAGE", "the batch has no actions", { hint: "see `imgtx txn run --help`" });
    }
    const { engine, session } = await openSession(invocation);
    const outcome = await engine.runActions(session, requests, runOptions(invocation, false));
    invocation.report.done(outcome, OUTCOME);
    return 0;
  },
};

async function readBatch(invocation: Invocation): Promise<ActionRequest[]> {
  const { cwd } = invocation.context;
  const text = await readText(invocation);
  if (text.includes("\0")) throw new ImgtxError("E_USAGE", "the batch is not text");
  if (/^\s*[[{]/.test(text)) return (await import("../batch/qmp.ts")).readQmp(text, cwd);
  return (await import("../batch/lines.ts")).readLines(text, cwd);
}

async function readText({ input, context }: Invocation): Promise<string> {
  if (input.argument("FILE") === "-") return context.stdin();
  const file = await context.storage.openFile(input.path("FILE"), "read");
  try {
    const { sizeBytes } = await file.stat();
    if (sizeBytes > LARGEST_BYTES) {
      throw new ImgtxError("E_REFUSED", `a batch has at most ${LARGEST_BYTES} bytes`, { image: file.path });
    }
    const bytes = new Uint8Array(sizeBytes);
    const length = await file.read(bytes, 0);
    return new TextDecoder().decode(bytes.subarray(0, length));
  } finally {
    await file.close();
  }
}
