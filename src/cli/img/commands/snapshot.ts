// imgtx img snapshot

import { ImgtxError, whileOpen } from "../../../errors/index.ts";
import { type OpenedImage, readSnapshotTable, type SnapshotEntry } from "../../../format/index.ts";
import type { InternalSnapshotRequest } from "../../../transaction/index.ts";
import type { ImgCommand, ImgInvocation } from "../command.ts";
import { openSource, sourceOptions } from "../images/images.ts";
import { changeImage, type ImageInPlace, lookAtImage } from "../images/in-place.ts";
import { failure, usageError } from "../grammar/messages.ts";
import {
  forceShareOption,
  longFormatOption,
  imageOptsOption,
  objectOption,
  quietOption,
} from "../grammar/options.ts";
import type { QemuVersion } from "../grammar/qemu-version.ts";
import { drawSnapshotList } from "../output/snapshot-list.ts";

const name = { name: "SNAPSHOT", completes: "nothing" } as const;

export const snapshot: ImgCommand = {
  kind: "img",
  definition: {
    arguments: [{ name: "FILENAME", about: "the image", completes: "file" }],
    options: [
      { short: "l", newer: ["list"], about: "list the internal snapshots" },
      { short: "c", newer: ["create"], value: name, about: "keep the present content under this name" },
      { short: "a", newer: ["apply"], value: name, about: "go back to the snapshot of this name or id" },
      { short: "d", newer: ["delete"], value: name, about: "delete the snapshot of this name" },
      longFormatOption,
      objectOption,
      imageOptsOption,
      { ...forceShareOption, about: "with -l: read even while others write" },
      quietOption,
    ],
    about:
      "Lists, makes, applies or deletes internal snapshots of an image, in one transaction: after a crash all is as " +
      "before or as after. Where the image is that of a device, the action is the device's.",
    examples: [
      { command: "imgtx img snapshot -c before-upgrade disk.qcow2", about: "keep the present content" },
      { command: "imgtx img snapshot -l disk.qcow2", about: "which there are" },
    ],
    exits: [0, 1, 130],
    exitMeanings: {
      0: "done",
      1: "failed; the image is as it was",
      130: "interrupted; the image is as it was",
    },
  },
  execute,
};

const VERBS = { "-c": "create", "-a": "apply", "-d": "delete" } as const;
type Verb = (typeof VERBS)[keyof typeof VERBS];

interface Change {
  readonly verb: Verb;
  /** The name or the id that was given. */
  readonly text: string;
}

async function execute(invocation: ImgInvocation): Promise<number> {
  const { input } = invocation;
  const asked = (Object.keys(VERBS) as (keyof typeof VERBS)[]).flatMap((flag) =>
    input.texts(flag).map((text) => ({ verb: VERBS[flag], text })),
  );
  if (asked.length + (input.flag("-l") ? 1 : 0) > 1) throw usageError("Cannot mix '-l', '-a', '-c', '-d'");
  const filename = input.soleImage();
  const [change] = asked;
  if (change === undefined) await list(invocation, filename);
  else await run(invocation, filename, change);
  return 0;
}

async function list(invocation: ImgInvocation, filename: string): Promise<void> {
  const { console, qemuVersion } = invocation;
  const image = await openSource(invocation, filename, { ...sourceOptions(invocation), backing: false });
  await whileOpen(image, async () => {
    const entries = await entriesOf(image);
    if (entries.length === 0) return;
    const lines = ["Snapshot list:", ...drawSnapshotList(entries, qemuVersion)];
    console.print(`${lines.join("\n")}\n`);
  });
}

async function run(invocation: ImgInvocation, filename: string, change: Change): Promise<void> {
  const { verb, text } = change;
  const { place, snapshot: wanted } = await lookAtImage(invocation, filename, async (image, found) => {
    const entries = await entriesOf(image);
    return { place: found, snapshot: pick(entries, found, change, invocation.qemuVersion) };
  });
  const kind: InternalSnapshotRequest["kind"] = `internal-snapshot-${verb}`;
  try {
    await changeImage(invocation, place, (device) => [
      { kind, devices: [device], snapshot: wanted, mayRepeat: true },
    ]);
  } catch (error) {
    throw worded(error, verb, text);
  }
}

async function entriesOf({ chain }: OpenedImage): Promise<readonly SnapshotEntry[]> {
  const [top] = chain.links;
  return top?.header === undefined ? [] : (await readSnapshotTable(top)).entries;
}

/** The name of a new one, the id of one that is there. E_FAILED, in qemu-img's words, where there is none. */
function pick(
  entries: readonly SnapshotEntry[],
  { format }: ImageInPlace,
  { verb, text }: Change,
  qemuVersion: QemuVersion,
): string {
  const refuse = (why: string): Error => failure(`Could not ${verb} snapshot '${text}': ${why}`);
  const isRaw = format === "raw";
  const byName = entries.find((entry) => entry.name === text);
  if (verb === "create") {
    if (isRaw) throw refuse(qemuVersion < 10 ? "-95 (Operation not supported)" : "Operation not supported");
    return text;
  }
  // Deleted by its name alone, as there: a script that means a name must not lose another one.
  const entry = verb === "apply" ? (entries.find(({ id }) => id === text) ?? byName) : byName;
  if (entry) return entry.id;
  if (verb === "delete") throw refuse("snapshot not found");
  throw refuse(
    isRaw ? "Block driver does not support snapshots" : "Failed to load snapshot: No such file or directory",
  );
}

function worded(error: unknown, verb: Verb, text: string): unknown {
  if (!(error instanceof ImgtxError) || error.code === "E_LOCKED") return error;
  if (["E_INTERNAL", "E_INTERRUPTED", "E_TERMINATED"].includes(error.code)) return error;
  const isUsage = error.code === "E_USAGE";
  return new ImgtxError(
    isUsage ? "E_FAILED" : error.code,
    `Could not ${verb} snapshot '${text}': ${error.message}`,
    {
      cause: error,
      ...(error.image !== undefined && { image: error.image }),
      ...(error.hint !== undefined && { hint: error.hint }),
    },
  );
}
