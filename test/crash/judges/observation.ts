// What a user can tell of a workspace and of the files around it, as text with one fact a line, so that two
// states are equal when their texts are. Both rigs use it, on a simulated tree and on a real folder.
//
// Ids, times and inodes of files that the scenario made are left out: they differ from run to run. Files
// that were there before keep their inode, so theirs is a fact.
//
// What the program writes to in place (a mirror that is brought in sync) is told by its bytes as long as they are what
// they were at first, and then by its guest's content, and that of its internal snapshots: a write that was cut off and repeated lies elsewhere in it.
// Staging files are told so too, under one name: theirs holds an id, and a statement's number. A fence holds an id as
// well, which is left out of the bytes.

import { createHash } from "node:crypto";
import { posix } from "node:path";
import { readHeader } from "../../helpers/guest-content.ts";
import { findProblems, type KnownBytes, readGuest, readSnapshots, type SeenGuest } from "./seen-images.ts";
import type { Tree } from "../simulated/disk-tree.ts";
import { BadState } from "../subject.ts";

export interface FolderEntry {
  /** Absolute. */
  readonly path: string;
  readonly kind: "file" | "folder" | "symlink" | "device";
  readonly inode: string;
  readonly mode: number;
  /** Of a file or a device: a digest of its bytes. Of a link: where it points. */
  readonly content: string;
}

/** A tree of files that can be looked at without the program under test. */
export interface FolderView {
  /** Everything, in the order of the paths. */
  entries(): readonly FolderEntry[];
  open(path: string): KnownBytes;
  /** Undefined where the path leads nowhere. */
  realPath(path: string): string | undefined;
}

export interface WorkspacePlace {
  readonly workspace: string;
  /** Absolute paths of the files that were there before the scenario began. */
  readonly original: ReadonlySet<string>;
  /** The images that are written to in place, by their absolute paths. */
  readonly changing: ReadonlyMap<string, ChangingImage>;
  /** Copies that may go on after a crash. Of their files the layout is no fact; their mirrors' content is. */
  readonly copies?: ReadonlySet<string>;
}

/** An overlay that comes to be on a volume is told by its device alone: what it shows is also what is written below it. */
export type ChangingFormat = "qcow2" | "raw" | "overlay";

interface ChangingImage {
  readonly format: ChangingFormat;
  /** What it was when it was first looked at: as it is told, and its bytes. */
  first: { readonly content: string; readonly bytes: Uint8Array } | undefined;
  /** Whether clusters of it leaked then. */
  leaked: boolean | undefined;
}

/** Of a scenario's paths below the root. */
export function changingImages(
  root: string,
  images: Readonly<Record<string, ChangingFormat>> = {},
): ReadonlyMap<string, ChangingImage> {
  return new Map(
    Object.entries(images).map(([path, format]) => [
      `${root}/${path}`,
      { format, first: undefined, leaked: undefined },
    ]),
  );
}

interface DeviceAnswer {
  readonly name: string;
  readonly image: string;
  readonly format: string;
  readonly "virtual-size": number | null;
  readonly chain: readonly { readonly image: string; readonly format: string }[];
  readonly frozen: boolean;
  readonly mirror: { readonly image: string; readonly format: string; readonly sync: string } | null;
  readonly transaction: string | null;
  readonly problem: string | null;
}

interface TransactionAnswer {
  readonly name: string | null;
  readonly state: string;
  readonly "on-error": string;
  readonly devices: readonly string[];
  readonly actions: readonly {
    readonly kind: string;
    readonly device: string | null;
    readonly after: string | null;
  }[];
  readonly savepoints: readonly string[];
}

interface SnapshotAnswer {
  readonly number: number;
  readonly name: string | null;
  readonly message: string | null;
  readonly devices: readonly {
    readonly device: string;
    readonly image: string;
    readonly format: string;
    readonly intact: boolean;
    readonly problems: readonly string[];
  }[];
  readonly problem: string | null;
}

/** What `device list --json`, `history --json`, `snapshot-list --json` and `txn status --json` say. */
export interface Answers {
  readonly generation: number;
  readonly devices: readonly DeviceAnswer[];
  readonly generations: readonly GenerationAnswer[];
  readonly snapshots: readonly SnapshotAnswer[];
  readonly transactions: readonly TransactionAnswer[];
}

interface GenerationAnswer {
  readonly generation: number;
  readonly summary: string;
  readonly devices: readonly {
    readonly device: string;
    readonly before: string | null;
    readonly after: string | null;
  }[];
}

const OWN_FOLDER = ".imgtx";
const VIEW = "devices";
const STAGING = /\/\.imgtx-[a-z0-9]{10}-\d+-(\d+)$/;
/** Of changes in place that wait for their commit. Past its end, which the journal has, anything may stand. */
const REDO_LOG = /\/\.imgtx-[a-z0-9]{10}-(\d+)\.redo$/;

