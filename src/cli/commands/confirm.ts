// Asks before something is done that can't be taken back.
//
// Such a thing is never done unasked for: it has an option of its own, such as `--give-up ID`. From a script that is
// the answer. On a terminal, where commands are pasted and called back from the shell's history, it is asked for.

import { ImgtxError } from "../../errors/index.ts";
import type { Invocation } from "../invocation.ts";
import { printable } from "../render/printable.ts";

/** `what` is a sentence. E_REFUSED where the answer is no. */
export async function confirm(
  { settings, report, signal }: Pick<Invocation, "settings" | "report" | "signal">,
  what: string,
): Promise<void> {
  if (settings.yes || settings.dryRun) return;
  const answer = await report.ask(`imgtx: ${printable(what)} Go on? [y/N] `, signal);
  if (answer === undefined || /^\s*y(es)?\s*$/i.test(answer)) return;
  throw new ImgtxError("E_REFUSED", "nothing was done: the answer was not yes", {
    hint: "`--dry-run` shows what would be done; `--yes` does it without a question",
  });
}
