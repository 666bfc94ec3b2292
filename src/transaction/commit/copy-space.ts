// What a commit needs of a file system after its mark, taken before it: the space that copies take, and the inodes and
// bytes of the small files that are written then. That a disk is full, a file may not become as large as it has to, or may
// not be written to at all, is found while there is a way back.

import { posix } from "node:path";
import { pathsOf, type Workspace } from "../../device/index.ts";
import { type ErrorCode, ImgtxError, whileOpen } from "../../errors/index.ts";
import {
  type GateOptions,
  measureImageRoom,
  measureNewSnapshot,
  measureSpaceToCopy,
  measureSpaceToCopyUp,
  type RedoLog,
  type SpaceToCopy,
  type StagedStorage,
} from "../../format/index.ts";
import type { Reservation, Storage } from "../../storage/index.ts";
import { type CopyUpStep, copyUpOf, isUp, lateLogOf } from "./change-header.ts";
import { AS_IMAGE, isDeviceAt } from "../images/devices.ts";
import { plannedGate } from "../images/planned-gate.ts";
import { assertWritable, openStaged, reserveForRedo } from "../images/redo.ts";
import {
  type Copy,
  copiesOf,
  filesMade,
  type Journal,
  redoOf,
  type TransactionState,
} from "../journal/index.ts";

interface HowToReserve {
  readonly allowPaths: readonly string[];
  readonly logs: ReadonlyMap<string, RedoLog>;
  readonly isRehearsal: boolean;
}

/**
 * Takes all of it: a full disk is found while there is a way back. The caller gives it back right before the copies
 * begin, and also where this fails.
 */
export async function reserveForRest(
  workspace: Workspace,
  journal: Journal,
  how: HowToReserve,
  taken: Reservation[],
): Promise<void> {
  // First: these files need the inodes that are taken as well, the images have theirs.
  await reserveForNotes(workspace, journal, taken);
  await reserveForCopies(workspace, journal.state, how, taken);
  await reserveForRedo(workspace, journal.state, how, taken);
}

async function reserveForCopies(
  workspace: Workspace,
  state: TransactionState,
  { allowPaths, isRehearsal }: HowToReserve,
  taken: Reservation[],
): Promise<void> {
  const { storage } = workspace;
  const room = new Room(storage, state, isRehearsal);
  for (const copy of copiesOf(state)) {
    const plan = state.statements[copy.statement]?.plan;
    const gate = plannedGate(workspace, state, { plan, allowPaths });
    // What is filled was measured when it was planned, and a volume is its own.
    if (copy.kind === "fill") continue;
    if (!(await storage.statLink(copy.from))) throw hasGone(copy);
    await assertWritable(storage, copy.into, { isRehearsal });
    const copiedBytes = isUp(copy)
      ? await reserveForCopyUp(storage, state, copy, { gate, taken, room })
      : await reserveForMerge(storage, state, copy, { gate, taken, room });
    if (copy.late?.snapshot) taken.push(await reserveForSnapshot(storage, copy.into, { copiedBytes, room }));
  }
}

/** What a record may add to the journal's file. */
const RECORD_BYTES = 8192;
/** Of a copy: that all is there, that its log is staged, and that this is applied. */
const RECORDS_OF_COPY = 3;
/** What a log of a header takes. */
const LATE_LOG_BYTES = 2 ** 17;

/** Takes what is written then beside images: records of the journal, the table once more, logs that are made of copies. */
async function reserveForNotes(
  workspace: Workspace,
  { path, state }: Journal,
  taken: Reservation[],
): Promise<void> {
  const { storage } = workspace;
  const copies = copiesOf(state);
  // Which logs are applied when the table has moved is not known yet: those are recorded as well.
  const records = redoOf(state).size + RECORDS_OF_COPY * copies.length;
  if (records === 0) return;
  const { journals, own, table } = pathsOf(workspace);
  const bytesOf = async (file: string): Promise<number> => (await storage.statLink(file))?.sizeBytes ?? 0;
  const endBytes = (await bytesOf(path)) + RECORD_BYTES * records;
  taken.push(await storage.reserveSpace(journals, RECORD_BYTES * records, { path, endBytes }));
  taken.push(await storage.reserveSpace(own, await bytesOf(table)));
  for (const log of copies.map(lateLogOf)) {
    if (log !== undefined) taken.push(await storage.reserveSpace(posix.dirname(log), LATE_LOG_BYTES));
  }
}

