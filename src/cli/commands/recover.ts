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
    const { engine, session } = await openSession(invocation, { reportOnly: dryRun, caller: "recover" });
    if (!dryRun) await engine.assertChangeable(session);
    const { recovered, root } = session;
    // Status 0 would tell a script that the guests can start.
    if (!dryRun) throwWhatWaits(recovered, root);
    invocation.report.done(session.recovered, RECOVERED);
    return 0;
  },
};

/** E_UNFINISHED where something committed waits; else what keeps recovery from undoing the rest. */
function throwWhatWaits(notes: readonly RecoveryNote[], root: string): void {
  const waiting = notes.flatMap(({ obstacle }) => obstacle ?? []);
  const first = waiting.find(({ isCommitted }) => isCommitted) ?? waiting[0];
  if (first) {
    const count = waiting.length === 1 ? "one transaction waits" : `${waiting.length} transactions wait`;
    const code = first.isCommitted ? "E_UNFINISHED" : first.code;
    throw new ImgtxError(code, `${count}: ${first.why}`, {
      image: root,
      ...first.place,
      hint: first.hint,
      changed: notes.some(({ did }) => did !== "waiting"),
    });
  }
  if (!notes.some(({ did }) => did === "reported")) return;
  throw new ImgtxError("E_READ_ONLY", "what a crash left could not be finished or undone", {
    image: root,
    hint: "make the workspace writable, and run `imgtx recover` again",
  });
}
