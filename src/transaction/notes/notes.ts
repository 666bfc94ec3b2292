// What an operator should know of an action, as data: a code, and what the sentence is about. Journals keep it so, and
// results say it. A row here is all that a new note takes.
//
// Invariant: `image` is a path, and nothing else is one: so that a journal finds its files where its workspace is moved.

import {
  isCount,
  isFingerprint,
  isFlag,
  isImageFormat,
  isObject,
  isText,
  oneOf,
  orAbsent,
  orNull,
} from "../../device/index.ts";
import type { Shape } from "../../device/index.ts";
import { CHAIN_DEPTH_MAX, describeChanges, describeCutOff, describeDoubt } from "../../format/index.ts";
import { quoteName, shellQuote } from "../../format/index.ts";
import { formatBytes, sayBytes } from "../../units/index.ts";
import { LAYER_ROWS } from "./layer-notes.ts";
import { BOTH, DEVICE, FINGERPRINTS, IMAGE, type Row, row } from "./note-row.ts";
import { type Fault, FAULTS, howToFlatten, sayDoubt, sayFenceless, sayKept } from "./note-words.ts";

const isFault = (value: unknown): value is Fault => typeof value === "string" && Object.hasOwn(FAULTS, value);

const ROWS = {
  // What an imgtx before this one said, as it stands.
  said: row({ text: isText }, ({ text }) => text),

  "renamed from": row(DEVICE, ({ device }) => `it was called '${device}'`),

  // Of chains.
  "backing file in current folder": row(
    { ...IMAGE, name: isText },
    ({ image, name }) =>
      `${quoteName(image)} names its backing file ${quoteName(name)}, which QEMU looks for in the current ` +
      `folder; \`imgtx img rebase -u -b NAME -F FORMAT ${shellQuote(image)}\` can store another name`,
  ),
  "data file in current folder": row(
    { ...IMAGE, name: isText },
    ({ image, name }) =>
      `${quoteName(image)} names its data file ${quoteName(name)}, which QEMU looks for in the current folder`,
  ),
  "used as raw": row(
    { ...IMAGE, looksLike: isText },
    ({ image, looksLike }) =>
      `${quoteName(image)} is used as raw, as stated, though its content looks like ${looksLike}; a guest can write that`,
  ),
  "format not stated": row(
    { ...IMAGE, name: isText },
    ({ image, name }) =>
      `${quoteName(image)} does not state the format of its backing file; mend it with ` +
      `\`imgtx img rebase -u -F qcow2 -b ${shellQuote(name)} ${shellQuote(image)}\``,
  ),
  "L1 table past end": row(
    IMAGE,
    ({ image }) =>
      `the L1 table of ${quoteName(image)} lies past the end of the file: it reads as zeros, and nothing can be ` +
      "written into the image",
  ),
  "not whole": row(
    { ...IMAGE, start: isCount, end: isCount, sizeBytes: isCount },
    ({ image, ...missing }) =>
      `${quoteName(image)} is not whole: ${describeCutOff(missing)}; a guest gets zeros or errors there`,
  ),
  "volume overwritten": row(
    IMAGE,
    ({ image }) => `what was on ${quoteName(image)} is written over, and nothing brings it back`,
  ),
  "volume to be made": row(
    { ...IMAGE, sizeBytes: isCount, command: isText },
    ({ image, sizeBytes, command }) =>
      `the volume ${quoteName(image)} of ${formatBytes(sizeBytes)} would be made by: ${command}`,
  ),
  "volume goes": row(
    { ...IMAGE, command: isText },
    ({ image, command }) => `the volume ${quoteName(image)} goes with it, taken away by: ${command}`,
  ),
  "volume let go": row(
    IMAGE,
    ({ image }) =>
      `${quoteName(image)} stays, a block device; its head is cleared, and it holds no image any more`,
  ),
  "deep chain": row(
    { ...DEVICE, depth: isCount },
    ({ device, depth }) =>
      `the chain has ${depth} images now, of at most ${CHAIN_DEPTH_MAX}, and gets slower with each; ${howToFlatten(device)}`,
  ),

  // Of fences.
  "stays frozen": row(DEVICE, ({ device }) => `'${device}' stays frozen, until \`imgtx unfreeze ${device}\``),
  "fence without a name": row(
    IMAGE,
    ({ image }) =>
      `the header of ${image} has no room for a name: QEMU refuses it by the number of a feature`,
  ),
  "data file without fence": row(
    IMAGE,
    ({ image }) => `${image} has no fence: it can still be written to as a raw image by itself`,
  ),
  "no place for a fence": row(
    { ...IMAGE, format: isImageFormat },
    ({ image, format }) =>
      `${sayFenceless(format)} has no place for a fence: imgtx holds ${image} to what it is now, QEMU can still write ` +
      "to it, and unfreeze says whether somebody did",
  ),
  "fence gone": row(
    IMAGE,
    ({ image }) => `the fence of ${image} is gone already: somebody else has lifted it`,
  ),
  "fence of others": row(
    BOTH,
    ({ image, device }) =>
      `the fence of ${image} was not set for '${device}' here: imgtx can't tell who relied on it, nor ` +
      "whether the image was changed meanwhile",
  ),
  "half changed": row(
    { ...BOTH, changer: isText },
    ({ image, changer }) =>
      `transaction ${changer} was cut off amid changing ${image}, and is not known here: the image is half changed; ` +
      `\`imgtx recover\` where its journal is ends that`,
  ),
  "copied in part": row(
    { ...IMAGE, changer: isText },
    ({ image, changer }) =>
      `${image} shows a part of what transaction ${changer} was merging into it, or mirroring: by itself it is not whole`,
  ),
  "marked corrupt": row(
    { ...BOTH, changer: isText },
    ({ image, changer }) =>
      `transaction ${changer} was cut off amid changing ${image}: what it holds is of two moments, and no tool can tell ` +
      `which; it is marked corrupt in place of its fence, and \`imgtx img check -r all ${shellQuote(image)}\` makes its metadata agree`,
  ),
  "keeps its fence": row(
    BOTH,
    ({ image, device }) =>
      `${image} could not be opened, and keeps the fence that it has: should it come back, ` +
      `\`imgtx unfreeze --force ${device}\` lifts it`,
  ),
  fenced: row(
    { ...BOTH, holder: orNull(isText) },
    ({ image, device, holder }) =>
      `${image} is fenced, so QEMU refuses ${quoteName(device)}: ` +
      (holder === null
        ? `if nobody relies on that any more, \`imgtx unfreeze --force ${device}\` ends it`
        : `\`imgtx unfreeze ${holder}\` ends it`),
  ),
  "changed while frozen": row(
    { ...IMAGE, before: isFingerprint, now: orNull(isFingerprint) },
    ({ image, before, now }) => {
      const changes = now === null ? ["not in the chain any more"] : describeChanges(before, now);
      return `${image} was changed while it was frozen: ${changes.join(", ")}`;
    },
  ),

  // Of mirrors.
  "in sync already": row({}, () => "it is in sync with the device already; nothing was copied"),
  "mirror written to": row(
    {},
    () => "somebody has written to the mirror since; it was compared from end to end",
  ),
  "bitmap not relied on": row(
    { bitmap: isText, witness: orNull(isText), fault: isFault },
    ({ bitmap, witness, fault }) => {
      const why = FAULTS[fault](quoteName(witness ?? bitmap));
      const own = `bitmap ${quoteName(bitmap)} is not the one that was made last`;
      return `${witness === null ? why : `${own}: ${why}`}; both were compared`;
    },
  ),
  "bitmap in doubt": row(FINGERPRINTS, (found) => `${sayDoubt(found)}; both were compared`),
  "copy in doubt": row(FINGERPRINTS, (found) => `${sayDoubt(found)}: both were compared from end to end`),
  "as it should be": row({}, () => "compared with the device, the mirror was what it should be"),
  mended: row(
    { lengthBytes: isCount, isExpected: isFlag, isWritten: orAbsent(isFlag) },
    ({ lengthBytes, isExpected, isWritten = false }) => {
      const what = `in up to ${lengthBytes} bytes: it is mended`;
      if (isExpected) return `the mirror differed from the device, ${what}`;
      if (isWritten) return `the mirror differed from the device where that has not changed, ${what}`;
      const why = "a disk may be failing, or somebody wrote without being seen";
      return `the mirror differed from the device where neither is known to have changed, ${what}; ${why}`;
    },
  ),
  copied: row({ lengthBytes: isCount }, ({ lengthBytes }) =>
    lengthBytes === 0 ? "nothing had to be copied" : `${formatBytes(lengthBytes)} copied`,
  ),
  "no bitmap": row(
    { ...IMAGE, unmarked: oneOf("data file", "internal snapshots") },
    ({ image, unmarked }) =>
      `no bitmap is kept in ${image}: ` +
      (unmarked === "data file"
        ? "its external data file can be written to by its own name"
        : "its internal snapshots can be applied") +
      ", which none would mark; each time both are compared",
  ),
  "bitmap given up": row({}, () => "no bitmap is kept any more: make another one with --bitmap"),
  "bitmap kept": row(
    { ...IMAGE, bitmap: isText },
    ({ image, bitmap }) => `bitmap '${bitmap}' in ${image} marks what is written from now on`,
  ),
  "twin stands on it": row(
    BOTH,
    ({ image, device }) =>
      `${image} stands on it; \`imgtx reopen ${device} ${shellQuote(image)}\` brings it in sync, and changes over`,
  ),
  "copy the chain": row(
    BOTH,
    ({ image, device }) => `copy its chain to ${image} with \`imgtx mirror ${device}\``,
  ),
  "change over": row(
    BOTH,
    ({ image, device }) => `change over to ${image} with \`imgtx reopen ${device} ${shellQuote(image)}\``,
  ),
  "unfinished copy removed": row({}, () => "its unfinished copy is removed"),
  "mirror left": row(
    BOTH,
    ({ image, device }) => `${image} stays as it is, and is the mirror of '${device}' no more`,
  ),

  // Of where a device goes.
  "content lost": row(
    BOTH,
    ({ image, device }) => `${image} could not be opened: what was only there is lost to '${device}'`,
  ),
  "on it already": row(
    DEVICE,
    ({ device }) => `'${device}' was on it already; its chain is as it is found now`,
  ),
  "other content": row(
    DEVICE,
    ({ device }) =>
      `'${device}' has the content of the other image from now on; nothing was compared or copied`,
  ),
  "mirror synced first": row({}, () => "the mirror was brought in sync with the device first"),
  "mirror was in sync": row({}, () => "the mirror was in sync with the device"),
  "image left": row(IMAGE, ({ image }) => `${image} stays as it is, and no device uses it now`),
  "shell around": row(
    IMAGE,
    ({ image }) =>
      `${image} stays as it is, and is the data file: who writes to it by its own name passes bitmaps by`,
  ),
  "images stay": row({}, () => "its images stay where they are"),
  "trusted already": row(IMAGE, ({ image }) => `${image} is trusted already`),
  trusted: row(
    IMAGE,
    ({ image }) => `raw backing images and data files in ${image} are followed from now on`,
  ),
  provisioner: row({ command: isText }, ({ command }) => `its volumes are made and removed by: ${command}`),
  "no provisioner": row({}, () => "no command makes volumes for it from now on"),
  "written since": row(
    { ...BOTH, generation: isCount },
    ({ image, device, generation }) =>
      `what '${device}' wrote since generation ${generation} stays in ${image}, which no device uses now`,
  ),
  "was frozen": row(DEVICE, ({ device }) => `'${device}' was frozen then, and is not frozen again`),
  "was the mirror": row(IMAGE, ({ image }) => `${image} was its mirror then, and is not again`),
  "other file": row(IMAGE, ({ image }) => `${image} is another file with the same times`),
  "image in doubt": row(
    FINGERPRINTS,
    ({ image, before, now }) =>
      `whether somebody wrote to ${image} can't be told (${describeDoubt(before, now)})`,
  ),
  "back to a snapshot": row(
    { ...IMAGE, number: isCount },
    ({ image, number }) => `it is what snapshot ${number} keeps, in ${image}, which stays as it is`,
  ),
  "kept of no device": row(
    { ...BOTH, number: isCount },
    ({ image, device, number }) =>
      `snapshot ${number} keeps '${device}' too, in ${image}: that is no device any more, and stays out`,
  ),
  "left by a rollback": row(
    { ...BOTH, what: oneOf("frozen", "not frozen", "mirror's content", "mirrored", "not mirrored") },
    (kept) => {
      const { text, command } = sayKept(kept);
      return command === undefined ? text : `${text}: a rollback leaves that to \`${command}\``;
    },
  ),

  // Of files that snapshots keep beside disks.
  "file kept beside": row(
    { ...IMAGE, sizeBytes: isCount },
    ({ image, sizeBytes }) => `the snapshot keeps ${image} as well (${formatBytes(sizeBytes)})`,
  ),
  "file given back": row(
    { ...IMAGE, how: oneOf("made", "written over", "there already") },
    ({ image, how }) =>
      how === "there already"
        ? `${image} is there already, as it was kept`
        : `${image} is ${how}; an undo leaves it as it is then`,
  ),

  ...LAYER_ROWS,

  // Of sizes and internal snapshots.
  "has that size": row({ sizeBytes: isCount }, ({ sizeBytes }) => `it has ${sayBytes(sizeBytes)} already`),
  "mirror resized": row(IMAGE, ({ image }) => `its mirror ${quoteName(image)} gets the same size`),
  resized: row(
    { before: isCount, after: isCount },
    ({ before, after }) => `from ${sayBytes(before)} to ${sayBytes(after)}`,
  ),
  "back to a size": row(
    { before: isCount, after: isCount },
    ({ before, after }) => `from ${formatBytes(before)} to ${formatBytes(after)}: the size that it had`,
  ),
  "VM state": row(
    { snapshot: isText, sizeBytes: isCount, stays: isFlag },
    ({ snapshot, sizeBytes, stays }) =>
      `the VM state of ${quoteName(snapshot)}, ${formatBytes(sizeBytes)}, ${stays ? "stays in the snapshot" : "goes with it"}`,
  ),

  // Of bitmaps.
  "bitmap carried": row(
    { bitmap: isText, ...IMAGE },
    ({ bitmap, image }) => `bitmap ${quoteName(bitmap)} of ${image} marks what is merged`,
  ),
  "inconsistent bitmap removed": row(
    { bitmap: isText },
    ({ bitmap }) => `bitmap ${quoteName(bitmap)} was inconsistent: the next backup has to be a whole one`,
  ),

  // Of repairs.
  sound: row({}, () => "no errors were found on the image"),
  "count repaired": row(
    { offset: isCount, before: isCount, after: isCount },
    ({ offset, before, after }) =>
      `the refcount of the cluster at 0x${offset.toString(16)} becomes ${after}, from ${before}`,
  ),
  "more counts repaired": row({ counts: isCount }, ({ counts }) => `${counts} more refcounts are set right`),
  "flags repaired": row(
    { flags: isCount },
    ({ flags }) => `${flags === 1 ? "a COPIED flag is" : `${flags} COPIED flags are`} set right`,
  ),
  "errors left": row(
    { errors: isCount },
    ({ errors }) => `${errors === 1 ? "an error stays" : `${errors} errors stay`}, which -r all repairs`,
  ),
  "refcounts rebuilt": row(
    {},
    () => "the refcount table and its blocks are made anew, at the end of the file",
  ),
  "snapshots completed": row(
    { entries: isCount },
    ({ entries }) =>
      `${entries === 1 ? "an entry" : `${entries} entries`} of the snapshot table gets the size of its disk`,
  ),
  "extra data cut": row(
    { entries: isCount },
    ({ entries }) =>
      `${entries === 1 ? "an entry" : `${entries} entries`} of the snapshot table loses extra data that QEMU does not read`,
  ),
  "damage left": row(
    { entries: isCount, first: isText },
    ({ entries, first }) =>
      `${entries === 1 ? "what can't be true stays" : `${entries} entries that can't be true stay`}, ` +
      `and with it all that looks lost: ${first}`,
  ),
  "undo kept": row(
    BOTH,
    ({ image, device }) =>
      `\`imgtx repair --undo ${shellQuote(image)} ${shellQuote(device)}\` takes it back, until the image changes`,
  ),
  "repair undone": row(IMAGE, ({ image }) => `what the repair changed is as ${quoteName(image)} has kept it`),
  "mark removed": row(
    { mark: oneOf("dirty", "corrupt") },
    ({ mark }) => `the image is not marked ${mark} any more`,
  ),
};

type Fields = {
  [Code in keyof typeof ROWS]: (typeof ROWS)[Code] extends Row<infer One> ? One : never;
};
type NoteOf<Code extends keyof Fields> = { readonly code: Code } & Readonly<Fields[Code]>;

export type Note = { [Code in keyof Fields]: NoteOf<Code> }[keyof Fields];

const NOTES: { readonly [Code in keyof Fields]: Row<Fields[Code]> } = ROWS;

export const isNote: Shape<Note> = (value): value is Note => {
  const { code } = isObject(value) ? value : {};
  const found = Object.entries(NOTES).find(([name]) => name === code);
  return found !== undefined && found[1].isShaped(value);
};

/** The sentence. */
export function sayNote<Code extends keyof Fields>(note: Fields[Code] & { readonly code: Code }): string {
  return NOTES[note.code].say(note);
}
