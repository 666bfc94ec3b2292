// imgtx snapshot-group (--all | DEV[=FILE[,format=F]] …)

import { ImgtxError } from "../../errors/index.ts";
import type { SnapshotRequest, SnapshotTarget } from "../../transaction/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import type { CommandInput } from "../grammar/input.ts";
import { splitAtCommas } from "../grammar/option-list.ts";
import { confirmOverwritten } from "./confirm.ts";
import { isNoPair } from "./devices-and-name.ts";
import { HOOK_OPTIONS, readHooks, runWithHooks } from "./hooks.ts";
import { OVERLAY_OPTIONS, readSnapshotOptions, SNAPSHOT_OPTIONS } from "./overlay-options.ts";

export const snapshotGroup: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      {
        name: "DEV[=FILE[,format=F]]",
        about: "a device and its new overlay, which may be left out; a comma in FILE is written twice",
        optional: true,
        variadic: true,
        completes: "device-file",
      },
    ],
    options: [
      { long: "all", about: "every device of the workspace" },
      ...SNAPSHOT_OPTIONS,
      ...OVERLAY_OPTIONS,
      ...HOOK_OPTIONS,
    ],
    about:
      "Snapshots several devices at one instant: all of them get their new overlay in one generation, or " +
      "none does and no file is left behind. The options hold for every overlay of the group.",
    examples: [
      {
        command: "imgtx snapshot-group --all --name monday",
        about: "every disk; the overlays are named after the images and the snapshot",
      },
      {
        command: "imgtx snapshot-group vda=a1.qcow2 vdb=b1.qcow2",
        about: "two disks of one guest, consistent with each other",
      },
      {
        command: "imgtx snapshot-group --all --with /var/lib/libvirt/qemu/nvram/web_VARS.fd",
        about: "the firmware's variables go with the disks",
      },
      {
        command: "imgtx snapshot-group vda=one,,two.qcow2 vdb=b1.qcow2,format=qcow2",
        about: "the first file's name is `one,two.qcow2`",
      },
      {
        command: "imgtx snapshot-group vda=a1.qcow2 vdb=b1.qcow2 --bitmap backup-1",
        about: "bitmaps that begin at this moment, on all disks",
      },
      {
        command: "imgtx snapshot-group vda=a1.qcow2 --before ./freeze.sh --after ./thaw.sh",
        about: "the guest is thawed whatever happens",
      },
      {
        command: "imgtx snapshot-group --dry-run vda=a1.qcow2 vdb=b1.qcow2",
        about: "check everything and print the plan",
      },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    if (readHooks(input)) {
      throw new ImgtxError(
        "E_USAGE",
        "--before and --after are for a group snapshot alone, not inside a batch",
      );
    }
    return readRequest(input);
  },
  confirm: confirmOverwritten,
  instead({ input }) {
    const hooks = readHooks(input);
    return hooks && (async (invocation) => await runWithHooks(invocation, readRequest(input), hooks));
  },
};

function readRequest(input: CommandInput): SnapshotRequest {
  return {
    kind: "snapshot-group",
    ...readTargets(input),
    ...readSnapshotOptions(input),
  };
}

function readTargets(input: CommandInput): Pick<SnapshotRequest, "targets" | "isOfAll"> {
  const targets = input.texts("DEV[=FILE[,format=F]]").map((text) => readTarget(text, input));
  const isOfAll = input.flag("--all");
  if (isOfAll === targets.length > 0) {
    throw new ImgtxError(
      "E_USAGE",
      isOfAll ? "--all is every device: name none besides" : "no device is named",
      {
        hint: "name the devices, each perhaps with a file: `imgtx snapshot-group vda vdb=b1.qcow2`; or say --all",
      },
    );
  }
  return { targets, isOfAll };
}

function readTarget(text: string, input: CommandInput): SnapshotTarget {
  const equals = text.indexOf("=");
  if (equals === -1) return { device: text, file: undefined, format: "qcow2" };
  if (equals === 0) {
    throw isNoPair(text, "imgtx snapshot-group vda=a1.qcow2 vdb=b1.qcow2");
  }
  const [file = "", ...properties] = splitAtCommas(text.slice(equals + 1));
  let format = "qcow2";
  for (const property of properties) {
    if (!property.startsWith("format=")) {
      throw new ImgtxError("E_USAGE", `'${text}': '${property}' is not format=F`, {
        hint: "a comma that is part of the file's name is written twice",
      });
    }
    format = property.slice("format=".length);
  }
  return { device: text.slice(0, equals), file: input.resolve(file), format };
}
