// imgtx init [DIR]

import { ImgtxError } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";
import type { Adoption, Restoration } from "../../transaction/index.ts";
import type { PlainCommand } from "../running/command.ts";
import { PRINTING_EXITS } from "../grammar/exit-status.ts";
import { lockWait, openSession, type Invocation } from "../running/invocation.ts";
import type { Drawing } from "../running/report.ts";
import { withSchema } from "../render/json.ts";
import { WOULD } from "./would.ts";

interface Made {
  readonly root: string;
  readonly created: boolean;
}

const MADE: Drawing<Made> = {
  text: ({ root, created }) => [created ? `Made a workspace in ${root}` : `${root} is a workspace already`],
  json: ({ root, created }) => withSchema({ changed: created, workspace: root }),
  stands: ({ root, created }) => (created ? `the workspace in ${root} is made` : undefined),
};

/** With the commands that put devices on what stands on their images, by that. */
type Adopted = Adoption & {
  readonly dryRun: boolean;
  readonly commands: Readonly<Record<string, string>>;
};

const ADOPTED: Drawing<Adopted> = {
  text: ({ root, changed, generation, forgotten, kept, devices, dryRun, commands }) => {
    if (!changed) return [`${root} is a workspace of its own already`];
    const would = dryRun ? "Would make" : "Made";
    return [
      `${would} ${root} a workspace of its own, at generation ${generation}`,
      ...forgotten.flatMap(({ id, what, committed, files, journal }) => [
        `  forgotten: transaction ${id} (${what})${committed ? ", committed, and perhaps not finished" : ""}`,
        ...files.map((file) => `    stays as it is: ${file}`),
        `    its journal: ${journal}`,
      ]),
      ...kept.map((id) => `  goes on: transaction ${id}`),
      ...devices.flatMap(({ device, image, overlays }) => [
        `  ${device} is on ${image}`,
        ...overlays.map(
          (overlay, index) =>
            `    ${overlay} stands on that, and a guest that writes to it spoils it: \`${commands[`${device} ${index}`]}\``,
        ),
      ]),
      ...(devices.length > 0 ? ["  Look whether the guests use these images before one is started."] : []),
    ];
  },
  json: ({ root, changed, generation, forgotten, kept, devices, dryRun }) =>
    withSchema({
      changed: changed && !dryRun,
      workspace: root,
      generation,
      forgotten: forgotten.map(({ id, what, committed, files, journal }) => ({
        transaction: id,
        what,
        committed,
        files,
        journal,
      })),
      kept,
      devices,
    }),
  stands: ({ root, changed, dryRun }) =>
    changed && !dryRun ? `${root} is a workspace of its own now` : undefined,
};

/** With the commands that give devices back what they were shown on, by device. */
type Restored = Restoration & {
  readonly dryRun: boolean;
  readonly commands: Readonly<Record<string, string>>;
};

const RESTORED: Drawing<Restored> = {
  text: ({ root, changed, generation, kept, devices, dryRun, commands }) => {
    if (!changed) return [`the device table of ${root} is sound, at generation ${generation}`];
    return [
      `${dryRun ? "Would put back" : "Put back"} generation ${generation} of ${root}; what came after it is lost`,
      ...(kept === null ? [] : [`  what stood in its place: ${kept}`]),
      ...devices.map(({ device, image, shown }) => {
        const was = shown === null ? "" : `; 'devices' showed it on ${shown} last: \`${commands[device]}\``;
        return `  ${device} is on ${image}${was}`;
      }),
      "  Look whether the guests use these images before one is started.",
    ];
  },
  json: ({ root, changed, generation, kept, devices, dryRun }) =>
    withSchema({ changed: changed && !dryRun, workspace: root, generation, kept, devices }),
};

