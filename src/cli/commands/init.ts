// imgtx init [DIR]

import { ImgtxError } from "../../errors/index.ts";
import type { PlainCommand } from "../grammar/definition.ts";
import { PRINTING_EXITS } from "../grammar/exit-status.ts";
import { openSession, type Invocation } from "../invocation.ts";
import type { Drawing } from "../report.ts";
import { withSchema } from "../render/json.ts";
import { WOULD } from "./would.ts";

interface Made {
  readonly root: string;
  readonly created: boolean;
}

const MADE: Drawing<Made> = {
  text: ({ root, created }) => [created ? `Made a workspace in ${root}` : `${root} is a workspace already`],
  json: ({ root, created }) => withSchema({ changed: created, workspace: root }),
};

export const init: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      { name: "DIR", about: "an existing folder; else this one", optional: true, completes: "folder" },
    ],
    options: [],
    about:
      "Makes a workspace: a folder `.imgtx` that holds the device table, its history and the journals of " +
      "transactions. Commands below DIR find it. In a workspace it does nothing.",
    examples: [
      { command: "imgtx init", about: "here" },
      { command: "imgtx init /srv/guests/web", about: "in another folder" },
    ],
    exits: [...PRINTING_EXITS.slice(0, 2), 10, 13, 14, 15, 64],
  },
  async execute(invocation) {
    const { input, settings, context, report } = invocation;
    const folder = input.text("DIR");
    const target = folder === undefined ? (settings.workspace ?? context.cwd) : input.resolveFolder(folder);
    if (settings.dryRun) {
      const exists = await isWorkspace(invocation, target);
      const saying = exists ? `${target} is a workspace already` : `a workspace would be made in ${target}`;
      report.done({ saying, transaction: null }, WOULD);
      return 0;
    }
    const engine = await invocation.loadEngine();
    report.done(await engine.initWorkspace(context.storage, target), MADE);
    return 0;
  },
};

async function isWorkspace(invocation: Invocation, folder: string): Promise<boolean> {
  const { settings } = invocation;
  try {
    await openSession({ ...invocation, settings: { ...settings, workspace: folder } });
    return true;
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_NO_WORKSPACE") return false;
    throw error;
  }
}
