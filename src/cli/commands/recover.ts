// imgtx recover

import { ImgtxError } from "../../errors/index.ts";
import type { RecoveryNote } from "../../transaction/index.ts";
import type { PlainCommand } from "../grammar/definition.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { openSession } from "../invocation.ts";
import type { Drawing } from "../report.ts";
import { withSchema } from "../render/json.ts";

const RECOVERED: Drawing<readonly RecoveryNote[]> = {
  text: (notes) => (notes.length === 0 ? ["Nothing to recover."] : []),
  json: (notes) =>
    withSchema({
      changed: notes.some(({ did }) => did !== "reported"),
      recovered: notes.map(({ transaction, did, text }) => ({ transaction, did, text })),
    }),
};

export const recover: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [],
    options: [],
    about:
      "Finishes what was committed and undoes what was not, after a crash. Every imgtx command does this " +
      "before its own work; this one does nothing else. Open transactions stay open.",
    examples: [{ command: "imgtx recover", about: "after a power cut, before the guests start" }],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const { dryRun } = invocation.settings;
    const { engine, session } = await openSession(invocation, { reportOnly: dryRun });
    if (!dryRun) await engine.assertChangeable(session);
    // Throws at a journal that is damaged: nothing of its transaction was touched, and status 0 would hide it.
    await engine.listTransactions(session);
    const waits = session.recovered.some(({ did }) => did === "reported");
    // Status 0 would tell a script that the guests can start.
    if (waits && !dryRun) {
      throw new ImgtxError("E_READ_ONLY", "what a crash left could not be finished or undone", {
        image: session.root,
        hint: "make the workspace writable, and run `imgtx recover` again",
      });
    }
    invocation.report.done(session.recovered, RECOVERED);
    return 0;
  },
};
