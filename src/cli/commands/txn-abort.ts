// imgtx txn abort

import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { openSession, runOptions } from "../running/invocation.ts";
import { confirm } from "./confirm.ts";
import { ABORTED } from "../running/outcomes.ts";
import { readTransactionId, requireId, TRANSACTION_ID } from "./pick-transaction.ts";

export const txnAbort: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [TRANSACTION_ID],
    options: [
      {
        long: "force",
        about: "of one that could not be undone wholly: undo what can be, and leave the rest as it is",
      },
    ],
    about:
      "Undoes a transaction: files that it made are removed, and files that were there before are as they " +
      "were. One that waits, because an image of it is lost or was changed by others, is ended by --force and " +
      "its id: what can't be taken back stays, and is named, and the journal is kept in .imgtx/given-up.",
    examples: [
      { command: "imgtx txn abort", about: "that which was begun in this terminal, or script" },
      { command: "imgtx txn abort 7f3k2m9qa1", about: "that one, wherever it was begun" },
    ],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const named = readTransactionId(invocation);
    const forced = invocation.input.flag("--force") ? requireId(named, "abort") : undefined;
    if (forced !== undefined)
      await confirm(
        invocation,
        `Transaction ${forced} ends as far as it can be undone, and the rest of it can't be taken back any more.`,
      );
    const { engine, session } = await openSession(invocation);
    const options = runOptions(invocation, false);
    const outcome = forced
      ? await engine.forceAbort(session, forced, options)
      : await engine.abortTransaction(session, named, options);
    invocation.report.done(outcome, ABORTED);
    return 0;
  },
};
