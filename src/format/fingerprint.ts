// What an image looked like, so that a later look can tell whether somebody changed it.
//
// Invariant: a fingerprint is plain JSON, and lives in journals and in the device table's history.

import { createHash } from "node:crypto";
import type { FileStat, Storage, StorageFile } from "../storage/index.ts";
import { readHead } from "./read-header.ts";

export interface Fingerprint {
  readonly sizeBytes: number;
  /** Nanoseconds since 1970, in decimal. */
  readonly modifiedNs: string;
  readonly inode: string;
  /** Birth time in nanoseconds since 1970; "0" where the file system keeps none. */
  readonly bornNs: string;
  /** SHA-256 in hex of the first HEAD_BYTES of a qcow2 image (fewer where it is shorter); null for raw. */
  readonly headerSha256: string | null;
}

/** Of the file as it is now. A raw image has no header of its own: its first bytes are the guest's. */
export async function takeFingerprint(file: StorageFile, hasHeader: boolean): Promise<Fingerprint> {
  const stat = await file.stat();
  return fingerprintFrom(stat, hasHeader ? await readHead(file) : undefined);
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
  return stat && fingerprintFrom(stat, headerOf && (await readHead(headerOf)));
}

/** From what was read already: the stat, taken before the head was read. */
export function fingerprintFrom(stat: FileStat, head: Uint8Array | undefined): Fingerprint {
  const { sizeBytes, modifiedNs, inode, bornNs } = stat;
  return { sizeBytes, modifiedNs, inode, bornNs, headerSha256: head === undefined ? null : hashOf(head) };
}

/** What changed, a few words each: `size 196616 → 262144`. Empty when nothing did. */
export function describeChanges(before: Fingerprint, now: Fingerprint): string[] {
  const changes = describeContentChanges(before, now);
  const replaced = before.inode !== now.inode || before.bornNs !== now.bornNs;
  return replaced ? [`replaced by another file (inode ${before.inode} → ${now.inode})`, ...changes] : changes;
}

/** The same for an image that may have been copied or moved with its times: which file it is does not count. */
export function describeContentChanges(before: Fingerprint, now: Fingerprint): string[] {
  const changes: string[] = [];
  if (before.sizeBytes !== now.sizeBytes) changes.push(`size ${before.sizeBytes} → ${now.sizeBytes}`);
  if (before.modifiedNs !== now.modifiedNs) {
    changes.push(`modified ${formatTimes(before.modifiedNs, now.modifiedNs)}`);
  }
  if (before.headerSha256 !== now.headerSha256) changes.push("header");
  return changes;
}

// As short as tells the two apart: the time of day, with the date or the fraction where it needs them. UTC.
function formatTimes(beforeNs: string, nowNs: string): string {
  const before = splitTime(beforeNs);
  const now = splitTime(nowNs);
  if (before.date !== now.date) {
    return `${before.date} ${before.time} → ${now.date} ${now.time} UTC`;
  }
  if (before.time !== now.time) return `${before.time} → ${now.time} UTC`;
  return `${before.time}.${before.fraction} → ${now.time}.${now.fraction} UTC`;
}

function splitTime(ns: string): { date: string; time: string; fraction: string } {
  const digits = ns.padStart(10, "0");
  const iso = new Date(Number(digits.slice(0, -9)) * 1000).toISOString();
  return { date: iso.slice(0, 10), time: iso.slice(11, 19), fraction: digits.slice(-9) };
}

function hashOf(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

/** The same for every name of one file, and for no other file that is there now; another one after a reboot. */
export function identityOf({ fileSystem, inode }: Pick<FileStat, "fileSystem" | "inode">): string {
  return `${fileSystem}:${inode}`;
}
