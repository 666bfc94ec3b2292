// What a guest must not be started over: a device that is frozen, or that a transaction holds, be it open, at work or cut off;
// and what it must never be on: what a device or a snapshot stands on, and an image that it takes for another format.
//
// A guest is on a device where one of its disks is an image of the device's chain, or stands on its active layer, as what an
// open transaction has put over that does. That it shares a backing image with the device is nothing: clones do.

import type { DeviceEntry } from "../../device/index.ts";
import { identityOf, quoteName, shellQuote } from "../../format/index.ts";
import { sayTime } from "../../units/index.ts";
import { withName } from "../notes/note-words.ts";
import type { TransactionDescription } from "../describe/results.ts";
import type { Patient } from "./census.ts";
import { type Finding, finding } from "./findings.ts";
import { findLeftBeside } from "./orphans.ts";
import { deviceOn, type Guest, type Scene, whoCallsItRaw } from "./scene.ts";
import type { Ward } from "./wards.ts";

export async function judgeStart(scene: Scene): Promise<Finding[]> {
  const found: Finding[] = [...(await findLeftBeside(scene))];
  for (const ward of scene.wards) {
    for (const entry of ward.entries) {
      const disk = await diskOn(scene, entry);
      if (disk) found.push(...judgeEntry(ward, entry, disk));
    }
    found.push(...judgeUnread(ward));
  }
  return found;
}

/** Where there is a guest. Of its formats only what a device table knows keeps it from being started: a header it may write. */
export async function judgeGuest(
  scene: Scene,
  { isForStart }: { readonly isForStart: boolean },
): Promise<Finding[]> {
  const { guest, wards, given } = scene;
  if (guest === undefined) return [];
  const found: Finding[] = [];
  for (const ward of wards) {
    for (const entry of ward.entries) found.push(...(await judgeBelow(scene, guest, ward, entry)));
    found.push(...(await judgeSealed(scene, guest, ward)));
  }
  return [...found, ...given.flatMap((disk) => judgeFormat(scene, guest, disk, isForStart))];
}

async function diskOn(
  { storage, given }: Scene,
  { chain, mirror }: DeviceEntry,
): Promise<Patient | undefined> {
  const identify = async (path: string): Promise<string | undefined> => {
    const stat = await storage.stat(path);
    return stat && identityOf(stat);
  };
  const [active, ...below] = await Promise.all(chain.map(async ({ image }) => await identify(image)));
  const copy = mirror && (await identify(mirror.image));
  return given.find((patient) => {
    const own = identityOf(patient.image.stat);
    return own === copy || below.includes(own) || (active !== undefined && standsOn(patient, active));
  });
}

/**
 * Those that the device stands on, and is not on: a guest's writes there change what it shows, and what snapshots keep. A
 * template that a guest only reads is none of them.
 */
async function judgeBelow(
  { storage, given }: Scene,
  { readOnly }: Guest,
  { root }: Ward,
  { name, chain: [active, ...below] }: DeviceEntry,
): Promise<Finding[]> {
  const stats = await Promise.all(below.map(async ({ image }) => await storage.stat(image)));
  const identities = new Set(stats.flatMap((stat) => (stat ? [identityOf(stat)] : [])));
  return given
    .filter(({ image: { stat } }) => identities.has(identityOf(stat)) && !readOnly.has(identityOf(stat)))
    .map(({ path }) => {
      const text =
        `device ${name} stands on it, and is on ${quoteName(active?.image ?? "")}: a guest that writes to it ruins that; ` +
        `let the guest start on ${quoteName(`${root}/devices/${name}`)}`;
      const command = `imgtx --workspace ${shellQuote(root)} device show ${name}`;
      return finding("guest-below", { path, device: name, text, command });
    });
}

