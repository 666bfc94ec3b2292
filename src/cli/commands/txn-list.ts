// imgtx txn list

import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../running/invocation.ts";
import { inOrder } from "./pick-transaction.ts";
import { TRANSACTION_IDS, TRANSACTION_TABLE } from "./transaction-drawings.ts";

export const txnList: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [],
    options: [],
    about: "Lists the open transactions, a line each. With --quiet the ids alone.",
    examples: [{ command: "imgtx txn list", about: "which are open, since when, and on which devices" }],
    exits: READING_EXITS,
  },
  async execute(invocation) {
    const { engine, session } = await openToRead(invocation);
    const all = inOrder(await engine.listTransactions(session));
    invocation.report.answer(all, invocation.report.quiet ? TRANSACTION_IDS : TRANSACTION_TABLE);
    if (all.length === 0) invocation.report.advice("no transaction is open");
    return 0;
  },
};
