// Asks before something is done that can't be taken back.
//
// Such a thing is never done unasked for: it is all that the command does, or has an option of its own, such as
// `--give-up ID`. From a script that is the answer. On a terminal, where commands are pasted and called back from the
// shell's history, it is asked for.

import { ImgtxError } from "../../errors/index.ts";
import type { ActionRequest } from "../../transaction/index.ts";
import { type Invocation, type OpenSession, runOptions } from "../running/invocation.ts";
import { withName } from "../render/layout.ts";
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

/** Asks where new images are written over what is there: on volumes. */
export async function confirmOverwritten(
  invocation: Pick<Invocation, "settings" | "report" | "signal" | "context">,
  _open: OpenSession,
  request: ActionRequest,
): Promise<void> {
  const { storage } = invocation.context;
  const files: string[] = [];
  for (const file of filesOverwritten(request)) if (await storage.stat(file)) files.push(file);
  if (files.length > 0) await confirm(invocation, `What is on ${files.join(", ")} is lost.`);
}

function filesOverwritten(request: ActionRequest): readonly string[] {
  if ("dest" in request) return request.overwrite ? [request.dest, request.newSource] : [];
  if ("overlays" in request)
    return request.overwrites ? (request.overlays ?? []).map(({ file }) => file) : [];
  if (!("targets" in request)) return [];
  const isOfAll = "overwrite" in request && request.overwrite;
  return request.targets.flatMap((target) => {
    const isOverwritten = isOfAll || ("overwrite" in target && target.overwrite);
    return isOverwritten ? (target.file ?? []) : [];
  });
}

/** Asks where a request, tried dry first, takes all that snapshots keep of a device, which it does not name. */
export async function confirmGivenUp(
  invocation: Invocation,
  { engine, session }: OpenSession,
  request: ActionRequest,
): Promise<void> {
  const { settings, context } = invocation;
  if (settings.yes || settings.dryRun || context.ask === undefined) return;
  const dry = { ...runOptions(invocation, false), dryRun: true };
  const { actions } = await engine.runActions(session, [request], dry);
  for (const { device, snapshotsGivenUp } of actions) {
    if (snapshotsGivenUp.length === 0) continue;
    const which = snapshotsGivenUp.map(({ number, name }) =>
      number === null ? "that of this transaction" : withName(number, name),
    );
    await confirm(invocation, `What these snapshots keep of '${device}' is lost: ${which.join(", ")}.`);
  }
}
