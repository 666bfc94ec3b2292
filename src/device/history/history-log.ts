// The history as a log: what made each generation, and which devices it moved from which image to which. Told by the
// generation's own file and the one before it: no table is put together for that.

import { unlessItFails } from "../../errors/index.ts";
import type { ImageFormat } from "../../format/index.ts";
import { type DeviceEntry, isSameImage } from "../table/device-entry.ts";
import type { DeviceTable, TableHead } from "../table/device-table.ts";
import type { StoredGeneration } from "../table/generation-file.ts";
import type { HistoryReads } from "./history.ts";

/** One device whose image, or whose mirror, is another one after a commit. */
export interface DeviceMove {
  readonly device: string;
  /** Null: it was not there. */
  readonly before: ImageName | null;
  readonly after: ImageName | null;
  /** Its mirror, where that is another one. */
  readonly mirror: { readonly before: string | null; readonly after: string | null } | null;
}

interface ImageName {
  readonly image: string;
  readonly format: ImageFormat;
}

export interface LoggedCommit {
  /** What it made. Undefined where nothing tells that any more. */
  readonly head: TableHead | undefined;
  /** By name. Undefined where the generation before it is lost. */
  readonly moves: readonly DeviceMove[] | undefined;
}

/** The commit that made a generation: the present one, or one of the history. */
export async function readCommit(
  history: HistoryReads,
  present: DeviceTable,
  generation: number,
): Promise<LoggedCommit> {
  const before = await unlessItFails(() => history.file(generation - 1), ["E_CORRUPT"]);
  const isPresent = generation === present.generation;
  const own = isPresent ? undefined : await unlessItFails(() => history.file(generation), ["E_CORRUPT"]);
  const head = isPresent ? present : (own?.head ?? before?.stored.next?.head);
  if (!before) return { head, moves: generation === 0 ? [] : undefined };
  const moves = movesOf(before.stored);
  if (moves) return { head, moves };
  // Of a version before, which wrote whole tables.
  const [from, to] = await Promise.all(
    [generation - 1, generation].map(async (one) =>
      one === present.generation ? present : await unlessItFails(() => history.read(one), ["E_CORRUPT"]),
    ),
  );
  return { head, moves: from && to && movesBetween(entriesOf(from.devices), entriesOf(to.devices)) };
}

function movesOf(stored: StoredGeneration): readonly DeviceMove[] | undefined {
  const { next } = stored;
  if (!next) return undefined;
  const changed = new Set([...next.devices.map(({ entry }) => entry.name), ...next.without]);
  const before =
    stored.kind === "whole"
      ? stored.table.devices.filter(({ name }) => changed.has(name))
      : stored.back.devices.map(({ entry }) => entry);
  return movesBetween(entriesOf(before), entriesOf(next.devices.map(({ entry }) => entry)));
}

function movesBetween(
  before: ReadonlyMap<string, DeviceEntry>,
  after: ReadonlyMap<string, DeviceEntry>,
): DeviceMove[] {
  return [...new Set([...before.keys(), ...after.keys()])].sort().flatMap((device): DeviceMove[] => {
    const [was, is] = [before.get(device), after.get(device)];
    const mirrors = { before: was?.mirror?.image ?? null, after: is?.mirror?.image ?? null };
    const mirror = mirrors.before === mirrors.after ? null : mirrors;
    if (isSameImage(was, is) && !mirror) return [];
    return [{ device, before: imageOf(was), after: imageOf(is), mirror }];
  });
}

function imageOf(entry: DeviceEntry | undefined): ImageName | null {
  return entry ? { image: entry.image, format: entry.format } : null;
}

function entriesOf(devices: readonly DeviceEntry[]): ReadonlyMap<string, DeviceEntry> {
  return new Map(devices.map((entry) => [entry.name, entry]));
}
