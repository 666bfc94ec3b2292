// What an image looked like, so that a later look can tell whether somebody changed it.
//
// Invariants
// - A fingerprint is plain JSON, and lives in journals and in the device table's history.
// - That two are equal does not say that nobody wrote in between: describeDoubt says when it does. Whoever decides
//   "in sync" or "as it was" asks both.

import { createHash } from "node:crypto";
import {
  DEVICES,
  type FileStat,
  type Host,
  kindOfFileSystem,
  type Storage,
  type StorageFile,
} from "../storage/index.ts";
import { localTime } from "../units/index.ts";
import { HEAD_BYTES } from "./read-header.ts";

/** What tells one file from another. What is left out was not kept, or could not be told. */
export interface FileIdentity {
  readonly inode: string;
  /** Birth time in nanoseconds since 1970; "0" where the file system keeps none. */
  readonly bornNs: string;
  /** Number of the file system, within the boot. */
  readonly fileSystem?: string;
  /** What the file system is called across boots. */
  readonly fileSystemId?: string;
  /** Which mounting of it this is. */
  readonly mountId?: string;
  readonly bootId?: string;
}

export interface Fingerprint extends FileIdentity {
  readonly sizeBytes: number;
  /** Nanoseconds since 1970, in decimal. */
  readonly modifiedNs: string;
  /** The change time, which nobody can set. Left out where the file is still to get its name, which moves it. */
  readonly changedNs?: string;
  /** Whether each write from then on shows in the change time. */
  readonly settled?: boolean;
  /** SHA-256 in hex of the first HEAD_BYTES of a qcow2 image (fewer where it is shorter); null for raw. */
  readonly headerSha256: string | null;
}

/** Of the file as it is now, on the disk. A raw image has no header of its own: its first bytes are the guest's. */
export async function takeFingerprint(file: StorageFile, hasHeader: boolean): Promise<Fingerprint> {
  const onDisk = file.onDisk ?? file;
  const stat = await onDisk.stat();
  return fingerprintFrom(stat, hasHeader ? await digestHead(onDisk) : null);
}

/**
 * Of whatever the path leads to now, with the header of a file that is open: where they are not one file,
 * the fingerprint is the other file's. Undefined where nothing is there.
 */
export async function fingerprintAt(
  storage: Storage,
  path: string,
  headerOf: StorageFile | undefined,
): Promise<Fingerprint | undefined> {
  const stat = await storage.stat(path);
  return stat && fingerprintFrom(stat, headerOf ? await digestHead(headerOf.onDisk ?? headerOf) : null);
}

/** Of a file that was looked at already, and read where it has a header. */
export async function fingerprintOpened(
  file: StorageFile,
  stat: FileStat,
  head: Uint8Array | undefined,
): Promise<Fingerprint> {
  if (file.onDisk) return await takeFingerprint(file, head !== undefined);
  return fingerprintFrom(stat, head ? hashOf(head) : null);
}

/** From what was read already: the stat, taken before the head was read. */
function fingerprintFrom(stat: FileStat, headerSha256: string | null): Fingerprint {
  const { sizeBytes, modifiedNs, changedNs, settled, inode, bornNs } = stat;
  const { fileSystem, fileSystemId, mountId, bootId } = stat;
  return {
    sizeBytes,
    modifiedNs,
    changedNs,
    settled,
    inode,
    bornNs,
    fileSystem,
    fileSystemId,
    mountId,
    bootId,
    headerSha256,
  };
}

/** Memory for what is read to be digested, and not kept: new one for each image would have the collector run earlier. */
const spare: Uint8Array[] = [];

/** The digest of its header that a fingerprint has, as the file reads: of a staged one, as it will be. */
export async function digestHead(file: StorageFile): Promise<string> {
  const head = spare.pop() ?? new Uint8Array(HEAD_BYTES);
  try {
    return hashOf(head.subarray(0, await file.read(head, 0)));
  } finally {
    spare.push(head);
  }
}

/** Of a file that is to get another name, or its time put back: its change time will move once more. */
export function beforeItsName({ changedNs: _changed, settled: _settled, ...rest }: Fingerprint): Fingerprint {
  return rest;
}

