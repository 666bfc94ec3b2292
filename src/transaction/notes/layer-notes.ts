// Notes on layers of a chain: what is merged, and what a layer stands on.

import { isCount, isFlag, isText, orNull } from "../../device/index.ts";
import { formatBytes, sayBytes } from "../../units/index.ts";
import { shellQuote } from "../../format/index.ts";
import { BOTH, DEVICE, IMAGE, row } from "./note-row.ts";
import { withName } from "./note-words.ts";

export const LAYER_ROWS = {
  // Of merges.
  merged: row({ ...IMAGE, stays: isFlag }, ({ image, stays }) =>
    stays ? `${image} stays where it is, and the device needs it no more` : `${image} goes`,
  ),
  "sibling pulled": row(
    { ...IMAGE, sizeBytes: isCount, isAlone: isFlag },
    ({ image, sizeBytes, isAlone }) =>
      `${image} gets first what it would lose, at most ${formatBytes(sizeBytes)}` +
      (isAlone ? ", and stands on nothing then" : ""),
  ),
  "sibling points to": row(IMAGE, ({ image }) => `${image} stands on the result from now on`),
  "snapshot given up": row(
    { number: orNull(isCount), name: orNull(isText), ...DEVICE },
    ({ number, name, device }) => {
      const which = number === null ? "the snapshot that this transaction takes" : `snapshot ${number}`;
      return `${withName(which, name)} keeps no state of '${device}' any more`;
    },
  ),
  "snapshot not back": row(
    { number: isCount, name: orNull(isText) },
    ({ number, name }) =>
      `what ${withName(`snapshot ${number}`, name)} kept, and keeps no more, does not come back`,
  ),
  "other access": row(
    BOTH,
    ({ image, device }) =>
      `${image} has another owner or other permissions than what '${device}' was on: its guest may not be able to open it`,
  ),
  "folder not read whole": row(
    { ...IMAGE, filesLeft: isCount },
    ({ image, filesLeft }) =>
      `${filesLeft} files of ${image} were not looked at: an overlay among them that stands on what changes would show another content`,
  ),
  "folders not read": row(
    { ...IMAGE, foldersLeft: isCount },
    ({ image, foldersLeft }) =>
      `${foldersLeft} folders below ${image} were not looked into: an overlay in them that stands on what changes would show another content`,
  ),
  "folder not read": row(
    { ...IMAGE, why: isText },
    ({ image, why }) =>
      `${image} could not be looked into (${why}): an overlay in it that stands on what changes would show another content`,
  ),
  "other names": row(
    { ...IMAGE, names: isCount },
    ({ image, names }) =>
      `${image} has ${names} names (hard links), and each of them shows what is changed: a copy made by links is none`,
  ),
  "active elsewhere": row(
    { ...BOTH, workspace: isText },
    ({ image, device, workspace }) =>
      `${image} is the active layer of '${device}' of the workspace '${workspace}' too, whose guest would write to it; ` +
      `\`imgtx --workspace ${shellQuote(workspace)} device remove ${device}\` takes it out there`,
  ),
  "kept elsewhere": row(
    { ...BOTH, workspace: isText, number: isCount },
    ({ image, device, workspace, number }) =>
      `snapshot ${number} of the workspace '${workspace}' keeps ${image}, of '${device}', and has what a guest has written to it since; ` +
      `\`imgtx --workspace ${shellQuote(workspace)} snapshot-show ${number}\` shows what it keeps`,
  ),
  "overlay above": row(
    { ...BOTH, more: isCount },
    ({ image, device, more }) =>
      `${image}${more === 0 ? "" : `, and ${more} more,`} stands on it, and shows another content once the guest of '${device}' writes`,
  ),
  "generation lost": row(
    { generation: isCount },
    ({ generation }) => `the history has no generation ${generation}: what devices were on then is not known`,
  ),
  "merged up": row(
    { ...IMAGE, lengthBytes: isCount },
    ({ image, lengthBytes }) => `up to ${formatBytes(lengthBytes)} from below it go up into ${image}`,
  ),
  "merged down": row(
    { ...IMAGE, lengthBytes: isCount },
    ({ image, lengthBytes }) => `up to ${formatBytes(lengthBytes)} from above it go down into ${image}`,
  ),
  "layer stays": row(
    { ...IMAGE, by: isText },
    ({ image, by }) => `${image} stays, as a layer needed by ${by}`,
  ),
  "layer not merged": row({ ...IMAGE, why: isText }, ({ image, why }) => `${image} stays as a layer: ${why}`),
  "own image stays": row(IMAGE, ({ image }) => `${image} stays where it is: imgtx did not make it`),
  "to relocate": row(
    { entries: isCount, lengthBytes: isCount, stays: isFlag },
    ({ entries, lengthBytes, stays }) => {
      const what = `${entries === 1 ? "a file" : `${entries} files`}, up to ${formatBytes(lengthBytes)}`;
      const [stay, go, copies] =
        entries === 1
          ? ["stays where it is", "goes", "copy is"]
          : ["stay where they are", "go", "copies are"];
      return `${what}, which ${stays ? `${stay} as well` : `${go} when the ${copies} read back and committed`}`;
    },
  ),
  "nothing to relocate": row({}, () => "all that could go is there already"),
  "named apart": row(
    { ...IMAGE, to: isText },
    ({ image, to }) => `${image} goes to ${to}: another image or data file has its name there`,
  ),
  "named anew": row(
    { ...IMAGE, to: isText },
    ({ image, to }) => `${image} stays, and names what it stands on ${to} from now on`,
  ),
  "way to move back": row(
    BOTH,
    ({ image, device }) => `\`imgtx relocate ${device} ${shellQuote(image)}\` moves it back`,
  ),
  "merged into": row(IMAGE, ({ image }) => `${image} gets what is merged`),

  // Of what a layer stands on.
  "stands on": row(
    { ...IMAGE, isAlready: isFlag },
    ({ image, isAlready }) => `it stands on ${image} ${isAlready ? "as it is" : "from now on"}`,
  ),
  "stands on nothing": row(
    { isAlready: isFlag },
    ({ isAlready }) => `it stands on nothing ${isAlready ? "as it is" : "from now on"}`,
  ),
  "left below": row(IMAGE, ({ image }) => `${image} stays as it is, and the device stands on it no more`),
  "other size below": row(
    { ...IMAGE, sizeBytes: isCount, diskBytes: isCount },
    ({ image, sizeBytes, diskBytes }) =>
      `${image} has ${sayBytes(sizeBytes)}, and the disk ${sayBytes(diskBytes)}: after the end of either there are zeros`,
  ),
  "nothing compared": row(
    { ...IMAGE, snapshots: isCount },
    ({ image, snapshots }) =>
      `nothing was read or compared: what the layer does not have itself, it shows of ${image} from now on` +
      (snapshots === 0 ? "" : `, and so do its internal snapshots (${snapshots})`),
  ),
};
