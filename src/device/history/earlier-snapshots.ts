// Workspaces of the version before had no snapshots: what a device was on before a commit moved it on is in the history,
// with what its images looked like then. As far as they still do, these are its snapshots; the first commit writes them.
//
// Invariant: what a device writes to, or what stands on that, is no snapshot any more.

import { ImgtxError } from "../../errors/index.ts";
import { describeStatChanges } from "../../format/index.ts";
import { type DeviceEntry, filesOfDevice, type SeenFile } from "../table/device-entry.ts";
import { type DeviceTable, findDevice } from "../table/device-table.ts";
import { listHistory, readGeneration } from "./history.ts";
import { sealDevice } from "../table/snapshot-record.ts";
import { withSealsOf } from "../table/seals.ts";
import { withSnapshot } from "./snapshots.ts";
import type { Workspace } from "../workspace/workspace.ts";

/** The table with the snapshots that its history comes to. */
export async function withEarlierSnapshots(workspace: Workspace, table: DeviceTable): Promise<DeviceTable> {
  const looks = new Map<string, Promise<boolean>>();
  const active = new Set(table.devices.flatMap(({ image, mirror }) => [image, mirror?.image]));
  const isIntact = async (file: SeenFile): Promise<boolean> => {
    const key = `${file.image} ${file.fingerprint.modifiedNs} ${file.fingerprint.sizeBytes}`;
    const known = looks.get(key) ?? looksAsThen(workspace, file);
    looks.set(key, known);
    return !active.has(file.image) && (await known);
  };
  let sum = table;
  for (const { closed, next } of await readMoves(workspace, table)) {
    const left = closed.devices.filter(({ name, image }) => findDevice(next, name)?.image !== image);
    const kept: DeviceEntry[] = [];
    for (const entry of withSealsOf({ ...closed, devices: left }, sum).devices) {
      const files = filesOfDevice({ chain: entry.chain, mirror: null });
      const whole = await Promise.all(files.map(isIntact));
      if (whole.every(Boolean)) kept.push(entry);
    }
    if (kept.length === 0) continue;
    const message = `generation ${closed.generation}, until: ${next.summary}`;
    sum = withSnapshot(
      { ...sum, generation: table.generation + 1 },
      { name: null, message, created: next.committed, devices: kept.map(sealDevice) },
    ).table;
  }
  return { ...sum, generation: table.generation };
}

interface Move {
  readonly closed: DeviceTable;
  readonly next: DeviceTable;
}

/** Each two generations that follow each other, oldest first. One that is damaged hides no other. */
async function readMoves(workspace: Workspace, table: DeviceTable): Promise<Move[]> {
  const known: DeviceTable[] = [];
  for (const number of await listHistory(workspace, table)) {
    try {
      const one = await readGeneration(workspace, number, table);
      if (one) known.push(one);
    } catch (error) {
      if (!(error instanceof ImgtxError && error.code === "E_CORRUPT")) throw error;
    }
  }
  return known.flatMap((closed, index) => {
    const next = known[index + 1] ?? table;
    return next.generation === closed.generation + 1 ? [{ closed, next }] : [];
  });
}

async function looksAsThen({ storage }: Workspace, { image, fingerprint }: SeenFile): Promise<boolean> {
  const now = await storage.stat(image);
  return now !== undefined && describeStatChanges(fingerprint, now).length === 0;
}