export const init: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      { name: "DIR", about: "an existing folder; else this one", optional: true, completes: "folder" },
    ],
    options: [
      {
        long: "adopt",
        about: "make a copied or restored workspace one of its own; forget its open transactions",
      },
      {
        long: "restore",
        about: "put back the newest generation of the history where the device table is lost",
      },
      { long: "moved", about: "with --adopt: the original is gone, so its transactions go on here" },
    ],
    about:
      "Makes a workspace: a folder `.imgtx` that holds the device table, its history and the journals of " +
      "transactions. Commands below DIR find it. In a workspace it does nothing. A workspace that is a copy " +
      "of another, or was put back from a backup, is only read until --adopt makes it one of its own: its open " +
      "transactions are forgotten, and nothing of their files is removed. Where the device table is lost or damaged, " +
      "--restore puts back the generation before it.",
    examples: [
      { command: "imgtx init", about: "here" },
      { command: "imgtx init /srv/guests/web", about: "in another folder" },
      { command: "imgtx init --adopt --dry-run", about: "what would be forgotten in this copy" },
    ],
    exits: [...PRINTING_EXITS.slice(0, 2), 10, 13, 14, 15, 64],
  },
  async execute(invocation) {
    const { input, settings, context, report } = invocation;
    const folder = input.text("DIR");
    const target = folder === undefined ? (settings.workspace ?? context.cwd) : input.resolveFolder(folder);
    if (input.flag("--restore")) return await restore(invocation, target);
    if (input.flag("--adopt")) return await adopt(invocation, target);
    if (input.flag("--moved")) throw new ImgtxError("E_USAGE", "--moved goes with --adopt");
    if (settings.dryRun) {
      const exists = await isWorkspace(invocation, target);
      const saying = exists ? `${target} is a workspace already` : `a workspace would be made in ${target}`;
      report.done({ saying, transaction: null }, WOULD);
      return 0;
    }
    const engine = await invocation.loadEngine();
    report.done(await engine.initWorkspace(context.storage, target, settings.safeWorkspaces), MADE);
    return 0;
  },
};

async function adopt(invocation: Invocation, folder: string): Promise<number> {
  const { input, settings, context, report } = invocation;
  const { dryRun } = settings;
  const engine = await invocation.loadEngine();
  const how = {
    ...lockWait(invocation),
    moved: input.flag("--moved"),
    dryRun,
    safeWorkspaces: settings.safeWorkspaces,
  };
  const adoption = await engine.adoptWorkspace(context.storage, folder, how);
  // Told before recovery shows the devices, and goes on with what came along: it may move those that this names.
  const commands = Object.fromEntries(
    adoption.devices.flatMap(({ device, overlays }) =>
      overlays.map((overlay, index) => [
        `${device} ${index}`,
        `imgtx reopen ${device} ${shellQuote(overlay)}`,
      ]),
    ),
  );
  report.done({ ...adoption, dryRun, commands }, ADOPTED);
  if (!dryRun) await openSession({ ...invocation, settings: { ...settings, workspace: folder } });
  return 0;
}

async function restore(invocation: Invocation, folder: string): Promise<number> {
  const { input, settings, context, report } = invocation;
  const { dryRun, safeWorkspaces } = settings;
  if (input.flag("--adopt"))
    throw new ImgtxError("E_USAGE", "--restore and --adopt are two commands, one after the other");
  const engine = await invocation.loadEngine();
  const how = { ...lockWait(invocation), dryRun, safeWorkspaces };
  const restoration = await engine.restoreWorkspace(context.storage, folder, how);
  // Told before recovery goes on from there: it may move the devices that this names.
  report.done({ ...restoration, dryRun, commands: reopenCommands(restoration) }, RESTORED);
  if (!dryRun) await openSession({ ...invocation, settings: { ...settings, workspace: folder } });
  return 0;
}

/** Made of the names as they are: what is drawn has escapes in it, which no shell would read. */
function reopenCommands({ devices }: Restoration): Record<string, string> {
  return Object.fromEntries(
    devices.flatMap(({ device, shown }) =>
      shown === null ? [] : [[device, `imgtx reopen ${device} ${shellQuote(shown)}`]],
    ),
  );
}

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
