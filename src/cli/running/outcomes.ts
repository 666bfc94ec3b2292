// How outcomes are printed: of actions, and of transactions that end.

import type { Outcome } from "../../transaction/index.ts";
import { outcomeJson } from "../render/json.ts";
import { closingOf, drawOutcome, standingOf, tenseOf } from "../render/outcome.ts";
import type { Drawing } from "./report.ts";

/** An outcome as most commands print it. */
export const OUTCOME: Drawing<Outcome> = {
  text: (outcome, canvas) => drawOutcome(outcome, canvas, tenseOf(outcome), closingOf(outcome)),
  json: outcomeJson,
  stands: standingOf,
};

export const COMMITTED: Drawing<Outcome> = {
  text: (outcome, canvas) =>
    drawOutcome(
      outcome,
      canvas,
      tenseOf(outcome),
      outcome.dryRun
        ? `Dry run: transaction ${outcome.transaction} could be committed, and stays open.`
        : `Committed transaction ${outcome.transaction}: generation ${outcome.generation}.`,
    ),
  json: outcomeJson,
  stands: standingOf,
};

export const ABORTED: Drawing<Outcome> = {
  text: (outcome, canvas) =>
    drawOutcome(
      outcome,
      canvas,
      outcome.dryRun ? "undoing" : "undone",
      outcome.dryRun
        ? `Dry run: transaction ${outcome.transaction} would be aborted.`
        : `Aborted transaction ${outcome.transaction}; generation ${outcome.generation} stays.`,
    ),
  json: outcomeJson,
  stands: ({ dryRun, transaction }) => (dryRun ? undefined : `transaction ${transaction} is aborted`),
};