/**
 * Whether both are one file. Within a boot the kernel's number of the file system tells, else the file system's own id,
 * as far as either is known; and the inode and its birth, which tell nothing after a mount where they are made up.
 */
export function isSameFile(a: FileIdentity, b: FileIdentity): boolean {
  if (a.inode !== b.inode) return false;
  if (a.bornNs !== b.bornNs && a.bornNs !== "0" && b.bornNs !== "0") return false;
  const [id, other] = [a.fileSystemId ?? "", b.fileSystemId ?? ""];
  if (hasOwnId(id) && hasOwnId(other) && id !== other) return false;
  // The version before kept nothing of file systems.
  if (a.fileSystem === undefined || b.fileSystem === undefined) return true;
  const isSameBoot = isKnownSame(a.bootId, b.bootId);
  if (isSameBoot && a.mountId === b.mountId) return a.fileSystem === b.fileSystem;
  if (isSameBoot && a.fileSystem !== b.fileSystem && !hasOwnId(id)) return false;
  // By another mounting, which may have given the number to another file.
  return kindOfFileSystem(other).keepsInodes;
}

/**
 * Whether the two may be one file: they are, or a mount has made up new inode numbers since, on a file system of a kind
 * that keeps none. Then only what the file holds can tell.
 */
export function mayBeSameFile(a: FileIdentity, b: FileIdentity): boolean {
  if (isSameFile(a, b)) return true;
  if (!a.fileSystemId || !b.fileSystemId) return false;
  const [kind, other] = [kindOfFileSystem(a.fileSystemId), kindOfFileSystem(b.fileSystemId)];
  if (kind.name !== other.name || other.keepsInodes) return false;
  return !(isKnownSame(a.bootId, b.bootId) && isKnownSame(a.mountId, b.mountId));
}

/** Whether it is that of a block device. */
export function isDeviceIdentity({ fileSystemId = "" }: Pick<FileIdentity, "fileSystemId">): boolean {
  return kindOfFileSystem(fileSystemId).name === DEVICES;
}

/**
 * Whether it lies in an overlay of file systems, as containers have: the first change of a file there, be it of an attribute,
 * copies all of it out of the lower one.
 */
export function isInOverlay({ fileSystemId = "" }: Pick<FileIdentity, "fileSystemId">): boolean {
  return kindOfFileSystem(fileSystemId).name === "overlay";
}

/** Whether a write can leave no trace in the times of the file: its file system keeps another machine's, or whole seconds. */
export function hasCoarseTimes({ fileSystemId, bornNs }: Pick<FileStat, "fileSystemId" | "bornNs">): boolean {
  const { name, keepsTimes } = kindOfFileSystem(fileSystemId);
  return !keepsTimes || (name === "ext" && bornNs === "0");
}

function hasOwnId(fileSystemId: string): boolean {
  return fileSystemId !== "" && !fileSystemId.endsWith(":");
}

function isKnownSame(a: string | undefined, b: string | undefined): boolean {
  return a !== undefined && a !== "" && a === b;
}

/** How often, and how long, a write's grain is waited out. File systems of whole seconds are not waited for. */
const SETTLE_ROUNDS = 8;
const SETTLE_MS = 2;

/**
 * The same fingerprint once each later write would show in the file's times, where that takes milliseconds and nobody
 * writes meanwhile; else as it is.
 */
export async function settleFingerprint(
  host: Host,
  file: StorageFile,
  fingerprint: Fingerprint,
): Promise<Fingerprint> {
  if (fingerprint.settled !== false) return fingerprint;
  // Its times tell of no write, however long that is waited for.
  if (!kindOfFileSystem(fingerprint.fileSystemId ?? "").keepsTimes) return fingerprint;
  const onDisk = file.onDisk ?? file;
  for (let round = 0; round < SETTLE_ROUNDS; round += 1) {
    await host.sleep(SETTLE_MS);
    const now = {
      ...fingerprintFrom(await onDisk.stat(), fingerprint.headerSha256),
    };
    if (now.changedNs !== fingerprint.changedNs || describeChanges(fingerprint, now).length > 0) break;
    if (now.settled === true) return now;
  }
  return fingerprint;
}

/**
 * What changed, a few words each: `size 196616 → 262144`. Empty when nothing is known to have. That a volume was made larger
 * is no change of a qcow2 image in it, which does not end with it; of a raw one it is another size of the disk.
 */
