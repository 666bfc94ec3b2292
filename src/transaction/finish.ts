// Behind the commit mark: the only way is forward. Called by the commit itself, and by recovery.
//
// Invariants
// - Idempotent: it may be cut off at any instant and called again.
// - The caller holds the workspace lock, unless a function says otherwise, and the mark is durable.
// - A mark whose generation the table has reached is finished: a table moves from the generation that the
//   mark was made for, and all earlier marks are finished before the next one is made.

import {
  type ChainEntry,
  type DeviceEntry,
  type DeviceTable,
  isViewPresent,
  flushTableName,
  readTable,
  replaceTable,
  showView,
  withDevices,
  withFingerprints,
  type Workspace,
  writeNextGeneration,
} from "../device/index.ts";
import { ImgtxError } from "../errors/index.ts";
import { describeChanges, type Fingerprint } from "../format/index.ts";
import {
  imagesMergedLate,
  isMergePending,
  NOT_MERGED_YET,
  removeMergedOverlays,
  writeMerges,
} from "./merges.ts";
import { writeCommitPatches } from "./patches.ts";
import type { OnProgress } from "./request.ts";
import {
  changesOf,
  type CommitRecord,
  type Journal,
  lastSeen,
  liveStatements,
  type TransactionState,
  type WatchedImage,
} from "./journal/index.ts";

/** All of it. The caller says whether it holds QEMU's locks on the images. */
export async function finishCommit(
  workspace: Workspace,
  journal: Journal,
  isLocked: boolean,
): Promise<DeviceTable> {
  const table = await moveTable(workspace, journal, isLocked);
  return await closeCommit(
    workspace,
    journal,
    table,
    await mergeLate(workspace, journal, table, { isLocked }),
  );
}

/**
 * Moves the table to the generation of the journal's mark, where it is not there yet, and shows it. What it takes
 * before that, in patches and merges, is done.
 */
export async function moveTable(
  workspace: Workspace,
  journal: Journal,
  isLocked: boolean,
): Promise<DeviceTable> {
  const { commit } = journal.state;
  if (!commit) throw new Error("only what has a commit mark is finished");
  const table = await readTable(workspace);
  if (table.generation < commit.generation - 1) {
    throw new ImgtxError(
      "E_JOURNAL",
      `the journal commits generation ${commit.generation}, but the table is at ${table.generation}`,
      {
        image: journal.path,
        hint: "the table was put back from an older copy: put back the journal folder of the same time",
      },
    );
  }
  if (table.generation >= commit.generation) {
    // Found moved, by a process that died before it knew the move to be durable: the journal must not go first.
    await flushTableName(workspace);
    if (!(await isViewPresent(workspace, table))) await showView(workspace, table);
    return table;
  }
  const planned = nextTable(table, journal.state, commit);
  const changed = new Map([
    ...(await writeCommitPatches(workspace, journal.state, isLocked)),
    ...(await writeMerges(workspace, journal.state, { table: planned, when: "before the table", isLocked })),
    ...[...imagesMergedLate(journal.state, planned)].map((image) => [image, NOT_MERGED_YET] as const),
  ]);
  const before = lastSeen(journal.state);
  const next = withChangedImages(planned, changed, (image) => before.get(image)?.fingerprint);
  await writeNextGeneration(workspace, closingTable(table, journal.state), next);
  return next;
}

/** What is merged when the table has moved. The workspace need not be locked. */
export async function mergeLate(
  workspace: Workspace,
  journal: Journal,
  table: DeviceTable,
  how: { readonly isLocked: boolean; readonly onProgress?: OnProgress | undefined },
): Promise<ReadonlyMap<string, Fingerprint>> {
  return await writeMerges(workspace, journal.state, { table, when: "behind it", ...how });
}

/**
 * Has the table know what was merged behind it, and retires the journal. Returns the transaction's own table with
 * that: others may have moved on since.
 */
export async function closeCommit(
  workspace: Workspace,
  journal: Journal,
  own: DeviceTable,
  merged: ReadonlyMap<string, Fingerprint>,
): Promise<DeviceTable> {
  const before = lastSeen(journal.state);
  const withMerged = (table: DeviceTable): DeviceTable =>
    withChangedImages(table, merged, (image) =>
      isMergePending(table, image) ? NOT_MERGED_YET : before.get(image)?.fingerprint,
    );
  if (merged.size > 0) await replaceTable(workspace, withMerged(await readTable(workspace)));
  await removeMergedOverlays(workspace, journal.state);
  await journal.retire();
  return withMerged(own);
}

function withChangedImages(
  table: DeviceTable,
  changed: ReadonlyMap<string, Fingerprint>,
  beforeOf: (image: string) => Fingerprint | undefined,
): DeviceTable {
  const changes = new Map(
    [...changed].map(([image, now]) => [image, { before: beforeOf(image), now }] as const),
  );
  return { ...table, devices: table.devices.map((device) => withFingerprints(device, changes)) };
}

/** The table that the transaction makes of the present one. */
export function nextTable(table: DeviceTable, state: TransactionState, commit: CommitRecord): DeviceTable {
  const allowed = liveStatements(state).flatMap(({ plan }) => plan.allowPaths);
  return {
    ...withDevices(table, changesOf(state)),
    generation: commit.generation,
    committed: commit.committed,
    transaction: state.begin.id,
    summary: commit.summary,
    allowPaths: [...new Set([...table.allowPaths, ...allowed])],
  };
}

/**
 * The present table as it goes into the history: the chains that the transaction leaves carry the
 * fingerprints that they had last, since that is what a rollback must find again.
 */
export function closingTable(table: DeviceTable, state: TransactionState): DeviceTable {
  const last = new Map<string, WatchedImage>();
  for (const { plan } of liveStatements(state)) {
    for (const watched of plan.watched) {
      if (!last.has(watched.image) || plan.renews.includes(watched.image)) last.set(watched.image, watched);
    }
  }
  const left = new Set(changesOf(state).map((change) => change.device));
  return {
    ...table,
    devices: table.devices.map((device) =>
      left.has(device.name)
        ? {
            ...device,
            chain: device.chain.map((entry) => ({
              ...entry,
              fingerprint: keptFingerprint(
                device,
                entry,
                last.get(entry.image)?.fingerprint ?? entry.fingerprint,
              ),
              dataFile: entry.dataFile && {
                ...entry.dataFile,
                fingerprint: last.get(entry.dataFile.image)?.fingerprint ?? entry.dataFile.fingerprint,
              },
            })),
          }
        : device,
    ),
  };
}

/**
 * What of an image goes into the history. Of one that is fenced for the device, and that nobody wrote to since:
 * what it is without its fence, since a rollback finds it when the fence has been lifted.
 */
function keptFingerprint(device: DeviceEntry, entry: ChainEntry, last: Fingerprint): Fingerprint {
  const fence = device.frozen?.fences.find(({ image }) => image === entry.image);
  return fence && describeChanges(entry.fingerprint, last).length === 0
    ? { ...last, modifiedNs: fence.modifiedNs, headerSha256: fence.unfencedSha256 }
    : last;
}

/** `snapshot-group vda vdb, reopen vdc` */
export function summarise(state: TransactionState): string {
  const parts = liveStatements(state).map(({ plan }) => [plan.kind, ...plan.devices].join(" "));
  return parts.length === 0 ? "no action yet" : parts.join(", ");
}
