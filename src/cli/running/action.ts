// Runs a command that is one action.

import { ImgtxError } from "../../errors/index.ts";
import type { Outcome } from "../../transaction/index.ts";
import type { ActionCommand } from "./command.ts";
import { openSession, runOptions, type Invocation } from "./invocation.ts";
import { OUTCOME } from "./outcomes.ts";

export async function executeAction(command: ActionCommand, invocation: Invocation): Promise<number> {
  const request = command.request(invocation.input);
  const open = await openSession(invocation, { createHere: command.createsWorkspace === true });
  await command.confirm?.(invocation, open, request);
  const { engine, session } = open;
  const options = runOptions(invocation, command.standalone === true);
  const outcome = await engine.runActions(session, [request], options);
  invocation.report.done(outcome, OUTCOME);
  throwRot(outcome);
  return 0;
}

/** E_ROTTED, once the outcome is told, where a mirror was not what it should have been. */
export function throwRot({ actions, pending }: Outcome): void {
  for (const { device, rottedBytes, files } of actions) {
    if (rottedBytes === null || device === null) continue;
    const when = pending ? "the commit of the transaction mends it" : "it is mended";
    const image = files[0]?.path;
    throw new ImgtxError(
      "E_ROTTED",
      `the mirror differed from '${device}' in up to ${rottedBytes} bytes that no write to the device accounts for; ${when}`,
      {
        device,
        ...(image !== undefined && { image }),
        changed: !pending,
        hint: `a disk may be failing, see the kernel's log, or somebody wrote to the mirror; \`imgtx mirror ${device} --verify\` compares both once more`,
      },
    );
  }
}
