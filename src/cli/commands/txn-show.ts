// imgtx txn show [ID]

import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../running/invocation.ts";
import { readTransactionId, TRANSACTION_ID } from "./pick-transaction.ts";
import { ONE_TRANSACTION } from "./transaction-drawings.ts";

export const txnShow: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [TRANSACTION_ID],
    options: [],
    about:
      "Shows one transaction with its actions and savepoints. The only one is shown wherever it was begun.",
    examples: [{ command: "imgtx txn show 7f3k2m9qa1", about: "one of several" }],
    exits: [...READING_EXITS.slice(0, 3), 11, ...READING_EXITS.slice(3)],
  },
  async execute(invocation) {
    const id = readTransactionId(invocation);
    const { engine, session } = await openToRead(invocation);
    const all = await engine.listTransactions(session);
    const [first, second] = all;
    const isOnly = id === undefined && first !== undefined && second === undefined;
    const one = isOnly ? first : engine.requireTransaction(all, id, engine.TO_SHOW);
    invocation.report.answer(one, ONE_TRANSACTION);
    return 0;
  },
};
