// Workspaces with a history for tests: tables that move without an image being there.

import { mkdtempSync, realpathSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll } from "vitest";
import {
  type ChainEntry,
  type DeviceEntry,
  type DeviceTable,
  lockWorkspace,
  makeWorkspace,
  readTable,
  type Workspace,
  writeNextGeneration,
} from "../../../src/device/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { makeFolder } from "../temporary-folder.ts";
import { NO_WAIT } from "../transaction/workbench.ts";
import { device } from "./tables.ts";

export async function makeHere(root = makeFolder()): Promise<Workspace> {
  const workspace = { storage: makeNodeStorage(), root };
  await makeWorkspace(workspace, "2026-01-02T03:04:05.678Z");
  return workspace;
}

/** For all tests of a group. */
export function folderForAll(): string {
  const folder = realpathSync(mkdtempSync(path.join(tmpdir(), "imgtx-test-")));
  afterAll(() => {
    rmSync(folder, { recursive: true });
  });
  return folder;
}

export async function locked<T>(workspace: Workspace, work: () => Promise<T>): Promise<T> {
  const lock = await lockWorkspace(workspace, NO_WAIT);
  try {
    return await work();
  } finally {
    await lock.close();
  }
}

/** Closes the present generation as `closed` has its devices, and returns how many bytes the history got. */
export async function commit(
  workspace: Workspace,
  next: Partial<DeviceTable>,
  closed?: readonly DeviceEntry[],
) {
  const present = await readTable(workspace);
  const { generation } = present;
  const closing = { ...present, devices: closed ?? present.devices };
  const made = { generation: generation + 1, transaction: `t${generation}`, committed: `at ${generation}` };
  await locked(workspace, async () => {
    await writeNextGeneration(workspace, closing, { ...present, ...next, ...made });
  });
  const bytes = statSync(fileOf(workspace, generation)).size;
  return { closing, bytes };
}

export function fileOf({ root }: Workspace, generation: number): string {
  return `${root}/.imgtx/history/${String(generation).padStart(6, "0")}.json`;
}

/** With `count` devices on chains of `depth` images each. */
export function manyDevices(root: string, count: number, depth: number): DeviceEntry[] {
  return Array.from({ length: count }, (_, index) => {
    const name = `vd${1000 + index}`;
    const below = Array.from({ length: depth - 1 }, (__, at) => `${name}-${depth - at}.qcow2`);
    return device(name, `${root}/${name}.qcow2`, ...below.map((each) => [each, `${root}/${each}`] as const));
  });
}

export function written(entry: ChainEntry, modifiedNs: string): ChainEntry {
  return { ...entry, fingerprint: { ...entry.fingerprint, modifiedNs } };
}

/** An overlay on top, the image below sealed by a snapshot. */
export function withOverlay(entry: DeviceEntry, image: string, sealedBy: number): DeviceEntry {
  const [top, ...below] = entry.chain;
  const [made] = device(entry.name, image).chain;
  if (!top || !made) throw new Error("a device has an image");
  return { ...entry, image, chain: [made, { ...top, name: "below", sealedBy }, ...below] };
}
