// imgtx txn rollback-to NAME

import type { Outcome } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { lockWait, openSession } from "../running/invocation.ts";
import { outcomeJson, withSchema } from "../render/json.ts";
import { drawOutcome } from "../render/outcome.ts";
import { WOULD } from "./would.ts";

export const txnRollbackTo: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [{ name: "NAME", about: "a savepoint of the transaction", completes: "nothing" }],
    options: [],
    about:
      "Undoes the actions after a savepoint, newest first. The transaction stays open, and the savepoint " +
      "stays too.",
    examples: [{ command: "imgtx txn rollback-to half", about: "go on from there" }],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const { input, settings, report } = invocation;
    const name = input.argument("NAME");
    const { engine, session } = await openSession(invocation);
    if (settings.dryRun) {
      const purpose = engine.toUseSavepoint("rollback-to", name);
      const found = await engine.findTransaction(session, settings.transaction, purpose);
      const { id } = found;
      if (!found.savepoints.includes(name)) throw engine.hasNoSavepoint(found, name);
      report.done({ saying: `transaction ${id} would go back to savepoint ${name}`, transaction: id }, WOULD);
      return 0;
    }
    const outcome = await engine.rollbackToSavepoint(
      session,
      settings.transaction,
      name,
      lockWait(invocation),
    );
    report.done(
      { outcome, name },
      {
        text: (back: { outcome: Outcome; name: string }, canvas) =>
          drawOutcome(
            back.outcome,
            canvas,
            "prepared",
            `Transaction ${back.outcome.transaction} is back at savepoint ${back.name}.`,
          ),
        stands: (back) => `transaction ${back.outcome.transaction} is back at savepoint ${back.name}`,
        json: (back) => withSchema({ ...outcomeJson(back.outcome), savepoint: back.name }),
      },
    );
    return 0;
  },
};
