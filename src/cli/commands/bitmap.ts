// imgtx bitmap add|remove|clear|enable|disable|merge DEV … NAME

import { ImgtxError } from "../../errors/index.ts";
import type { BitmapRequest } from "../../transaction/index.ts";
import type { CommandDefinition, OptionDefinition } from "../grammar/definition.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import type { CommandInput } from "../grammar/input.ts";
import { devicesAndName, readDevicesAndName } from "./devices-and-name.ts";

const FORMATS = ["qcow2", "raw"];

type Options = Omit<BitmapRequest, "kind" | "devices" | "bitmap">;

const NOTHING_MORE: Options = { isDisabled: false, sources: [] };

function makeCommand(
  kind: BitmapRequest["kind"],
  definition: Pick<CommandDefinition, "about" | "examples"> & {
    readonly options?: readonly OptionDefinition[];
  },
  readOptions: (input: CommandInput, devices: readonly string[]) => Options = () => NOTHING_MORE,
): ActionCommand {
  return {
    kind: "action",
    definition: { arguments: devicesAndName("bitmap"), options: [], exits: CHANGING_EXITS, ...definition },
    request(input) {
      const { devices, name } = readDevicesAndName(input);
      return { kind, devices, bitmap: name, ...readOptions(input, devices) };
    },
  };
}

export const bitmapAdd = makeCommand(
  "bitmap-add",
  {
    options: [
      {
        long: "granularity",
        short: "g",
        value: { name: "SIZE", completes: ["512", "4k", "64k", "1M"] },
        about:
          "how much of the disk a bit stands for: a power of two from 512; else the cluster size, 4k to 64k",
      },
      { long: "disabled", about: "mark nothing until it is enabled" },
    ],
    about:
      "Gives each device's active layer a persistent bitmap, which is empty. From the commit on QEMU marks in it " +
      "what is written, all disks from one moment, for backups of what has changed. The images have to be qcow2 of " +
      "version 3.",
    examples: [
      { command: "imgtx bitmap add vda vdb backup-0", about: "both disks from one moment, or neither" },
      { command: "imgtx bitmap add vda -g 1M coarse", about: "a bit for each MiB" },
    ],
  },
  (input) => ({
    ...NOTHING_MORE,
    isDisabled: input.flag("--disabled"),
    granularityBytes: input.sizeBytes("--granularity"),
  }),
);

export const bitmapRemove = makeCommand("bitmap-remove", {
  about:
    "Takes a bitmap away, and gives its space back to the image. That is also the way out where a bitmap is " +
    "inconsistent, since QEMU died: remove it, add it anew, and take the next backup whole.",
  examples: [{ command: "imgtx bitmap remove vda vdb backup-0", about: "from both, or from neither" }],
});

export const bitmapClear = makeCommand("bitmap-clear", {
  about: "Takes all marks out of a bitmap, which goes on from there, enabled or disabled as it was.",
  examples: [{ command: "imgtx bitmap clear vda vdb backup-0", about: "after a backup, at one moment" }],
});

export const bitmapEnable = makeCommand("bitmap-enable", {
  about: "Has QEMU mark what is written, from the commit on.",
  examples: [{ command: "imgtx bitmap enable vda vdb backup-0", about: "both from one moment" }],
});

export const bitmapDisable = makeCommand("bitmap-disable", {
  about: "Leaves a bitmap as it is from the commit on: it tells what was written up to then.",
  examples: [{ command: "imgtx bitmap disable vda vdb backup-0", about: "both at one moment" }],
});

export const bitmapMerge = makeCommand(
  "bitmap-merge",
  {
    options: [
      {
        long: "from",
        value: { name: "SOURCE", completes: "nothing" },
        repeatable: true,
        about: "the bitmap whose marks it gets; may be given again",
      },
      {
        long: "source-file",
        short: "b",
        value: { name: "FILE", completes: "file" },
        about: "the image that SOURCE is in; else the device's own",
      },
      {
        long: "source-format",
        short: "F",
        value: { name: "FORMAT", completes: FORMATS, choices: FORMATS },
        about: "format of FILE; else recognised",
      },
    ],
    about:
      "Adds the marks of other bitmaps to one, of any granularity. They are in the same image, or in another one " +
      "with a disk of the same size, which is only read.",
    examples: [
      { command: "imgtx bitmap merge vda vdb week --from monday --from tuesday", about: "for both disks" },
      {
        command: "imgtx bitmap merge vda b0 --from b0 -b old/a.qcow2",
        about: "from the layer below a snapshot",
      },
    ],
  },
  (input, devices) => {
    const names = input.texts("--from");
    if (names.length === 0) throw new ImgtxError("E_USAGE", "--from says which bitmap is merged");
    const given = input.text("--source-file");
    const file = given === undefined ? undefined : input.resolve(given);
    const format = input.text("--source-format");
    if (file === undefined && format !== undefined) {
      throw new ImgtxError("E_USAGE", "--source-format is about a --source-file");
    }
    if (file !== undefined && devices.length > 1) {
      throw new ImgtxError("E_USAGE", "--source-file has the bitmap of one disk: name one device");
    }
    return { ...NOTHING_MORE, sources: names.map((bitmap) => ({ bitmap, file, format })) };
  },
);
