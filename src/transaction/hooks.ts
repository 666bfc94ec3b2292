// What is run around a group snapshot, as far as it has to survive a kill: the command that thaws its guest.

import { findLostHooks, type HookRecord, keepHookRecord, removeHookRecord } from "../device/index.ts";
import { shellQuote } from "../format/index.ts";
import type { Workspace } from "../device/index.ts";
import type { RecoveryNote, Session } from "./requests/request.ts";

interface PromisedHook {
  /** It was run. Where it ended well, what a kill has left of the same command is done too. */
  done(isRight: boolean): Promise<void>;
}

/** Writes down, durably, that the command is to be run whatever happens. */
export async function promiseHook(
  { workspace }: Session,
  hook: Pick<HookRecord, "command" | "devices">,
): Promise<PromisedHook> {
  // Its record is the first of them.
  workspace.storage.expectFlushes?.(hook.devices.length);
  const { record, life } = await keepHookRecord(workspace, hook);
  return {
    async done(isRight) {
      try {
        const { lost } = await findLostHooks(workspace);
        const same = isRight ? lost.filter(({ command }) => command === record.command) : [];
        for (const { id } of [...same, record]) await removeHookRecord(workspace, id);
      } finally {
        await life.close();
      }
    },
  };
}

/** What was not run since its process was killed: told by each command, until `recover` has told it for the last time. */
export async function noteLostHooks(workspace: Workspace, isLast: boolean): Promise<RecoveryNote[]> {
  const { lost, strange } = await findLostHooks(workspace);
  if (isLast) for (const { id } of lost) await removeHookRecord(workspace, id);
  return [
    ...lost.map((record) => sayLost(record, isLast)),
    ...strange.map((path) => note(`${path} is no record of a hook, and is left alone`)),
  ];
}

function sayLost({ command, devices, started }: HookRecord, isLast: boolean): RecoveryNote {
  const since = started.slice(0, 19).replace("T", " ");
  const then = isLast ? "this is not told again" : "then `imgtx recover` forgets it";
  return note(
    `the group snapshot of ${devices.join(", ")} of ${since}Z was killed before its --after command had ended, and a guest ` +
      `may still be frozen: run \`sh -c ${shellQuote(command)}\`; ${then}`,
  );
}

function note(text: string): RecoveryNote {
  return { transaction: null, did: "noted", text };
}
