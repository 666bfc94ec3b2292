// The space that copies take, before the commit mark: a full disk is found while there is a way back.

import { posix } from "node:path";
import type { Workspace } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  type GateOptions,
  measureNewSnapshot,
  measureSpaceToCopy,
  measureSpaceToCopyUp,
  type StagedStorage,
} from "../../format/index.ts";
import type { Reservation, Storage } from "../../storage/index.ts";
import { type CopyUpStep, copyUpOf, isUp } from "./change-header.ts";
import { plannedGate } from "../images/planned-gate.ts";
import { openStaged } from "../images/redo.ts";
import { type Copy, copiesOf, type TransactionState } from "../journal/index.ts";

/**
 * Takes the space that the copies need, before the mark: a full disk is found while there is a way back. The caller
 * gives it back right before they begin, and also where this fails.
 */
export async function reserveForCopies(
  workspace: Workspace,
  state: TransactionState,
  allowPaths: readonly string[],
  taken: Reservation[],
): Promise<void> {
  const { storage } = workspace;
  for (const copy of copiesOf(state)) {
    const plan = state.statements[copy.statement]?.plan;
    const gate = plannedGate(workspace, state, { plan, allowPaths });
    if (!(await storage.statLink(copy.from))) throw hasGone(copy);
    const copiedBytes = isUp(copy)
      ? await reserveForCopyUp(storage, state, copy, { gate, taken })
      : await reserveForMerge(storage, state, copy, { gate, taken });
    if (copy.late?.snapshot) taken.push(await reserveForSnapshot(storage, copy.into, copiedBytes));
  }
}

/** Layers that are merged as the transaction would leave them, but for one that it empties. The caller closes it. */
export async function openMerged(
  storage: Storage,
  state: TransactionState,
  { files, empties, up }: Copy,
): Promise<StagedStorage> {
  const isMerged = empties !== true && (up === undefined || up.until !== undefined);
  return await openStaged(storage, state, "read", new Set(isMerged ? files : []));
}

async function reserveForMerge(
  storage: Storage,
  state: TransactionState,
  copy: Copy,
  { gate, taken }: { readonly gate: GateOptions; readonly taken: Reservation[] },
): Promise<number> {
  const { from, into: path, format } = copy;
  const above = await openMerged(storage, state, copy);
  try {
    const space = await measureSpaceToCopy(storage, { from, into: { path, format } }, gate, above);
    if (space) taken.push(await reserveFor(storage, copy, space));
    return space?.lengthBytes ?? 0;
  } finally {
    await above.close();
  }
}

async function reserveForSnapshot(
  storage: Storage,
  image: string,
  copiedBytes: number,
): Promise<Reservation> {
  const file = await storage.openFile(image, "read");
  try {
    return await storage.reserveSpace(posix.dirname(image), await measureNewSnapshot(file, copiedBytes));
  } finally {
    await file.close();
  }
}

/** Where the bound is too high for the disk, both chains are read to know better. */
async function reserveForCopyUp(
  storage: Storage,
  state: TransactionState,
  copy: CopyUpStep,
  { gate, taken }: { readonly gate: GateOptions; readonly taken: Reservation[] },
): Promise<number> {
  const wanted = copyUpOf(copy, undefined);
  const reserve = async (isExact: boolean): Promise<number> => {
    const reserved: Reservation[] = [];
    const merged = await openMerged(storage, state, copy);
    try {
      const spaces = await measureSpaceToCopyUp(storage, wanted, gate, { isExact, above: merged });
      for (const { folder, lengthBytes } of spaces) {
        reserved.push(await storage.reserveSpace(folder, lengthBytes));
      }
      taken.push(...reserved);
      return spaces.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
    } catch (error) {
      for (const one of reserved) await one.release();
      throw error;
    } finally {
      await merged.close();
    }
  };
  try {
    return await reserve(false);
  } catch (error) {
    const isFull = error instanceof ImgtxError && error.code === "E_NO_SPACE";
    if (!isFull || !wanted.leavesOutEqual) throw error;
    return await reserve(true);
  }
}

/** E_NO_SPACE tells what is needed in all: undone, what the transaction made has to find room again. */
async function reserveFor(
  storage: Storage,
  { from, into }: Copy,
  { folder, lengthBytes }: { readonly folder: string; readonly lengthBytes: number },
): Promise<Reservation> {
  try {
    return await storage.reserveSpace(folder, lengthBytes);
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_NO_SPACE") throw error;
    const overlayBytes = (await storage.statLink(from))?.allocatedBytes ?? 0;
    const message =
      `the changes of '${into}' need ${overlayBytes + lengthBytes} bytes in '${folder}' in all: ` +
      `${overlayBytes} for the overlay that is made first, and ${lengthBytes} free to copy it`;
    throw error.reworded(message);
  }
}

/** E_CHANGED, before the mark. */
function hasGone({ from, into }: Copy): ImgtxError {
  return new ImgtxError("E_CHANGED", `what was made for it has gone: '${from}'`, {
    image: into,
    hint: "`imgtx txn abort` takes the transaction back; then begin again",
  });
}