/**
 * What is copied as the transaction would leave it, but for layers that it empties: the logs of images that are merged, or
 * that their device leaves, are not applied by then. The caller closes it.
 */
export async function openSources(
  storage: Storage,
  state: TransactionState,
  { files, sources, empties, up }: Copy,
): Promise<StagedStorage> {
  const isPulled = up !== undefined && up.until === undefined;
  const redo = redoOf(state);
  const pulled = sources.filter((image) => redo.get(image)?.isLast !== true);
  const merged = empties === true ? [] : files;
  return await openStaged(storage, state, "read", { only: new Set(isPulled ? pulled : merged) });
}

/** How what is copied up into is opened, with the chain that it stands on so far. */
export function openedBy({ up: { until } }: CopyUpStep, storage: Storage, sources: StagedStorage): Storage {
  return until === undefined ? sources : storage;
}

interface ReserveIn {
  readonly gate: GateOptions;
  readonly taken: Reservation[];
  readonly room: Room;
}

/** Of file systems, and of volumes, whose room an image has to itself. */
class Room {
  readonly #storage: Storage;
  readonly #state: TransactionState;
  readonly #isRehearsal: boolean;
  /** Bytes of each volume that earlier copies take. */
  readonly #taken = new Map<string, number>();

  constructor(storage: Storage, state: TransactionState, isRehearsal: boolean) {
    this.#storage = storage;
    this.#state = state;
    this.#isRehearsal = isRehearsal;
  }

