// What an image's own header says: cut off, damaged, dirty, fenced, bitmaps that count for nothing.
//
// Invariant: what a program leaves for as long as it has an image open (the dirty bit, bitmaps in use) is not told of one
// that somebody has open for writing.

import { describeCutOff, folderBeside, hasStaleBitmaps, identityOf, shellQuote } from "../../format/index.ts";
import { type Finding, finding, type Mend } from "./findings.ts";
import type { Patient } from "./census.ts";
import { deviceOn, type Scene, whoCallsItRaw } from "./scene.ts";

export async function judgeHeaders(scene: Scene): Promise<Finding[]> {
  const written = await findWritten(scene);
  return [
    ...scene.given
      .filter((patient) => whoCallsItRaw(patient, scene.wards) === undefined)
      .flatMap((patient) => judgeWhole(patient)),
    ...scene.images.flatMap((patient) => [
      ...judgeFlags(patient, scene, written),
      ...judgeBitmaps(patient, written),
    ]),
  ];
}

type Written = ReadonlySet<Patient>;

/** Those that are open for writing now, of the few whose header says that they were. */
async function findWritten({ storage, images }: Scene): Promise<Written> {
  const asked = images.filter(
    ({ image: { header, bitmaps } }) => header?.isDirty === true || bitmaps.some(({ isInUse }) => isInUse),
  );
  if (asked.length === 0) return new Set();
  const holders = await storage.findAllHolders(asked.map(({ image }) => image.stat));
  return new Set(asked.filter((_, at) => holders[at]?.some(({ writes }) => writes !== false) === true));
}

const READ_ERRORS: ReadonlySet<string> = new Set(["E_NO_PERMISSION", "E_IO", "E_BUSY"]);

/** A file or a folder. */
export function sayUnreadable(path: string, text: string, code: string): Finding {
  const command = code === "E_NO_PERMISSION" ? `sudo imgtx doctor ${shellQuote(path)}` : null;
  return finding("unreadable", { path, text, command });
}

function judgeWhole({ path, image }: Patient): Finding[] {
  const { problem, cutOff, header, stat } = image;
  if (stat.kind !== "file" && stat.kind !== "device") return [];
  if (problem) {
    // A block device that nobody named.
    if (problem.code === "E_NOT_A_FILE") return [];
    if (READ_ERRORS.has(problem.code)) {
      return [sayUnreadable(path, `it can't be read: ${problem.message}`, problem.code)];
    }
    if (problem.code === "E_UNSUPPORTED") {
      return [finding("unsupported", { path, text: `it can't be judged: ${problem.message}` })];
    }
    return [
      finding("header-damaged", {
        path,
        text: `its header can't be true: ${problem.message}`,
        offset: problem.offset ?? null,
      }),
    ];
  }
  if (!cutOff || !header) return [];
  const parts = { path, text: `it is cut off: ${describeCutOff(cutOff)}`, offset: cutOff.start };
  if (header.missingTables.length > 0) return [finding("cut-off", parts)];
  const text =
    `bytes 0x${cutOff.start.toString(16)} onward are missing, which its refcounts count as used: the file has ` +
    `${cutOff.sizeBytes} bytes, and would need ${cutOff.end}; it was cut off, or a crash has left them, which a check tells`;
  return [
    finding("perhaps-cut-off", { ...parts, text, command: `imgtx doctor --check ${shellQuote(path)}` }),
  ];
}

function judgeFlags(patient: Patient, scene: Scene, written: Written): Finding[] {
  const { path, image } = patient;
  const { header, cutOff } = image;
  if (!header || cutOff) return [];
  const found: Finding[] = [];
  const repair = `imgtx img check -r all ${shellQuote(path)}`;
  if (header.isCorrupt) {
    const text = "its corrupt bit is set: QEMU has found it damaged, and opens it for reading only";
    found.push(finding("corrupt-bit", { path, text, command: repair }));
  }
  if (header.isDirty && !header.isCorrupt && !written.has(patient)) {
    const text = "its dirty bit is set, and nobody has it open: its refcounts may be behind after a crash";
    found.push(finding("dirty-bit", { path, text, command: repair, mend: repairing(path, "all") }));
  }
  const owner = deviceOn(scene, patient);
  const isKnown =
    scene.wards.some(({ fences }) => fences.has(identityOf(image.stat))) ||
    scene.census.foldersBeside.has(folderBeside(path, image.stat));
  if (header.changer !== undefined && !isKnown) {
    const text = header.isUnfinished
      ? `transaction ${header.changer} was to fill it, and it never was whole: \`imgtx recover\` in that transaction's ` +
        "workspace goes on with it, or `imgtx mirror DEV FILE` of its device begins anew"
      : `transaction ${header.changer} was cut off amid changing it, and its journal is not here: what it holds is of two ` +
        "moments; `imgtx recover` in that transaction's workspace, or `imgtx img check NAME` of it where it lay then, ends that";
    found.push(finding("half-changed", { path, text, command: null }));
  } else if (header.merger !== undefined && !isKnown) {
    const text =
      `transaction ${header.merger.id} was cut off while it merged into it, or mirrored, and its journal is not here: by ` +
      "itself it shows a part of that; `imgtx recover` in that transaction's workspace ends that";
    found.push(finding("half-changed", { path, text, command: null }));
  } else if (header.isFenced && !isKnown) {
    const text = "it is fenced: QEMU and all other tools refuse it until imgtx lifts that";
    const { root = "", entry } = owner ?? {};
    const command = entry
      ? `imgtx --workspace ${shellQuote(root)} unfreeze --force ${shellQuote(entry.name)}`
      : null;
    const advice = entry ? "" : "; as a device of a workspace, `imgtx unfreeze --force DEV` does";
    found.push(finding("fenced", { path, text: `${text}${advice}`, command }));
  }
  return found;
}

/** What sets refcounts right. */
export function repairing(image: string, scope: "leaks" | "all"): Mend {
  return {
    image,
    format: "qcow2",
    isAlone: true,
    requestFor: (device) => ({ kind: "repair", devices: [device], scope }),
  };
}

function judgeBitmaps(patient: Patient, written: Written): Finding[] {
  const { path, image } = patient;
  const { header, bitmaps } = image;
  if (header && hasStaleBitmaps(header)) {
    const text = "a program that knows no bitmaps has written to it: its bitmaps count for nothing any more";
    // The first bitmap that is added takes the place of all that were.
    const command = `imgtx img bitmap --add --remove ${shellQuote(path)} new && imgtx img check -r leaks ${shellQuote(path)}`;
    return [finding("bitmaps-stale", { path, text, command })];
  }
  if (written.has(patient)) return [];
  return bitmaps
    .filter(({ isInUse }) => isInUse)
    .map(({ name }) =>
      finding("bitmap-in-use", {
        path,
        text: `bitmap ${shellQuote(name)} was not saved by who last wrote to it: it can only be removed, and a full backup made`,
        command: `imgtx img bitmap --remove ${shellQuote(path)} ${shellQuote(name)}`,
      }),
    );
}
