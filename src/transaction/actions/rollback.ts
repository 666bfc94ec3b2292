// rollback: the table goes back to an earlier generation, as a new one. No image is written to.
//
// An earlier generation is what it was only while its images are: each was fingerprinted when its
// generation was superseded, and is compared with that. What was written since stays in its own images.

import { type ChainEntry, type DeviceEntry, type DeviceTable, findDevice } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { describeContentChanges } from "../../format/index.ts";
import { type Action, MAKES_NO_FILES, type Plan, type PlanContext } from "../action.ts";
import { deviceEntryOf, notesOnMirrorLeft } from "../chain-entry.ts";
import { assertNotFrozen } from "../fencing.ts";
import type { ActionReport, RollbackRequest } from "../request.ts";

type OpenChains = Plan["chains"][number][];

export const rollback: Action<RollbackRequest> = {
  async plan({ generation }, context) {
    const { table } = context;
    const wanted = generation ?? table.generation - 1;
    const target = await requireGeneration(wanted, context);
    const moves = movesBetween(table, target);
    const obstacles: string[] = [];
    const chains: OpenChains = [];
    const changes: Plan["changes"][number][] = [];
    for (const { device, before, after } of moves) {
      // Whoever froze it wants it to hold still; and its fence would stay behind on an image of no device.
      if (before) assertNotFrozen(before, "going back would move it to another image");
      // Where the present chain is broken, going back is the way out: that is no obstacle.
      if (before) await openInto(chains, [], before, context);
      const entry = after && (await reviveEntry({ after, wanted, context, chains, obstacles }));
      if (entry !== undefined) changes.push({ device, after: entry });
    }
    if (obstacles.length > 0) {
      throw new ImgtxError("E_CHANGED", `generation ${wanted} can't come back: ${obstacles.join("; ")}`, {
        hint: "`imgtx history` lists the generations; put the images back from a copy, with their times, to reach this one",
      });
    }
    return {
      ...MAKES_NO_FILES,
      devices: moves.map((move) => move.device),
      reports: moves.map((move) => reportOf(move, wanted)),
      changes,
      allowPaths: [],
      chains,
    };
  },
};

interface Move {
  readonly device: string;
  readonly before: DeviceEntry | undefined;
  readonly after: DeviceEntry | null;
}

function movesBetween(present: DeviceTable, target: DeviceTable): Move[] {
  const names = [...new Set([...present.devices, ...target.devices].map((device) => device.name))].sort();
  return names.flatMap((device) => {
    const before = findDevice(present, device);
    const after = findDevice(target, device) ?? null;
    return isSameImage(before, after) ? [] : [{ device, before, after }];
  });
}

function isSameImage(a: DeviceEntry | undefined, b: DeviceEntry | null): boolean {
  return a?.image === b?.image && a?.format === b?.format;
}

async function requireGeneration(wanted: number, context: PlanContext): Promise<DeviceTable> {
  const { generation } = context.table;
  const found = wanted < generation ? await context.readGeneration(wanted) : undefined;
  if (found) return found;
  throw new ImgtxError(
    "E_REFUSED",
    wanted === generation
      ? `generation ${wanted} is the present one`
      : wanted < 0
        ? "there is no generation before the first"
        : `the history has no generation ${wanted}`,
    { hint: "`imgtx history` lists the generations" },
  );
}

/** Today's entry for a device as it was, or undefined with an obstacle noted. */
async function reviveEntry(revive: {
  after: DeviceEntry;
  wanted: number;
  context: PlanContext;
  chains: OpenChains;
  obstacles: string[];
}): Promise<DeviceEntry | undefined> {
  const { after, wanted, context, chains, obstacles } = revive;
  const chain = await openInto(chains, obstacles, after, context);
  if (!chain) return undefined;
  const entry = deviceEntryOf(after.name, chain);
  const closing = await closingEntry(after, wanted, context);
  if (closing.chain.length !== entry.chain.length) {
    obstacles.push(
      `${after.image} has ${entry.chain.length} images in its chain, not ${closing.chain.length}`,
    );
  }
  for (const [depth, was] of closing.chain.entries()) {
    const now = entry.chain[depth];
    if (!now) break;
    obstacles.push(...describeObstacle(was, now));
    if (was.dataFile && now.dataFile) obstacles.push(...describeObstacle(was.dataFile, now.dataFile));
  }
  return entry;
}

type Placed = Pick<ChainEntry, "image" | "fingerprint">;

function describeObstacle(was: Placed, now: Placed): string[] {
  const changed =
    now.image === was.image
      ? describeContentChanges(was.fingerprint, now.fingerprint)
      : [`is ${now.image} now`];
  return changed.length > 0 ? [`${was.image} has changed: ${changed.join(", ")}`] : [];
}

/** The device's entry in the last generation of the stretch from wanted on in which it had this image. */
async function closingEntry(entry: DeviceEntry, wanted: number, context: PlanContext): Promise<DeviceEntry> {
  let closing = entry;
  for (let generation = wanted + 1; generation < context.table.generation; generation += 1) {
    const table = await context.readGeneration(generation);
    const later = table && findDevice(table, entry.name);
    if (!later || !isSameImage(later, entry)) break;
    closing = later;
  }
  return closing;
}

async function openInto(
  chains: OpenChains,
  obstacles: string[],
  entry: DeviceEntry,
  context: PlanContext,
): Promise<OpenChains[number]["chain"] | undefined> {
  try {
    const chain = await context.openChain(entry.image, entry.format, entry.name);
    chains.push({ device: entry.name, chain });
    return chain;
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    obstacles.push(`${entry.image}: ${error.message}`);
    return undefined;
  }
}

function reportOf({ device, before, after }: Move, wanted: number): ActionReport {
  return {
    kind: "rollback",
    device,
    before: before?.image ?? null,
    after: after?.image ?? null,
    format: after?.format ?? null,
    files: [],
    notes: before
      ? [
          `what '${device}' wrote since generation ${wanted} stays in ${before.image}, which no device uses now`,
          ...notesOnMirrorLeft(before),
        ]
      : [],
  };
}
