// imgtx txn show [ID]

import type { PlainCommand } from "../grammar/definition.ts";
import { READING_EXITS } from "../grammar/exit-status.ts";
import { openToRead } from "../invocation.ts";
import { pickTransaction } from "./pick-transaction.ts";
import { ONE_TRANSACTION } from "./transaction-drawings.ts";

export const txnShow: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      {
        name: "ID",
        about: "the transaction; else that of --txn, else the only one open",
        optional: true,
        completes: "transaction",
      },
    ],
    options: [],
    about: "Shows one transaction with its actions and savepoints.",
    examples: [{ command: "imgtx txn show 7f3k2m9qa1", about: "one of several" }],
    exits: [...READING_EXITS.slice(0, 3), 11, ...READING_EXITS.slice(3)],
  },
  async execute(invocation) {
    const id = invocation.input.text("ID") ?? invocation.settings.transaction;
    const { engine, session } = await openToRead(invocation);
    invocation.report.answer(pickTransaction(await engine.listTransactions(session), id), ONE_TRANSACTION);
    return 0;
  },
};
