// Fills an image that a statement has begun on a block device with the content of a device, after the commit mark: there is
// no name under which it could be made aside.
//
// Invariants
// - The image was begun by a redo log, with a fence that says whose it is. Without that fence nothing is written to it: it
//   is whole, which the journal says before the fence goes, or somebody has written over it. But where the first sector of a
//   raw one has a part of the fence, and else what it is to be, the write that takes the fence away is made once more.
// - Before the mark the volume is only read. The table knows the image as a mirror that is not copied yet until it is whole.
// - What is copied is what the device holds then: whoever goes on with it holds the images, and begins anew where they may
//   have been written to. Where that can't be, the mirror stays one that is not copied yet, and nobody waits for it.

import type { Workspace } from "../../device/index.ts";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import {
  beforeItsName,
  beginningOfRaw,
  describeDoubt,
  describeUnreadChanges,
  emptyUnfinished,
  type Fingerprint,
  type GateOptions,
  fillUnfinished,
  finishUnfinished,
  fingerprintAt,
  isSameFile,
  isUnfinishedBy,
  lookAtFiles,
  mayBeSameFile,
  openImage,
  tidyCutOff,
} from "../../format/index.ts";
import { guestOffset, SECTOR_BYTES } from "../../units/index.ts";
import type { LockWaiting, Storage, StorageFile } from "../../storage/index.ts";
import { ALL_COPIED, type Copy, type Journal, lastSeen, type TransactionState } from "../journal/index.ts";
import type { OnProgress, RunOptions } from "../requests/request.ts";
import { AS_IMAGE } from "./devices.ts";
import { lockWriter, openHeld } from "./open-free.ts";
import { plannedGate } from "./planned-gate.ts";

interface HowToFill {
  readonly table: { readonly allowPaths: readonly string[] };
  /** Whether the caller holds QEMU's locks on the images, and has begun the image a moment ago. */
  readonly isLocked: boolean;
  readonly waiting?: LockWaiting | undefined;
  readonly throttle?: RunOptions["throttle"];
  readonly markEveryMs?: number | undefined;
  readonly onProgress?: OnProgress | undefined;
}

/** How long it goes on before the journal is told how far it is. */
const MARK_EVERY_MS = 5000;

/** What keeps recovery from filling it: the mirror has to be made anew. */
const GIVEN_UP: ReadonlySet<string> = new Set(["E_LOCKED", "E_NO_SPACE", "E_NOT_FOUND", "E_NO_PERMISSION"]);

/** Returns what the image looks like then. Undefined: it is not whole, and nobody goes on with it. */
export async function runFill(
  workspace: Workspace,
  journal: Journal,
  copy: Copy,
  how: HowToFill,
): Promise<ReadonlyMap<string, Fingerprint> | undefined> {
  const opened: StorageFile[] = [];
  try {
    return await fill(workspace, journal, { copy, opened }, how);
  } catch (error) {
    const isGivenUp = !how.isLocked && error instanceof ImgtxError && GIVEN_UP.has(error.code);
    if (!isGivenUp) throw error;
    return undefined;
  } finally {
    for (const file of opened) await file.close();
  }
}