/** Without answers: there is no workspace yet. */
export function describeWorkspace(
  view: FolderView,
  place: WorkspacePlace,
  answers: Answers | undefined,
): string {
  const lines = describeFiles(view, place);
  if (!answers) return ["no workspace", ...lines].join("\n");
  const { generation, devices, generations, snapshots, transactions } = answers;
  return [
    `generation ${generation}`,
    ...generations.map(describeGeneration),
    ...snapshots.map((snapshot) => describeSnapshot(view, snapshot)),
    ...devices.flatMap((device) => describeDevice(view, place, device)),
    ...describeView(view, place, devices),
    ...transactions.map(describeTransaction).sort(),
    ...lines,
  ].join("\n");
}

/** The files outside the program's own folder, with the names of the devices' view left to describeView. */
export function describeFiles(view: FolderView, place: WorkspacePlace): string[] {
  const own = `${place.workspace}/${OWN_FOLDER}`;
  return view
    .entries()
    .filter(
      ({ path }) => path !== own && !path.startsWith(`${own}/`) && path !== `${place.workspace}/${VIEW}`,
    )
    .map((entry) => {
      const { path, kind, mode, inode } = entry;
      const identity = place.original.has(path) ? ` inode ${inode}` : "";
      const name = path.replace(STAGING, "/.imgtx-ID-$1").replace(REDO_LOG, "/.imgtx-ID-$1.redo");
      return `${kind} ${name} mode ${mode.toString(8)} ${describeContent(view, place, entry)}${identity}`;
    });
}

function describeContent(view: FolderView, place: WorkspacePlace, entry: FolderEntry): string {
  const { path } = entry;
  if (STAGING.test(path)) return describeStaging(view, path);
  if (REDO_LOG.test(path)) return "redo log";
  if (place.copies?.has(path) === true) return "copied";
  const hasBytes = entry.kind === "file" || entry.kind === "device";
  const content = (hasBytes && digestOfFenced(view, path)) || entry.content;
  const changing = place.changing.get(path);
  if (!changing) return content;
  const image = view.open(path);
  changing.first ??= { content, bytes: image.read(0, entry.kind === "device" ? image.sizeBytes : 0) };
  const { first } = changing;
  if (content === first.content) return content;
  // A volume that was made larger, with all on it as it was.
  const isGrown = entry.kind === "device" && image.sizeBytes > first.bytes.length;
  if (isGrown && Buffer.compare(image.read(0, first.bytes.length), first.bytes) === 0) return first.content;
  if (changing.format === "overlay") return "an overlay";
  const snapshots = changing.format === "qcow2" ? readSnapshots(view, path) : [];
  return [`guest ${readGuest(view, path, changing.format).digest}`, ...snapshots].join(", snapshot ");
}

const FENCE = /(?<=(?:frozen|change|merged|filled) by imgtx )[a-z0-9]{10}/g;
const HEAD_BYTES = 4096;

/** Undefined where the file has no fence. */
function digestOfFenced(view: FolderView, path: string): string | undefined {
  const image = view.open(path);
  const { sizeBytes } = image;
  const head = Buffer.from(image.read(0, Math.min(HEAD_BYTES, sizeBytes))).toString("latin1");
  const masked = head.replaceAll(FENCE, "ID");
  if (masked === head) return undefined;
  const rest = image.read(head.length, sizeBytes - head.length);
  return createHash("sha1").update(masked, "latin1").update(rest).digest("base64");
}

/** A file that is on its way, or an overlay that waits to be copied. */
function describeStaging(view: FolderView, path: string): string {
  try {
    return `guest ${readGuest(view, path, "qcow2").digest}`;
  } catch {
    return "half made";
  }
}

function describeDevice(view: FolderView, place: WorkspacePlace, device: DeviceAnswer): string[] {
  const { name, image, format, chain } = device;
  if (device.problem !== null) throw new BadState(`${name}: ${device.problem}`);
  for (const element of chain) {
    assertSound(view, element, { isFrozen: device.frozen, changing: place.changing.get(element.image) });
  }
  const guest = readGuest(view, image, format);
  if (guest.sizeBytes !== device["virtual-size"]) {
    throw new BadState(`${name}: ${device["virtual-size"]} bytes listed, ${guest.sizeBytes} read`);
  }
  const images = chain.map((element) => `${element.image} (${element.format})`).join(" < ");
  const held = device.transaction === null ? "free" : "in a transaction";
  return [
    `device ${name}: ${images}, ${held}, ${device.frozen ? "frozen" : "not frozen"}`,
    describeGuest(name, guest),
    ...describeMirror(view, device),
  ];
}

/** What the guest of a device finds. */
export function describeGuest(name: string, guest: SeenGuest): string {
  return `guest of ${name}: ${sayGuest(guest)}`;
}

function sayGuest({ sizeBytes, digest }: SeenGuest): string {
  return `${sizeBytes} bytes, ${digest}`;
}

function describeMirror(view: FolderView, { name, mirror }: DeviceAnswer): string[] {
  if (!mirror) return [];
  const { image, format, sync } = mirror;
  assertSound(view, mirror, { isFrozen: false });
  return [
    `mirror of ${name}: ${image} (${format}), ${sync}`,
    `guest of the mirror of ${name}: ${describeMirrored(view, mirror)}`,
  ];
}

