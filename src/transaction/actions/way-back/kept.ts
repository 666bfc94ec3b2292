// What an undo and a redo leave as it is, though an earlier generation had it otherwise: freezes, mirrors, sizes of disks. Where
// that is all that was done, they are refused, with the command that takes it back.

import { type DeviceEntry, type DeviceTable, findDevice, isSameImage } from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import { type Kept, sayKept } from "../../notes/note-words.ts";
import { type Note, sayNote } from "../../notes/notes.ts";
import type { PlanContext } from "../plan/action.ts";

/** What else a generation and the present differ in: freezes and mirrors stay as they are, which has to be said. */
export function findKept(present: DeviceTable, target: DeviceTable): Kept[] {
  return present.devices.flatMap((now) => {
    const then = findDevice(target, now.name);
    if (!then || !isSameImage(now, then)) return [];
    return [...findKeptFreeze(now, then), ...findKeptMirror(now, then)];
  });
}

/** What gives a disk back the size that it had. */
function findResize(present: DeviceTable, target: DeviceTable): string | undefined {
  for (const { name, virtualSizeBytes: size } of present.devices) {
    const was = findDevice(target, name)?.virtualSizeBytes;
    if (was !== undefined && was !== size)
      return `imgtx resize ${name} ${was}${was < size ? " --shrink" : ""}`;
  }
  return undefined;
}

function findKeptFreeze({ name: device, image, frozen }: DeviceEntry, then: DeviceEntry): Kept[] {
  if ((frozen === null) === (then.frozen === null)) return [];
  return [{ what: frozen ? "frozen" : "not frozen", device, image }];
}

function findKeptMirror({ name: device, mirror }: DeviceEntry, { mirror: then }: DeviceEntry): Kept[] {
  if (mirror?.image === then?.image) {
    if (mirror?.source[0]?.fingerprint.modifiedNs === then?.source[0]?.fingerprint.modifiedNs) return [];
    return [{ what: "mirror's content", device, image: mirror?.image ?? "" }];
  }
  return [{ what: mirror ? "mirrored" : "not mirrored", device, image: (mirror ?? then)?.image ?? "" }];
}

/** Snapshots that the commit has given up or deleted, or some devices of theirs: their images are others by now. */
export function findGone({ snapshots: present }: DeviceTable, { snapshots: then }: DeviceTable): Note[] {
  return then.flatMap(({ number, name, without = [] }) => {
    const now = present.find((ref) => ref.number === number);
    const isWhole = now && (now.without ?? []).every((device) => without.includes(device));
    return isWhole ? [] : [{ code: "snapshot not back", number, name }];
  });
}

/** What the commit did that stands to be taken back. */
export async function sayLast(context: PlanContext): Promise<string> {
  const { generation, position = generation } = context.table;
  const made = position === generation ? context.table : await context.readGeneration(position);
  return made ? `the last commit (${made.summary})` : "the last commit";
}

/** Going back over nothing would claim what did not happen. */
export function nothingMoves(
  {
    wanted,
    target,
    gone,
  }: { readonly wanted: number; readonly target: DeviceTable; readonly gone: readonly Note[] },
  kept: readonly Kept[],
  present: DeviceTable,
  last: string,
): ImgtxError {
  const [first] = kept;
  const said = kept.map(sayKept);
  const mend = said.find(({ command }) => command !== undefined)?.command ?? findResize(present, target);
  const all = `${last} moved no device: in generation ${wanted} each had the image that it has now, and nothing else is taken back`;
  const message = [all, ...gone.map(sayNote)].join("; ");
  return new ImgtxError(
    "E_REFUSED",
    first ? `${message}: ${said.map(({ text }) => text).join("; ")}` : message,
    {
      ...(first && { device: first.device }),
      hint: mend
        ? `\`${mend}\` does that; \`imgtx history\` lists the commits`
        : "`imgtx history` lists the commits",
    },
  );
}
