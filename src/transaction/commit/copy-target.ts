// What is copied, and the image that it comes into, as they are found after the commit mark: whether they are those that
// were planned, and whether somebody else may have written to them.
//
// Invariant: written is only the very file that was planned, by its identity, or where a device is to be on it, by what it
// holds. One that has gone is left so, but for one that a device is to be on, or whose disk is not there: those may come
// back, and are waited for.

import type { DeviceTable } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  describeUnreadChanges,
  fingerprintAt,
  type GateOptions,
  isFileFenced,
  isSameFile,
  mayBeSameFile,
} from "../../format/index.ts";
import type { LockWaiting, Storage, StorageFile } from "../../storage/index.ts";
import { isChanged } from "./change-header.ts";
import { isProvedByContent, mayBeTouched } from "./copy-proof.ts";
import { ALL_COPIED, type Copy, lastSeen, redoOf, type TransactionState } from "../journal/index.ts";
import { lockWriter, openUnlessGone } from "../images/open-free.ts";
import { diskIsAway, foldersOf, isDiskThere } from "../images/planned-folders.ts";
import type { KeptFile, OnProgress } from "../requests/request.ts";

export interface HowToJudge {
  readonly when: "before the table" | "after it";
  /** Files that guests wrote to after the mark, or may have. */
  readonly written?: ReadonlySet<string>;
  /** As the transaction makes it, or as it is after the move. */
  readonly table: DeviceTable;
  /** As it is now. */
  readonly present: DeviceTable;
  /** Whether the caller holds QEMU's locks on the images. */
  readonly isLocked: boolean;
  /** How long to wait for them, where it does not. */
  readonly waiting?: LockWaiting | undefined;
  readonly onProgress?: OnProgress | undefined;
  /** Mirrors that are synced anew after it, by content. */
  readonly syncedAnew?: ReadonlySet<string>;
  /** Whether what takes long is left to others: E_UNFINISHED then. */
  readonly isBrief?: boolean | undefined;
  /** Told of each image that a device goes over to whatever others wrote to it. Undefined: then it waits. */
  readonly onLeft?: ((file: KeptFile) => void) | undefined;
}

/**
 * - as planned: nobody has written to it.
 * - fenced: as far as a copy has come that was cut off. Nobody else can have written to it.
 * - let go: all was copied, and the fence lifted. Others may have written to it since.
 * - touched: not as the transaction saw it last, or it may not be: by a copy that was cut off, or by others.
 * - another: it is left alone.
 */
export type Judged = "as planned" | "fenced" | "let go" | "touched" | "another";

export const UNTOLD = "whether anybody else wrote to it can't be told";

/**
 * E_CHANGED, or E_NOT_FOUND, where a device waits for the content; else unfit. Written: what is merged was written to, or
 * may have been, and all of it is to be merged once more.
 */
export async function judgeSource(
  storage: Storage,
  state: TransactionState,
  { kind, sources, into, empties }: Copy,
  { when, written }: HowToJudge,
): Promise<"as planned" | "written" | "unfit"> {
  let isWritten = sources.some((from) => written?.has(from));
  for (const from of sources) {
    const now = await fingerprintAt(storage, from, undefined);
    const seen = lastSeen(state).get(from)?.fingerprint;
    if (!now && !(await isDiskThere(storage, from, foldersOf(state)))) {
      throw diskIsAway(from, `it is still to be copied into '${into}'`);
    }
    const changes = now && seen ? describeUnreadChanges(seen, now) : [];
    if (now && changes.length === 0) continue;
    // What the transaction would change in it is known of what it was alone; emptied it is not, once it was written to.
    const isRenewable = kind === "merge" && (empties === true || !redoOf(state).has(from));
    if (isRenewable && now && seen && mayBeSameFile(seen, now)) {
      isWritten = true;
      continue;
    }
    if (when === "after it") return "unfit";
    const [code, what] = now
      ? (["E_CHANGED", `somebody has changed it (${changes.join(", ")})`] as const)
      : (["E_NOT_FOUND", "it has gone"] as const);
    throw new ImgtxError(code, `${what}, and it is still to be copied into '${into}'`, {
      image: from,
      hint: "put the file back",
    });
  }
  return isWritten ? "written" : "as planned";
}

/** The image, for reading. Undefined where it has gone, and is not needed any more. */
export async function openCopyTarget(
  storage: Storage,
  state: TransactionState,
  { copy: { into, from }, table }: { readonly copy: Copy; readonly table: DeviceTable },
): Promise<StorageFile | undefined> {
  const file = await openUnlessGone(storage, into);
  if (file) return file;
  if (isOfDevice(table, into)) throw isAway(into, from);
  if (!(await isDiskThere(storage, into, foldersOf(state)))) {
    throw diskIsAway(into, `'${from}' is still to be copied into it`);
  }
  return undefined;
}

