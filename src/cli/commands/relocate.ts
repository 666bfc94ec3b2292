// imgtx relocate DEV … FOLDER [--all] [--keep], and imgtx relocate DIR FOLDER

import { ImgtxError } from "../../errors/index.ts";
import type { Move } from "../../transaction/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import type { CommandInput } from "../grammar/input.ts";
import { type Invocation, openSession, runOptions } from "../running/invocation.ts";
import type { Drawing } from "../running/report.ts";
import { outcomeJson, withSchema } from "../render/json.ts";
import { drawOutcome, tenseOf } from "../render/outcome.ts";
import { RATE_LIMIT } from "./rate-limit.ts";

type Moved = Move & { readonly isDryRun: boolean };

/** Of a workspace without devices. */
const NO_IMAGES = { transaction: null, pending: false, actions: [], devices: [], kept: [] };

const MOVED: Drawing<Moved> = {
  text: ({ from, to, relocation, isDryRun }, canvas) => {
    const closing = `${isDryRun ? "Would move" : "Moved"} the workspace ${from} to ${to}.`;
    return relocation ? drawOutcome(relocation, canvas, tenseOf(relocation), closing) : [closing];
  },
  json: ({ from, to, generation, relocation, isDryRun }) => ({
    ...(relocation ? outcomeJson(relocation) : withSchema(NO_IMAGES)),
    changed: !isDryRun,
    "dry-run": isDryRun,
    generation,
    from,
    workspace: to,
  }),
  stands: ({ to, isDryRun }) => (isDryRun ? undefined : `the workspace is in ${to}`),
};

export const relocate: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      {
        name: "DEV",
        about: "the devices, or the folder of a workspace, and as the last word the folder that they go to",
        variadic: true,
        completes: "device",
      },
    ],
    options: [
      { long: "all", about: "all devices of the workspace" },
      { long: "keep", about: "leave the images where they are as well" },
      RATE_LIMIT,
    ],
    about:
      "Moves devices to another folder, or another disk: their chains, and all that snapshots keep of them. Each image is " +
      "copied and read back, names that images store are rewritten, relative ones as relative ones, and all change over in " +
      "one step; then the sources go. What another device, a mirror or any other overlay stands on stays where it is, and " +
      "so does what is below that. No guest may run on the devices meanwhile. Where a folder is named (it has a slash in it, " +
      "or is a dot) the workspace in it goes to the other one, with the images of all its devices, its history and its " +
      "snapshots; the old folder says from then on where it went.",
    examples: [
      { command: "imgtx relocate vda /new/disk", about: "vda with its snapshots" },
      { command: "imgtx relocate vda vdb /new/disk", about: "both; a base that they share comes along" },
      { command: "imgtx relocate --all /new/disk --dry-run", about: "what would go, and what would stay" },
      {
        command: "imgtx relocate vda /new/disk --keep",
        about: "copies, and leaves the images where they are",
      },
      { command: "imgtx relocate . /new/disk", about: "all of this workspace, and itself" },
    ],
    exits: CHANGING_EXITS,
  },
  instead: ({ input }) => (workspaceOf(input) === undefined ? undefined : moveWorkspace),
  request(input) {
    const words = input.texts("DEV");
    const folder = words.at(-1) ?? "";
    const devices = words.slice(0, -1);
    if (devices.includes("")) throw new ImgtxError("E_USAGE", "a device's name is empty");
    const isAll = input.flag("--all");
    if (isAll ? devices.length > 0 : devices.length === 0) {
      throw new ImgtxError(
        "E_USAGE",
        isAll ? "--all is instead of devices" : "a device and a folder are to be named",
        { hint: "for example: imgtx relocate vda /new/disk, or imgtx relocate --all /new/disk" },
      );
    }
    return {
      kind: "relocate",
      devices: isAll ? undefined : devices,
      folder: input.resolveFolder(folder),
      keep: input.flag("--keep"),
    };
  },
};

/** A word that can be no device. */
function workspaceOf(input: CommandInput): string | undefined {
  return input
    .texts("DEV")
    .slice(0, -1)
    .find((name) => name.includes("/") || name === "." || name === "..");
}

async function moveWorkspace(invocation: Invocation): Promise<number> {
  const { input, settings, report } = invocation;
  const [folder = "", target = "", ...more] = input.texts("DEV");
  if (more.length > 0 || input.flag("--all") || input.flag("--keep")) {
    throw new ImgtxError("E_USAGE", "a workspace goes by itself, and as a whole", {
      hint: "for example: imgtx relocate . /new/disk",
    });
  }
  const workspace = input.resolveFolder(folder);
  const open = await openSession({ ...invocation, settings: { ...settings, workspace } });
  const move = await open.engine.relocateWorkspace(open.session, input.resolveFolder(target), {
    ...runOptions(invocation, true),
    safeWorkspaces: settings.safeWorkspaces,
  });
  report.done({ ...move, isDryRun: settings.dryRun }, MOVED);
  return 0;
}
