// Runs a command that is one action.

import type { Outcome } from "../../transaction/index.ts";
import type { ActionCommand } from "../grammar/definition.ts";
import { openSession, runOptions, type Invocation } from "../invocation.ts";
import type { Drawing } from "../report.ts";
import { outcomeJson } from "../render/json.ts";
import { closingOf, drawOutcome, standingOf, tenseOf } from "../render/outcome.ts";

/** An outcome as most commands print it. */
export const OUTCOME: Drawing<Outcome> = {
  text: (outcome, canvas) => drawOutcome(outcome, canvas, tenseOf(outcome), closingOf(outcome)),
  json: outcomeJson,
  stands: standingOf,
};

export async function executeAction(command: ActionCommand, invocation: Invocation): Promise<number> {
  const request = command.request(invocation.input);
  const open = await openSession(invocation, { createHere: command.createsWorkspace === true });
  await command.confirm?.(invocation, open);
  const { engine, session } = open;
  const options = runOptions(invocation, command.standalone === true);
  invocation.report.done(await engine.runActions(session, [request], options), OUTCOME);
  return 0;
}