/** Locks the image where the caller has not. Throws where a device would go over to what is not a copy of it. */
export async function judgeTarget(
  storage: Storage,
  state: TransactionState,
  { copy, file }: { readonly copy: Copy; readonly file: StorageFile },
  how: HowToJudge & { readonly gate: GateOptions },
): Promise<Judged> {
  const { kind, into, from, format } = copy;
  if (kind !== "sync") return await judgeMerged(storage, state, { copy, file }, how);
  const { table, present, isLocked, waiting, syncedAnew, onProgress, onLeft, isBrief, gate } = how;
  const seen = lastSeen(state);
  const expected = seen.get(into)?.fingerprint;
  if (!expected) throw new Error("an image that is copied into is watched");
  const isPlanned = isSameFile(expected, await file.stat());
  const isDevices = isOfDevice(table, into);
  if (!isPlanned && !isDevices) return "another";
  if (isLocked && isPlanned) return "as planned";
  const dataFile = dataFileOf(table, into);
  if (isPlanned && format === "qcow2" && dataFile === undefined) {
    const wasFenced = state.fences.some(({ image }) => image === into);
    const isFenced = await isFileFenced(file);
    if (wasFenced && !isFenced) return "let go";
    if (!isLocked) await lockWriter(storage, file, waiting);
    if (isFenced) return "fenced";
  } else if (!isLocked) await lockWriter(storage, file, waiting);
  const isTouched = !isPlanned || (await mayBeTouched(storage, { image: into, file, dataFile, seen }));
  if (!isTouched) return "as planned";
  const isSynced = isPlanned && syncedAnew?.has(into) === true;
  if (!isDevices || isSynced) return "touched";
  const pending = { image: into, overlay: from, table, present };
  if (await isProvedByContent(storage, gate, pending, { onProgress, isBrief })) return "touched";
  if (!isPlanned) throw isAnother(into, from);
  if (!onLeft) throw isWrittenTo(into, from);
  onLeft({ path: into, why: `it does not hold what the device held: ${UNTOLD}` });
  return "touched";
}

/**
 * An image that the device stands on already: whatever it holds, what is merged into it hides that. So the copy goes on
 * in the file that was planned, whoever wrote to it.
 */
async function judgeMerged(
  storage: Storage,
  state: TransactionState,
  { copy, file }: { readonly copy: Copy; readonly file: StorageFile },
  { isLocked, waiting }: HowToJudge,
): Promise<Judged> {
  const { into, from, format, copiedBytes } = copy;
  const expected = lastSeen(state).get(into)?.fingerprint;
  if (!expected) throw new Error("an image that is copied into is watched");
  if (!mayBeSameFile(expected, await file.stat())) {
    if (!(await isDiskThere(storage, into, foldersOf(state)))) {
      throw diskIsAway(into, `'${from}' is still to be merged into it`);
    }
    throw isAnother(into, from);
  }
  const isFenced = format === "qcow2" && (await isFileFenced(file));
  if (copiedBytes === ALL_COPIED && (await isChanged(file, copy, state))) return "let go";
  if (isLocked) return "as planned";
  await lockWriter(storage, file, waiting);
  return isFenced ? "fenced" : "touched";
}

export function isOfDevice({ devices }: DeviceTable, image: string): boolean {
  return devices.some(({ chain }) => chain.some((entry) => entry.image === image));
}

function dataFileOf({ devices }: DeviceTable, image: string): string | undefined {
  const entries = devices.flatMap(({ chain, mirror }) => [...chain, ...(mirror?.chain ?? [])]);
  return entries.find((entry) => entry.image === image)?.dataFile?.image;
}

/** Its disk may not be mounted yet: found later, the device would have what it was before, or a half of each. */
function isAway(image: string, overlay: string): ImgtxError {
  return new ImgtxError("E_NOT_FOUND", `it is not there, and '${overlay}' is still to be copied into it`, {
    image,
    hint: "mount its disk, or put the file back; another file in its place is taken as it is",
  });
}

/** A half of each is worse than waiting; what it lacks is in the overlay alone, or in no file at all. */
function isAnother(image: string, overlay: string): ImgtxError {
  const message =
    `another file stands there than the one that '${overlay}' is still to be copied into, and with that ` +
    "it would not hold what the device holds";
  return new ImgtxError("E_REFUSED", message, {
    image,
    hint: "put back the file that was there, or a copy of it",
  });
}

/** What is right in it, the transaction's own overlay and the device say; what others want with the rest, they alone. */
function isWrittenTo(image: string, overlay: string): ImgtxError {
  const message =
    `somebody wrote to it after the commit, while '${overlay}' was being copied into it, and with that it does ` +
    "not hold what the device holds";
  return new ImgtxError("E_CHANGED", message, { image });
}
