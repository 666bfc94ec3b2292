// imgtx txn commit

import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { openSession, runOptions } from "../running/invocation.ts";
import { confirm } from "./confirm.ts";
import { COMMITTED } from "../running/outcomes.ts";
import { readTransactionId, requireId, TRANSACTION_ID } from "./pick-transaction.ts";
import { RATE_LIMIT } from "./rate-limit.ts";

export const txnCommit: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [TRANSACTION_ID],
    options: [
      {
        long: "force",
        about: "of one that is committed and could not be finished: leave what others changed as it is",
      },
      RATE_LIMIT,
    ],
    about:
      "Makes all actions of a transaction take effect, as one generation. First it checks that nothing " +
      "they rest on has changed since. When it ends with status 0 the change is durable. One that " +
      "is committed already and waits, because an image of it is lost or was changed by others, is finished by " +
      "--force and its id: such images stay as they are, and are named.",
    examples: [
      { command: "imgtx txn commit", about: "that which was begun in this terminal, or script" },
      { command: "imgtx txn commit 7f3k2m9qa1", about: "that one, wherever it was begun" },
    ],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const named = readTransactionId(invocation);
    const forced = invocation.input.flag("--force") ? requireId(named, "commit") : undefined;
    if (forced !== undefined)
      await confirm(
        invocation,
        `Transaction ${forced} ends as far as it can be finished, and the rest of it can't be finished any more.`,
      );
    const { engine, session } = await openSession(invocation);
    const options = runOptions(invocation, false);
    const outcome = forced
      ? await engine.forceCommit(session, forced, options)
      : await engine.commitTransaction(session, named, options);
    invocation.report.done(outcome, COMMITTED);
    return 0;
  },
};
