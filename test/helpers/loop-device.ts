// A block device for one test: a loop device over a file of its own.

import { spawnSync } from "node:child_process";
import { closeSync, ftruncateSync, openSync } from "node:fs";
import { onTestFinished } from "vitest";
import { findingLoop } from "./finding-loop.ts";
import { command } from "./loop-disk.ts";

const attached = new Set<string>();

/** The node of a device of this size, full of what the file holds. It is taken away after the test. */
export function attachLoop(file: string, sizeBytes?: number): string {
  if (sizeBytes !== undefined) {
    const descriptor = openSync(file, "w");
    ftruncateSync(descriptor, sizeBytes);
    closeSync(descriptor);
  }
  const [program, ...words] = findingLoop("losetup", "--find", "--show", file);
  const { stdout, status, stderr } = spawnSync(program, words, { encoding: "utf8" });
  if (status !== 0) throw new Error(`losetup ended with ${status}: ${stderr}`);
  const device = stdout.trim();
  attached.add(device);
  onTestFinished(() => {
    detachLoop(device);
  });
  return device;
}

/** Twice is allowed: by then the number may be somebody else's. */
export function detachLoop(device: string): void {
  if (attached.delete(device)) command("losetup", "--detach", device);
}
