// Flushes of many files that are asked for at once. fsync of each makes the disk write its cache out once for each, clean or
// not; syncfs does it once for all of a file system.
//
// Invariants
// - Whoever asked is answered when his file is durable, and not before; what fails, fails for the file that it is about.
// - syncfs is for file systems of which it is known to end with the disk's cache written out, and only where little else
//   waits to be written there: it would wait for all of that.
// - Where it fails, all fail: it may have been another program's file, but fsync of each would then call clean what was lost
//   (ext4 gives up writing at the first such failure, and succeeds from then on: tried). Old kernels tell of nothing there. So after
//   it one file is flushed alone, and each other is asked for what failed of its own.

import { fstatSync, fsync, readFileSync } from "node:fs";
import { findMounting } from "../kernel/file-system.ts";
import { formatDeviceNumber } from "../kernel/sysfs.ts";
import type { SystemCalls } from "../native/system-calls.ts";
import { quietly } from "../quietly.ts";
import type { NativeAccess } from "./native-access.ts";
import { fsyncInPool } from "./pool-calls.ts";

export interface Asked {
  readonly descriptor: number;
  readonly done: () => void;
  readonly failed: (error: unknown) => void;
}

/** Of a group of fewer, fsync of each is as fast. */
const MANY = 8;

/** What the kernel knows of all that waits to be written, on any file system, in KiB. */
const OTHERS_MAX_KIB = 32 * 1024;

let asked: Asked[] = [];

/** fsync of a file, which may be one call for many. */
export async function fsyncTogether(descriptor: number, native: NativeAccess): Promise<void> {
  await new Promise<void>((done, failed) => {
    asked.push({ descriptor, done, failed });
    // All that are asked for in one go come before a microtask does.
    if (asked.length === 1) queueMicrotask(() => void flushAsked(native));
  });
}

async function flushAsked(native: NativeAccess): Promise<void> {
  const all = asked;
  asked = [];
  const calls = all.length < MANY ? undefined : native.optional();
  if (!calls) {
    for (const one of all) flushAlone(one);
    return;
  }
  // Flushes of other kinds that are asked for beside these are under way then.
  await new Promise((go) => {
    setImmediate(go);
  });
  for (const [device, group] of groupByDevice(all)) {
    if (group.length >= MANY && maySync(device)) await flushGroup(group, calls);
    else for (const one of group) flushAlone(one);
  }
}

function flushAlone({ descriptor, done, failed }: Asked): void {
  fsync(descriptor, (error) => {
    if (error) failed(error);
    else done();
  });
}

function groupByDevice(all: readonly Asked[]): ReadonlyMap<bigint, readonly Asked[]> {
  const groups = new Map<bigint, Asked[]>();
  for (const one of all) {
    const device = deviceOf(one.descriptor);
    groups.set(device, [...(groups.get(device) ?? []), one]);
  }
  return groups;
}

/** Of the file system that a regular file lies on. Of a device's node it is not the one that its content goes to. */
export function deviceOf(descriptor: number): bigint {
  const stats = quietly(() => fstatSync(descriptor, { bigint: true }), undefined);
  return stats?.isFile() ? stats.dev : 0n;
}

/** By one call for all; they lie on one file system. */
export async function flushGroup(
  group: readonly Asked[],
  calls: Pick<SystemCalls, "syncFileSystem" | "awaitWriteback">,
): Promise<void> {
  // The first was opened before the others were written to: it is told of all that failed since.
  const [first, ...rest] = group;
  if (!first) return;
  try {
    calls.syncFileSystem(first.descriptor);
    await fsyncInPool(first.descriptor);
  } catch (error) {
    // A second try of each would be told by the kernel that it is clean.
    for (const { failed } of group) failed(error);
    return;
  }
  first.done();
  for (const { descriptor, done, failed } of rest) {
    try {
      calls.awaitWriteback(descriptor);
      done();
    } catch (error) {
      failed(error);
    }
  }
}

/** ext4 ends syncfs with a flush of the disk, even where nothing had to be written. XFS may leave that out. */
function maySync(device: bigint): boolean {
  const mountings = quietly(() => readFileSync("/proc/self/mountinfo", "utf8"), "");
  if (findMounting(mountings, formatDeviceNumber(device))?.type !== "ext4") return false;
  return waitingKib(quietly(() => readFileSync("/proc/meminfo", "utf8"), "")) <= OTHERS_MAX_KIB;
}

/** Of /proc/meminfo. Without end where that does not tell. */
export function waitingKib(meminfo: string): number {
  const found = ["Dirty", "Writeback"].map(
    (name) => new RegExp(`^${name}: *(\\d+) kB$`, "m").exec(meminfo)?.[1],
  );
  return found.reduce((sum, kib) => sum + Number(kib ?? Infinity), 0);
}
