// imgtx freeze DEV … [-- COMMAND …]

import { ImgtxError } from "../../errors/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { lockWait, openSession, type Invocation } from "../running/invocation.ts";
import { isNotStarted, runChild } from "./run-child.ts";
import { WOULD } from "./would.ts";

export const freeze: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      { name: "DEV", about: "the devices", variadic: true, completes: "device" },
      {
        name: "COMMAND",
        about: "a program and its arguments, run while the devices hold still",
        optional: true,
        variadic: true,
        afterDashes: true,
        completes: "file",
      },
    ],
    options: [{ long: "strict", about: "refuse images that have no place for a fence" }],
    about:
      "Makes devices hold still until `imgtx unfreeze`, through reboots: their images get a fence, which " +
      "QEMU refuses to open, for reading too. imgtx goes on reading them, and puts overlays on top. Raw " +
      "images and version 2 of qcow2 have no place for a fence: they are held to what they are, and " +
      "unfreeze says whether somebody wrote to them. With COMMAND nothing is written: QEMU's own locks " +
      "keep others from writing, and let them read, while COMMAND runs.",
    examples: [
      { command: "imgtx freeze vda vdb", about: "both hold still" },
      {
        command: "imgtx freeze vda -- cp disk.qcow2 /backup/",
        about: "nobody writes while it is copied",
      },
    ],
    exits: CHANGING_EXITS,
    exitNote:
      "With COMMAND its status: 128 + N when signal N killed it, 127 when it was not found, 126 when it " +
      "could not be run.",
  },
  request(input) {
    if (input.texts("COMMAND").length > 0) {
      throw new ImgtxError("E_USAGE", "a command is run by `imgtx freeze` alone, not inside a batch");
    }
    return { kind: "freeze", devices: input.texts("DEV"), strict: input.flag("--strict") };
  },
  instead: ({ input }) => (input.texts("COMMAND").length > 0 ? holdWhileRunning : undefined),
};

async function holdWhileRunning(invocation: Invocation): Promise<number> {
  const { input, settings, report, signal } = invocation;
  if (input.flag("--strict")) {
    throw new ImgtxError(
      "E_USAGE",
      "--strict is about fences, and while COMMAND runs there are locks instead",
    );
  }
  const devices = input.texts("DEV");
  const { engine, session } = await openSession(invocation);
  if (settings.dryRun) {
    const command = input.texts("COMMAND").join(" ");
    const saying = `'${command}' would be run, and nobody could write to ${devices.join(", ")} meanwhile`;
    report.done({ saying, transaction: null }, WOULD);
    return 0;
  }
  const held = await engine.holdDevices(session, devices, {
    ...lockWait(invocation),
    allowPaths: settings.allowPaths,
  });
  try {
    const end = await runChild(invocation, { IMGTX_WORKSPACE: session.root });
    if (end.kind === "killed") report.notice(`the command was killed by ${end.signal}`);
    if (end.kind === "not-started") report.failure(isNotStarted(end.reason));
    if (end.status === 0 && signal.aborted) throw signal.reason;
    return end.status;
  } finally {
    await held.release();
  }
}
