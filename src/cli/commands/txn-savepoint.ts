// imgtx txn savepoint NAME

import type { Outcome } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { lockWait, openSession } from "../running/invocation.ts";
import { outcomeJson, withSchema } from "../render/json.ts";
import { WOULD } from "./would.ts";

export const txnSavepoint: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      { name: "NAME", about: "its name; an earlier one of that name is replaced", completes: "nothing" },
    ],
    options: [],
    about: "Marks a place in an open transaction, to come back to with `imgtx txn rollback-to`.",
    examples: [
      {
        command: "imgtx txn savepoint half\nimgtx snapshot vdb b1.qcow2\nimgtx txn rollback-to half",
        about: "vdb's snapshot is undone, what came before is kept",
      },
    ],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const { input, settings, report } = invocation;
    const name = input.argument("NAME");
    const { engine, session } = await openSession(invocation);
    if (settings.dryRun) {
      const purpose = engine.toUseSavepoint("savepoint", name);
      const { id } = await engine.findTransaction(session, settings.transaction, purpose);
      report.done({ saying: `savepoint ${name} would be made in transaction ${id}`, transaction: id }, WOULD);
      return 0;
    }
    const outcome = await engine.makeSavepoint(session, settings.transaction, name, lockWait(invocation));
    report.done(
      { outcome, name },
      {
        text: (made: { outcome: Outcome; name: string }) => [
          `Savepoint ${made.name} in transaction ${made.outcome.transaction}.`,
        ],
        stands: (made) => `savepoint ${made.name} is made in transaction ${made.outcome.transaction}`,
        json: (made) => withSchema({ ...outcomeJson(made.outcome), savepoint: made.name }),
      },
    );
    return 0;
  },
};