function describeMirrored(view: FolderView, { image, format }: { image: string; format: string }): string {
  const missing = findMissingParent(view, { image, format });
  if (missing !== undefined) return `none, since ${missing} is not there`;
  return sayGuest(readGuest(view, image, format));
}

/** The twin of a migration can't be read before the chain below it is copied. */
export function findMissingParent(
  view: FolderView,
  { image, format }: { image: string; format: string },
): string | undefined {
  const { backingName } = format === "qcow2" ? readHeader(view.open(image), image) : {};
  if (backingName === undefined) return undefined;
  const below = posix.resolve(posix.dirname(image), backingName);
  const path = view.realPath(below);
  if (path === undefined) return below;
  // A volume is there before.
  const isVolume = view.entries().some((entry) => entry.path === path && entry.kind === "device");
  return isVolume &&
    view
      .open(path)
      .read(0, 4)
      .every((byte) => byte === 0)
    ? below
    : undefined;
}

const LEAKED = / is leaked: /;

function assertSound(
  view: FolderView,
  { image, format }: { image: string; format: string },
  { isFrozen, changing }: { isFrozen: boolean; changing?: ChangingImage | undefined },
): void {
  if (format !== "qcow2") return;
  // Of no frozen device: its change in place was cut off, and the journal that knows of it has lost it. Nobody
  // opens it so.
  if (!isFrozen && readHeader(view.open(image), image).isFenced) return;
  const found = findProblems(view, image);
  // Who repairs an image begins with one that leaks.
  if (changing) changing.leaked ??= found.some((one) => LEAKED.test(one));
  const problems = changing?.leaked === true ? found.filter((one) => !LEAKED.test(one)) : found;
  if (problems.length > 0) throw new BadState(`${image}: ${problems.join("; ")}`);
}

function describeView(view: FolderView, place: WorkspacePlace, devices: readonly DeviceAnswer[]): string[] {
  return devices.map(({ name, image }) => {
    const shown = view.realPath(`${place.workspace}/${VIEW}/${name}`);
    if (shown !== view.realPath(image)) throw new BadState(`${VIEW}/${name} shows ${shown}, not ${image}`);
    return `view of ${name}: ${shown}`;
  });
}

function describeGeneration({ generation, summary, devices }: GenerationAnswer): string {
  const images = devices.map(({ device, before, after }) => `${device} ${before} -> ${after}`);
  return `history ${generation}: ${summary}: ${images.join(", ")}`;
}

/** With what a guest would see of each device. */
function describeSnapshot(
  view: FolderView,
  { number, name, message, devices, problem }: SnapshotAnswer,
): string {
  const images = devices.map(({ device, image, format, intact }) =>
    [device, image, `shows ${showsIn(view, image, format, intact)}${intact ? "" : " changed"}`].join(" "),
  );
  return `snapshot ${number} ${name ?? ""} ${message ?? ""}: ${images.join(", ")} ${problem ?? ""}`;
}

/** One that counts as what it was has to be readable. */
function showsIn(view: FolderView, image: string, format: string, intact: boolean): string {
  try {
    return readGuest(view, image, format).digest;
  } catch (error) {
    if (intact) throw error;
    return "nothing";
  }
}

function describeTransaction(transaction: TransactionAnswer): string {
  const actions = transaction.actions.map(({ kind, device, after }) => `${kind} ${device} -> ${after}`);
  const { name, state, devices, savepoints } = transaction;
  return `transaction ${name ?? "without a name"}: ${state}, on error ${transaction["on-error"]}, devices ${devices.join(" ")}, actions [${actions.join("; ")}], savepoints [${savepoints.join(" ")}]`;
}

/**
 * Of what describeWorkspace says, the devices with their chains and content alone. Not what a mirror holds: where a
 * commit mark is lost after which it was being copied into, it counts as written to, and is compared. And not the nodes
 * of block devices, which lie around as files do: their lines have the same first word, and a path after it.
 */
export function disksIn(observed: string): string {
  return observed
    .split("\n")
    .filter((line) => /^(generation|device|guest|mirror) (?!of the mirror|\/)/.test(line))
    .map((line) => line.replace(", in a transaction", ", free"))
    .join("\n");
}

/** The devices that describeWorkspace tells of. */
export function devicesIn(observed: string): string[] {
  return [...observed.matchAll(/^device (\S+): /gm)].map(([, name]) => name ?? "");
}

/** The bytes of an image on the disk. BadState where no file has the path. */
export function imageIn(tree: Tree, path: string): KnownBytes {
  const { inode } = tree.lookUp(path, true);
  if (inode?.kind !== "file" && inode?.kind !== "device") throw new BadState(`${path} is not there`);
  const { content } = inode;
  return {
    sizeBytes: content.sizeBytes,
    read: (offset, lengthBytes) => content.slice(offset, lengthBytes),
    digest: () => content.digest(),
  };
}