  async isVolume(file: string): Promise<boolean> {
    return await isDeviceAt(this.#storage, file);
  }

  /** E_NO_SPACE, and E_IO where the file may not become as large. grownBytes: what it grows by before. */
  async reserve({ folder, file, ...space }: SpaceToCopy, grownBytes = 0): Promise<Reservation> {
    const { lengthBytes } = space;
    const isDataFile = copiesOf(this.#state).every(({ into }) => into !== file);
    if (isDataFile) await assertWritable(this.#storage, file, { isRehearsal: this.#isRehearsal });
    if (!(await this.isVolume(file))) {
      const endBytes = space.endBytes ?? (await this.#sizeBefore(file)) + grownBytes + lengthBytes;
      return await this.#storage.reserveSpace(folder, lengthBytes, { path: file, endBytes });
    }
    // What holds the guest's bytes in their own places has all that it needs.
    const isImage = copiesOf(this.#state).some(({ into, format }) => into === file && format === "qcow2");
    if (isImage) await this.#takeOf(file, lengthBytes);
    return { release: () => Promise.resolve() };
  }

  /** With its redo log applied, which comes first. */
  async #sizeBefore(file: string): Promise<number> {
    const logged = redoOf(this.#state).get(file);
    return Math.max(logged?.sizeAfter ?? 0, (await this.#storage.stat(file))?.sizeBytes ?? 0);
  }

  async #takeOf(image: string, lengthBytes: number): Promise<void> {
    const taken = (this.#taken.get(image) ?? 0) + lengthBytes;
    // Redo logs come first.
    const staged = await openStaged(this.#storage, this.#state, "read", { only: new Set([image]) });
    await whileOpen(staged, async () => {
      const free = await measureImageRoom(staged, image);
      if (free < taken)
        throw isTooSmall(image, { taken, free, sizeBytes: await sizeOf(this.#storage, image) });
      this.#taken.set(image, taken);
    });
  }
}

async function sizeOf(storage: Storage, image: string): Promise<number> {
  return await whileOpen(await storage.openFile(image, "read", AS_IMAGE), async (file) => {
    return (await file.stat()).sizeBytes;
  });
}

function isTooSmall(
  image: string,
  { taken, free, sizeBytes }: { readonly taken: number; readonly free: number; readonly sizeBytes: number },
): ImgtxError {
  return new ImgtxError(
    "E_NO_SPACE",
    `the volume has room for ${free} bytes, and what is to be copied into the image on it may need ${taken}`,
    {
      image,
      wantsBytes: sizeBytes + taken - free,
      hint: "make the volume larger (`lvextend` for LVM), then run the command again",
    },
  );
}

async function reserveForMerge(
  storage: Storage,
  state: TransactionState,
  copy: Copy,
  { gate, taken, room }: ReserveIn,
): Promise<number> {
  const { from, into: path, format } = copy;
  return await whileOpen(await openSources(storage, state, copy), async (above) => {
    const spaces = await measureSpaceToCopy(storage, { from, into: { path, format } }, gate, above);
    const isMade = filesMade(state).has(from);
    for (const space of spaces)
      taken.push(await reserveFor(storage, { from, into: path, isMade }, space, room));
    return sumOf(spaces);
  });
}

function sumOf(spaces: readonly SpaceToCopy[]): number {
  return spaces.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
}

async function reserveForSnapshot(
  storage: Storage,
  image: string,
  { copiedBytes, room }: { readonly copiedBytes: number; readonly room: Room },
): Promise<Reservation> {
  return await whileOpen(await storage.openFile(image, "read", AS_IMAGE), async (file) => {
    const lengthBytes = await measureNewSnapshot(file, copiedBytes);
    return await room.reserve({ folder: posix.dirname(image), file: image, lengthBytes }, copiedBytes);
  });
}

/** For the disk, and for the file. */
const TOO_MUCH: ReadonlySet<ErrorCode> = new Set(["E_NO_SPACE", "E_IO"]);

/** Where the bound is too high for the disk, both chains are read to know better. */
async function reserveForCopyUp(
  storage: Storage,
  state: TransactionState,
  copy: CopyUpStep,
  { gate, taken, room }: ReserveIn,
): Promise<number> {
  const wanted = copyUpOf(copy, undefined);
  const reserve = async (isExact: boolean): Promise<number> => {
    const reserved: Reservation[] = [];
    const sources = await openSources(storage, state, copy);
    const opening = openedBy(copy, storage, sources);
    try {
      const spaces = await measureSpaceToCopyUp(opening, wanted, gate, { isExact, above: sources });
      for (const space of spaces) reserved.push(await room.reserve(space));
      taken.push(...reserved);
      return sumOf(spaces);
    } catch (error) {
      for (const one of reserved) await one.release();
      throw error;
    } finally {
      await sources.close();
    }
  };
  try {
    return await reserve(false);
  } catch (error) {
    const isTooMuch = error instanceof ImgtxError && TOO_MUCH.has(error.code);
    if (!isTooMuch || !wanted.leavesOutEqual) throw error;
    return await reserve(true);
  }
}

/** What is merged, and whether the transaction has made it. */
interface Merged extends Pick<Copy, "from" | "into"> {
  readonly isMade: boolean;
}

/** E_NO_SPACE tells what is needed in all: undone, what the transaction made has to find room again. */
async function reserveFor(
  storage: Storage,
  { from, into, isMade }: Merged,
  space: SpaceToCopy,
  room: Room,
): Promise<Reservation> {
  const { folder, lengthBytes } = space;
  if (await room.isVolume(space.file)) return await room.reserve(space);
  try {
    return await room.reserve(space);
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code !== "E_NO_SPACE") throw error;
    if (!isMade) {
      throw error.reworded(
        `what is merged into '${into}' may need ${lengthBytes} bytes free in '${folder}', and fewer are`,
      );
    }
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
