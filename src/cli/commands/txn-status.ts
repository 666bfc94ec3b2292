// imgtx txn status

import type { PlainCommand } from "../running/command.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../running/invocation.ts";
import { inOrder, readTransactionId, TRANSACTION_ID } from "./pick-transaction.ts";
import { TRANSACTIONS_IN_FULL } from "./transaction-drawings.ts";

export const txnStatus: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [TRANSACTION_ID],
    options: [],
    about: "Shows the open transactions with their actions, or only the one that is named.",
    examples: [
      { command: "imgtx txn status", about: "what is open, and what it holds" },
      { command: "imgtx txn status --json | jq -r '.transactions[].id'", about: "the ids" },
    ],
    exits: [...READING_EXITS.slice(0, 3), 11, ...READING_EXITS.slice(3)],
  },
  async execute(invocation) {
    const { engine, session } = await openToRead(invocation);
    const all = inOrder(await engine.listTransactions(session));
    const id = readTransactionId(invocation);
    const isAll = id === undefined || id === engine.NO_TRANSACTION;
    const shown = isAll ? all : [engine.requireTransaction(all, id, engine.TO_SHOW)];
    invocation.report.answer(shown, TRANSACTIONS_IN_FULL);
    if (all.length === 0) invocation.report.advice("no transaction is open");
    return 0;
  },
};
