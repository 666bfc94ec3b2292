// imgtx merge DEV … [--into IMAGE] [--from IMAGE]

import { ImgtxError } from "../../errors/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import { confirmGivenUp } from "./confirm.ts";
import { RATE_LIMIT } from "./rate-limit.ts";

export const merge: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [{ name: "DEV", about: "the devices", variadic: true, completes: "device" }],
    options: [
      {
        long: "into",
        value: { name: "IMAGE", completes: "file" },
        about: "the image that gets the content; default: the one right below",
      },
      {
        long: "from",
        value: { name: "IMAGE", completes: "file" },
        about: "the uppermost image to merge; default: the active layer",
      },
      { long: "keep", about: "leave the merged images where they are" },
      {
        long: "rebase-siblings",
        about: "give other overlays that stand on these images first what they would lose",
      },
      {
        long: "force",
        about: "also where the history lacks a generation, whose images may stand on these",
      },
      RATE_LIMIT,
    ],
    about:
      "Merges overlays of a device's chain down into an image below them, and takes them away: what the device " +
      "shows stays. That image gets another content. Where any other overlay, of this workspace, of its history, " +
      "beside its images or below its folder, stands on it or on what goes, the merge is refused, or keeps what that shows.",
    examples: [
      { command: "imgtx merge vda", about: "the active layer goes into the image below" },
      { command: "imgtx merge vda vdb", about: "those of both, or of none" },
      { command: "imgtx merge vda --into base.qcow2", about: "all that stands on base.qcow2" },
      { command: "imgtx merge vda --from tuesday.qcow2", about: "one from the middle of the chain" },
      { command: "imgtx merge vda --rebase-siblings", about: "where clones keep what they show" },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    const devices = input.texts("DEV");
    const [from, into] = ["--from", "--into"].map((flag) => {
      const name = input.text(flag);
      return name === undefined ? undefined : input.resolve(name);
    });
    if (devices.length > 1 && (from !== undefined || into !== undefined)) {
      throw new ImgtxError("E_USAGE", "--from and --into are about the chain of one device");
    }
    const [keep, rebaseSiblings, force] = ["--keep", "--rebase-siblings", "--force"].map((flag) =>
      input.flag(flag),
    );
    return {
      kind: "merge",
      devices,
      from,
      into,
      keep: keep === true,
      rebaseSiblings: rebaseSiblings === true,
      force: force === true,
    };
  },
  confirm: confirmGivenUp,
};
