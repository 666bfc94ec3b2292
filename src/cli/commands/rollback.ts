// imgtx rollback [DEV …] [--to SNAPSHOT]

import { ImgtxError } from "../../errors/index.ts";
import type { RollbackRequest } from "../../transaction/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { confirm, confirmOverwritten } from "./confirm.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import type { CommandInput } from "../grammar/input.ts";
import { isNoPair } from "./devices-and-name.ts";

export const rollback: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      {
        name: "DEV[=FILE]",
        about:
          "the devices that go back, each perhaps with its new overlay, a file or a block device; else all that the " +
          "snapshot keeps",
        optional: true,
        variadic: true,
        completes: "device-file",
      },
    ],
    options: [
      {
        long: "to",
        value: { name: "SNAPSHOT", completes: "snapshot" },
        about: "its name or number, or a time, local unless it says a zone; else the newest of the devices",
      },
      {
        long: "discard",
        about:
          "remove what is left, where imgtx made it and nothing stands on it, and keep no snapshot of it",
      },
      {
        long: "with-files",
        value: { name: "DIR", completes: "folder" },
        about: "give the files that the snapshot keeps (--with) back into that folder, in the same commit",
      },
      {
        long: "overwrite",
        about:
          "let these be written over files that are there; what those hold is kept with what is left. And what is on " +
          "FILE, a block device, which does not come back",
      },
      {
        long: "size",
        value: { name: "SIZE", completes: "nothing" },
        about:
          "of the volume that is made for it, where the device has a provisioner; else what a full disk takes",
      },
    ],
    about:
      "Goes back to what a snapshot keeps of devices: each gets a new overlay over its sealed image, all in one " +
      "generation. What was active is kept as a snapshot of its own, `before rollback to ...`, so that going " +
      "forward again is the same command. No image is written to, and other devices stay where they are.",
    examples: [
      { command: "imgtx rollback", about: "to the newest snapshot" },
      { command: "imgtx rollback vda --to before-upgrade", about: "one device, to a snapshot by its name" },
      {
        command: "imgtx rollback --to monday --with-files /var/lib/libvirt/qemu/nvram --overwrite",
        about: "with the firmware's variables, over those of now",
      },
      {
        command: "imgtx rollback vda=/dev/vg/vda-2 --to monday",
        about: "onto a volume, which begins with a MiB of zeros",
      },
      { command: "imgtx rollback --to '2026-11-27 04:00'", about: "to the newest that is as old as that" },
    ],
    exits: CHANGING_EXITS,
  },
  request: readRequest,
  async confirm(invocation, open, request) {
    await confirmOverwritten(invocation, open, request);
    if (!invocation.input.flag("--discard")) return;
    await confirm(invocation, "What the devices hold now, and no snapshot keeps, is removed.");
  },
};

function readRequest(input: CommandInput): RollbackRequest {
  const targets = input.texts("DEV[=FILE]").map((text) => readTarget(text, input));
  const overlays = targets.flatMap(({ device, file }) => (file === undefined ? [] : [{ device, file }]));
  const folder = input.text("--with-files");
  const overwrites = input.flag("--overwrite");
  if (overwrites && folder === undefined && overlays.length === 0) {
    throw new ImgtxError(
      "E_USAGE",
      "--overwrite is about the files that --with-files DIR gives back, and the block devices of DEV=FILE",
      { hint: "say --with-files DIR, or DEV=FILE, as well" },
    );
  }
  const volumeBytes = input.sizeBytes("--size");
  return {
    kind: "rollback",
    devices: targets.map(({ device }) => device),
    to: input.text("--to"),
    isDiscarding: input.flag("--discard"),
    ...(overlays.length > 0 && { overlays }),
    ...(volumeBytes !== undefined && { volumeBytes }),
    ...(folder !== undefined && { filesTo: input.resolveFolder(folder) }),
    ...((folder !== undefined || overwrites) && { overwrites }),
  };
}

function readTarget(text: string, input: CommandInput): { readonly device: string; readonly file?: string } {
  const equals = text.indexOf("=");
  if (equals === -1) return { device: text };
  if (equals === 0) throw isNoPair(text, "imgtx rollback vda=a1.qcow2 vdb");
  return { device: text.slice(0, equals), file: input.resolve(text.slice(equals + 1)) };
}