/** What a snapshot keeps, and no device is on or stands on any more. */
async function judgeSealed(
  { storage, given }: Scene,
  { readOnly }: Guest,
  { root, sealed, active, below, snapshots }: Ward,
): Promise<Finding[]> {
  const found: Finding[] = [];
  for (const { path, image } of given) {
    const identity = identityOf(image.stat);
    if (!sealed.has(identity) || active.has(identity) || below.has(identity) || readOnly.has(identity))
      continue;
    const real = await storage.realPath(path);
    const [first] = snapshots.filter(({ devices }) => devices.some((one) => one.image === real));
    const which = first ? `snapshot ${withName(String(first.number), first.name)}` : "a snapshot";
    const text =
      `${which} keeps it, and no device is on it: a guest that writes to it ruins that; let the guest start on what ` +
      `${quoteName(`${root}/devices`)} leads to`;
    const command = `imgtx --workspace ${shellQuote(root)} device list`;
    found.push(finding("guest-below", { path, text, command }));
  }
  return found;
}

function judgeFormat(scene: Scene, { formats }: Guest, disk: Patient, isForStart: boolean): Finding[] {
  const { path, image } = disk;
  const identity = identityOf(image.stat);
  if (!formats.has(identity)) return [];
  const said = formats.get(identity);
  const taken = said ?? "raw";
  if (taken !== "raw" && taken !== "qcow2") return [];
  const device = deviceOn(scene, disk)?.entry;
  const own = device?.chain[0]?.format ?? (isForStart ? undefined : formatOf(scene, disk));
  if (own === undefined || own === taken) return [];
  const domain =
    said === undefined
      ? "the domain does not say its format, which is raw then"
      : `for the domain it is ${said}`;
  const bare = own === "raw" ? "it has no qcow2 header" : "its header is one of qcow2";
  const truth = device ? `device ${device.name} has it as ${own}` : bare;
  const what =
    taken === "raw"
      ? "the guest would take the image file for its disk, and write over its header and tables"
      : "QEMU would not open it";
  const advice = device || own !== "raw" ? `; have its XML say <driver type='${own}'/>` : "";
  const text = `${domain}, and ${truth}: ${what}${advice}`;
  return [finding("guest-format", { path, device: device?.name ?? null, text })];
}

/** By its header; undefined where that tells nothing for sure. */
function formatOf({ wards }: Scene, patient: Patient): string | undefined {
  const { header, problem, probed } = patient.image;
  if (whoCallsItRaw(patient, wards) !== undefined) return undefined;
  if (header) return "qcow2";
  return problem === undefined && probed === undefined ? "raw" : undefined;
}

/** Itself too. A loop is followed once. */
function standsOn(patient: Patient, identity: string): boolean {
  const seen = new Set<Patient>();
  for (let at: Patient | undefined = patient; at && !seen.has(at); at = at.backing?.target) {
    if (identityOf(at.image.stat) === identity) return true;
    seen.add(at);
  }
  return false;
}

function judgeEntry({ root, transactions }: Ward, { name, frozen }: DeviceEntry, disk: Patient): Finding[] {
  const { path } = disk;
  const imgtx = `imgtx --workspace ${shellQuote(root)}`;
  const found = transactions
    .filter(({ devices }) => devices.includes(name))
    .map((one) => {
      const text = `device ${name} is in transaction ${one.id}, which ${sayState(one)}`;
      const isOpen = one.state === "open" && !one.busy && one.problem === null;
      const command = isOpen ? `${imgtx} txn abort ${one.id}` : `${imgtx} recover`;
      return finding("guest-held", { path, device: name, text, command });
    });
  if (!frozen) return found;
  const command = `${imgtx} unfreeze ${name}`;
  return [
    ...found,
    finding("guest-frozen", { path, device: name, text: `device ${name} is frozen`, command }),
  ];
}

function sayState({ state, busy, problem, started }: TransactionDescription): string {
  if (problem !== null) return `waits: ${problem}`;
  if (busy) return "a command works on at this moment";
  return state === "open"
    ? `has been open since ${sayTime(started ?? "?")}: a guest's writes would keep it from being committed`
    : "is committed, and not finished";
}

/** Which devices such a one holds, nobody can tell. */
function judgeUnread({ root, transactions, files }: Ward): Finding[] {
  return transactions
    .filter(({ started }) => started === null)
    .map(({ id, problem }) => {
      const text = `a journal of its workspace can't be read, of transaction ${id}: ${problem ?? "it is damaged"}`;
      return finding("guest-held", {
        path: files[0] ?? root,
        text,
        command: `imgtx --workspace ${shellQuote(root)} recover`,
      });
    });
}