export function describeChanges(before: Fingerprint, now: Fingerprint): string[] {
  return [...describeUnreadChanges(before, now), ...describeHeaderChange(before, now)];
}

/** The same where the header was not read. */
export function describeUnreadChanges(before: Fingerprint, now: Fingerprint): string[] {
  const changes = describeStatChanges(before, now);
  if (mayBeSameFile(before, now)) return changes;
  const replaced =
    before.inode === now.inode
      ? `replaced by another file, or its file system was mounted anew (inode ${now.inode} both times)`
      : `replaced by another file (inode ${before.inode} → ${now.inode})`;
  return [replaced, ...changes];
}

/** The same for an image that may have been copied or moved with its times: which file it is does not count. */
export function describeContentChanges(before: Fingerprint, now: Fingerprint): string[] {
  return [...describeStatChanges(before, now), ...describeHeaderChange(before, now)];
}

function describeHeaderChange(before: Fingerprint, now: Fingerprint): string[] {
  return before.headerSha256 === now.headerSha256 ? [] : ["header"];
}

type Dated = Pick<Fingerprint, "sizeBytes" | "modifiedNs">;

/** The same as far as a stat alone tells, where nobody opens the image. */
export function describeStatChanges(before: Fingerprint, found: Dated): string[] {
  const now = before.headerSha256 === null ? found : inSmallerVolume(before, found);
  const changes: string[] = [];
  if (before.sizeBytes !== now.sizeBytes) changes.push(`size ${before.sizeBytes} → ${now.sizeBytes}`);
  if (before.modifiedNs !== now.modifiedNs) {
    changes.push(`modified ${formatTimes(before.modifiedNs, now.modifiedNs)}`);
  }
  return changes;
}

/** As it would look in a volume as large as before, where that was made larger: also of what is raw, and not to stay so. */
export function inSmallerVolume<Look extends Dated>(before: Fingerprint, now: Look): Look {
  const isLarger = isDeviceIdentity(before) && now.sizeBytes > before.sizeBytes;
  return isLarger ? { ...now, sizeBytes: before.sizeBytes } : now;
}

/**
 * Why somebody may have written to an image that looks the same, as a clause; undefined where nobody can have, unseen.
 * A write that a guest flushes is durable without its times: a power cut, or a mount, may bring the old ones back.
 */
export function describeDoubt(before: Fingerprint, now: Fingerprint): string | undefined {
  if (before.changedNs === undefined || now.changedNs === undefined) return "its change time was not kept";
  if (!kindOfFileSystem(now.fileSystemId ?? "").keepsTimes) {
    return `${isDeviceIdentity(now) ? "a block device" : "its file system"} does not tell of each write`;
  }
  if (!isKnownSame(before.bootId, now.bootId)) return "the host has started anew";
  if (!isKnownSame(before.mountId, now.mountId)) return "its file system was mounted anew";
  if (before.changedNs !== now.changedNs) {
    return `it was changed at ${formatTimes(before.changedNs, now.changedNs)}, and has its old time of modification`;
  }
  if (before.settled !== true) return "it had been written to at that very moment";
  return undefined;
}

// As short as tells the two apart: the time of day, with the date or the fraction where it needs them. Local, with its zone.
function formatTimes(beforeNs: string, nowNs: string): string {
  const before = splitTime(beforeNs);
  const now = splitTime(nowNs);
  if (before.date !== now.date || before.zone !== now.zone) {
    return `${before.date} ${before.time}${before.zone} → ${now.date} ${now.time}${now.zone}`;
  }
  if (before.time !== now.time) return `${before.time} → ${now.time}${now.zone}`;
  return `${before.time}.${before.fraction} → ${now.time}.${now.fraction}${now.zone}`;
}

function splitTime(ns: string): ReturnType<typeof localTime> & { fraction: string } {
  const digits = ns.padStart(10, "0");
  return { ...localTime(Number(digits.slice(0, -9)) * 1000), fraction: digits.slice(-9) };
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The same for every name of one file, and for no other file that is there now; another one after a reboot. */
export function identityOf({ fileSystem, inode }: Pick<FileStat, "fileSystem" | "inode">): string {
  return `${fileSystem}:${inode}`;
}