async function fill(
  workspace: Workspace,
  journal: Journal,
  { copy, opened }: { readonly copy: Copy; readonly opened: StorageFile[] },
  how: HowToFill,
): Promise<ReadonlyMap<string, Fingerprint> | undefined> {
  const { storage } = workspace;
  const { state } = journal;
  const { into, format, statement } = copy;
  const file = await storage.openFile(into, "write", AS_IMAGE);
  opened.push(file);
  const seen = lastSeen(state).get(into)?.fingerprint;
  if (!seen || !isSameFile(seen, await file.stat())) return undefined;
  if (!how.isLocked) {
    await lockWriter(storage, file, how.waiting);
    opened.push(...(await openHeld(storage, copy.sources, how.waiting)));
  }
  const plan = state.statements[statement]?.plan;
  const gate = plannedGate(workspace, state, { plan, allowPaths: how.table.allowPaths });
  const place = { path: into, format };
  if (!(await isUnfinishedBy(file, journal.id))) {
    const head =
      copy.copiedBytes === ALL_COPIED &&
      (await headThatEnds(storage, copy, { file, gate, owner: journal.id }));
    if (!head) return undefined;
    // Whoever ended it has died since, or failed: what ended it may be in the page cache alone, and be taken for clean.
    // Others may have written to it.
    await file.write(head, 0);
    await file.flush("filled volume");
    const looks = await lookAtFiles(storage, place, gate);
    return new Map([...looks].map(([path, look]) => [path, beforeItsName(look)]));
  }
  const known = how.isLocked ? 0 : await findStart(storage, state, copy);
  if (known === undefined) return undefined;
  const startBytes = known > 0 && (await isSound(storage, copy, { file, gate })) ? known : 0;
  // What was copied before counts no more, whatever the next one finds.
  if (startBytes < copy.copiedBytes)
    await journal.append({ type: "copied", statement, path: into, offset: 0 }, "copied");
  // Whatever was written to it until then, also by a write that failed.
  if (!how.isLocked && startBytes === 0 && format === "qcow2") await emptyUnfinished(file, journal.id);
  await whileOpen(await openImage(storage, copy.from, { format: copy.fromFormat, gate }), async (source) => {
    const unfinished = { source, file, format };
    const { throttle, onProgress } = how;
    await fillUnfinished(storage, unfinished, {
      gate,
      isFresh: startBytes === 0,
      throttle,
      startBytes,
      onProgress: onProgress && ((done, total) => onProgress(`copying into ${into}`, done, total)),
      progress: progressOf(storage, journal, copy, how),
    });
    await journal.append({ type: "copied", statement, path: into, offset: ALL_COPIED }, "all copied");
    await finishUnfinished(unfinished);
  });
  return await lookAtFiles(storage, place, gate);
}

/**
 * What is to stand in the first sector, which comes last: of a raw one a write that failed may have left a part of it. Undefined
 * where something else stands there.
 */
async function headThatEnds(
  storage: Storage,
  { from, fromFormat, format, into }: Copy,
  { file, gate, owner }: { readonly file: StorageFile; readonly gate: GateOptions; readonly owner: string },
): Promise<Uint8Array | undefined> {
  const [wanted, sector] = [new Uint8Array(SECTOR_BYTES), new Uint8Array(SECTOR_BYTES)];
  const present = sector.subarray(0, await file.read(sector, 0));
  // Of qcow2 that is a header, which tells by itself.
  if (format !== "raw") return present;
  return await whileOpen(await openImage(storage, from, { format: fromFormat, gate }), async (source) => {
    await source.read(wanted, guestOffset(0));
    const begun = await beginningOfRaw(into, owner);
    const isOurs = present.every((byte, at) => byte === wanted[at] || byte === begun[at]);
    return isOurs ? wanted.subarray(0, present.length) : undefined;
  });
}

/** How much of it is there for certain: nothing where the source may have been written to. Undefined: it is another one. */
async function findStart(
  storage: Storage,
  state: TransactionState,
  { sources, copiedBytes }: Copy,
): Promise<number | undefined> {
  let isAsPlanned = true;
  for (const path of sources) {
    const [was, now] = [
      lastSeen(state).get(path)?.fingerprint,
      await fingerprintAt(storage, path, undefined),
    ];
    if (!was || !now || !mayBeSameFile(was, now)) return undefined;
    if (describeUnreadChanges(was, now).length > 0 || describeDoubt(was, now) !== undefined)
      isAsPlanned = false;
  }
  return isAsPlanned && copiedBytes !== ALL_COPIED ? copiedBytes : 0;
}

/** Whether a copy that was cut off can be gone on with. */
async function isSound(
  storage: Storage,
  { format }: Copy,
  { file, gate }: { readonly file: StorageFile; readonly gate: GateOptions },
): Promise<boolean> {
  if (format === "raw") return true;
  try {
    await tidyCutOff(storage, file, { gate, signal: undefined, isFenced: true });
    return true;
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_CORRUPT") return false;
    throw error;
  }
}

function progressOf(
  { host }: Storage,
  journal: Journal,
  { statement, into: path }: Copy,
  { markEveryMs = MARK_EVERY_MS }: HowToFill,
) {
  let told = host.monotonicMs();
  return {
    isDue: () => host.monotonicMs() - told >= markEveryMs,
    async keep(offset: number): Promise<void> {
      try {
        await journal.append({ type: "copied", statement, path, offset }, "copied");
      } catch (error) {
        // It costs the time to copy it again after a crash, and nothing else.
        if (!(error instanceof ImgtxError)) throw error;
      }
      told = host.monotonicMs();
    },
  };
}
