// Runs a command that is one action.

import type { ActionRequest, Outcome } from "../../transaction/index.ts";
import type { ActionCommand } from "../grammar/definition.ts";
import { openSession, runOptions, type Invocation } from "../invocation.ts";
import type { Drawing } from "../report.ts";
import type { CopyProgress } from "../render/copy-progress.ts";
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
  const { engine, session } = await openSession(invocation, { createHere: command.createsWorkspace });
  const options = runOptions(invocation, command.standalone);
  const progress = COPIES.has(request.kind) ? await watchCopies(invocation, request.kind) : undefined;
  const onProgress: typeof options.onProgress = progress && ((...done) => progress.update(...done));
  let outcome: Outcome;
  try {
    outcome = await engine.runActions(session, [request], { ...options, onProgress });
  } finally {
    progress?.stop();
  }
  invocation.report.done(outcome, OUTCOME);
  return 0;
}

/** What may take long: a device that is reopened to its mirror has that brought in line first. */
const COPIES: ReadonlySet<ActionRequest["kind"]> = new Set(["mirror", "reopen"]);

async function watchCopies(
  { context, input, settings }: Invocation,
  kind: ActionRequest["kind"],
): Promise<CopyProgress> {
  const { startCopyProgress } = await import("../render/copy-progress.ts");
  const asJson = kind === "mirror" && input.text("--progress") === "json";
  return startCopyProgress(context, { asJson, json: settings.json, quiet: settings.quiet });
}
