// imgtx mirror DEV [FILE] · imgtx mirror DEV=FILE …

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import type { MirrorTarget } from "../../transaction/index.ts";
import type { ActionCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import type { CommandInput } from "../grammar/input.ts";
import { confirm, confirmOverwritten } from "./confirm.ts";
import { isNoPair } from "./devices-and-name.ts";
import { IMAGE_OPTIONS, readImageOptions } from "./image-options.ts";
import { RATE_LIMIT } from "./rate-limit.ts";

const SYNCS = ["full", "top", "none"] as const;
const MAKING_FLAGS = ["--format", "--sync"];

export const mirror: ActionCommand = {
  kind: "action",
  definition: {
    arguments: [
      { name: "DEV", about: "the device; or DEV=FILE, for several side by side", completes: "device-file" },
      {
        name: "FILE",
        about: "the copy, which must not exist; left out: the mirror that DEV has",
        optional: true,
        variadic: true,
        completes: "file",
      },
    ],
    options: [
      {
        long: "format",
        value: { name: "FORMAT", completes: ["qcow2", "raw"] },
        about: "format of the copy; else the device's",
      },
      {
        long: "sync",
        value: { name: "MODE", completes: SYNCS, choices: SYNCS },
        about:
          "full: the whole content, standing alone (the default); top: the active layer over the same " +
          "backing image; none: an empty overlay over the active layer",
      },
      { long: "compress", about: "compress the clusters of a qcow2 copy" },
      { long: "relative", about: "store the backing file's name relative to the copy's folder" },
      { long: "reuse", about: "take FILE where it exists: it is compared, and brought in sync" },
      {
        long: "overwrite",
        about:
          "write over what is on FILE, a block device; one that begins with a MiB of zeros is taken without",
      },
      {
        long: "bitmap",
        about:
          "keep a persistent bitmap in the device's image, by which QEMU marks what is written from now on",
      },
      { long: "verify", about: "read both back at the end, and compare them" },
      { long: "cancel", about: "forget the mirror of DEV; its file stays" },
      IMAGE_OPTIONS,
      RATE_LIMIT,
    ],
    about:
      "Copies a device to FILE, durably, and keeps FILE as the device's mirror. A later `imgtx mirror DEV` " +
      "brings it in sync: with nothing to do when no image has changed, by the new overlays alone when " +
      "snapshots were taken, else by comparing. Until that is committed the mirror keeps its old content. " +
      "Nobody may have the device open for writing meanwhile.",
    examples: [
      { command: "imgtx mirror vda /backup/vda.qcow2", about: "a full copy, which stands alone" },
      { command: "imgtx mirror vda", about: "bring it in sync" },
      {
        command: "imgtx mirror vda=/b/a.raw vdb=/b/b.raw --format raw",
        about: "both side by side, all or nothing",
      },
      { command: "imgtx mirror vda --cancel", about: "forget the mirror, and keep its file" },
    ],
    exits: CHANGING_EXITS,
  },
  request(input) {
    const named = readNamed(input);
    if (input.flag("--cancel")) return cancel(named, input);
    return { kind: "mirror", targets: named.map((one) => ({ ...readTarget(input), ...one })) };
  },
  async confirm(invocation, open, request) {
    await confirmOverwritten(invocation, open, request);
    const { engine, session } = open;
    const { context, input, settings } = invocation;
    if (!input.flag("--reuse") || settings.yes || settings.dryRun || context.ask === undefined) return;
    const { storage } = context;
    const { devices } = await engine.describeDevices(session, undefined);
    for (const { device, file } of readNamed(input)) {
      if (file === undefined || !(await storage.stat(file))) continue;
      const path = posix.join(await storage.realPath(posix.dirname(file)), posix.basename(file));
      if (devices.some(({ name, mirror: copy }) => name === device && copy?.image === path)) continue;
      const what = `'${path}' is there, and is no mirror of '${device}': what it holds is lost where it differs.`;
      await confirm(invocation, what);
    }
  },
};

type Named = Pick<MirrorTarget, "device" | "file">;

function readNamed(input: CommandInput): readonly Named[] {
  const [first, more] = [input.argument("DEV"), input.texts("FILE")];
  if (first.includes("=")) return [first, ...more].map((text) => readPair(text, input));
  if (more.length > 1) {
    throw new ImgtxError("E_USAGE", `'${more[1]}' is one FILE too many`, {
      hint: "several devices are written as DEV=FILE DEV=FILE",
    });
  }
  const [file] = more;
  return [{ device: first, file: file === undefined ? undefined : input.resolve(file) }];
}

function cancel(named: readonly Named[], input: CommandInput) {
  const odd = MAKING_FLAGS.find((flag) => input.text(flag) !== undefined);
  if (odd !== undefined || named.some(({ file }) => file !== undefined)) {
    throw new ImgtxError("E_USAGE", `--cancel takes a device, and no ${odd ?? "FILE"}`);
  }
  return { kind: "mirror-cancel" as const, devices: named.map(({ device }) => device) };
}

function readPair(text: string, input: CommandInput): Named {
  const equals = text.indexOf("=");
  if (equals <= 0) {
    throw isNoPair(text, "imgtx mirror vda=/backup/a.qcow2 vdb=/backup/b.qcow2");
  }
  return { device: text.slice(0, equals), file: input.resolve(text.slice(equals + 1)) };
}

function readTarget(input: CommandInput): Omit<MirrorTarget, "device" | "file"> {
  const format = input.text("--format");
  const sync = input.text("--sync");
  return {
    format,
    sync: SYNCS.find((mode) => mode === sync),
    compressed: input.flag("--compress"),
    options: readImageOptions(input, format === "raw" ? "raw" : "qcow2"),
    relative: input.flag("--relative"),
    reuse: input.flag("--reuse"),
    ...(input.flag("--overwrite") && { overwrite: true }),
    bitmap: input.flag("--bitmap"),
    verify: input.flag("--verify"),
  };
}
