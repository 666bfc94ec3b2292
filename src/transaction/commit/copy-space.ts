// The space that copies take, before the commit mark: a full disk is found while there is a way back.

import { posix } from "node:path";
import type { Workspace } from "../../device/index.ts";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import {
  type GateOptions,
  measureImageRoom,
  measureNewSnapshot,
  measureSpaceToCopy,
  measureSpaceToCopyUp,
  type SpaceToCopy,
  type StagedStorage,
} from "../../format/index.ts";
import type { Reservation, Storage } from "../../storage/index.ts";
import { type CopyUpStep, copyUpOf, isUp } from "./change-header.ts";
import { AS_IMAGE, isDeviceAt } from "../images/devices.ts";
import { plannedGate } from "../images/planned-gate.ts";
import { openStaged } from "../images/redo.ts";
import { type Copy, copiesOf, filesMade, redoOf, type TransactionState } from "../journal/index.ts";

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
  const room = new Room(storage, state);
  for (const copy of copiesOf(state)) {
    const plan = state.statements[copy.statement]?.plan;
    const gate = plannedGate(workspace, state, { plan, allowPaths });
    // What is filled was measured when it was planned, and a volume is its own.
    if (copy.kind === "fill") continue;
    if (!(await storage.statLink(copy.from))) throw hasGone(copy);
    const copiedBytes = isUp(copy)
      ? await reserveForCopyUp(storage, state, copy, { gate, taken, room })
      : await reserveForMerge(storage, state, copy, { gate, taken, room });
    if (copy.late?.snapshot) taken.push(await reserveForSnapshot(storage, copy.into, { copiedBytes, room }));
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
  /** Bytes of each volume that earlier copies take. */
  readonly #taken = new Map<string, number>();

  constructor(storage: Storage, state: TransactionState) {
    this.#storage = storage;
    this.#state = state;
  }

  async isVolume(file: string): Promise<boolean> {
    return await isDeviceAt(this.#storage, file);
  }

  /** E_NO_SPACE. */
  async reserve({ folder, file, lengthBytes }: SpaceToCopy): Promise<Reservation> {
    if (!(await this.isVolume(file))) return await this.#storage.reserveSpace(folder, lengthBytes);
    // What holds the guest's bytes in their own places has all that it needs.
    const isImage = copiesOf(this.#state).some(({ into, format }) => into === file && format === "qcow2");
    if (isImage) await this.#takeOf(file, lengthBytes);
    return { release: () => Promise.resolve() };
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
    const space = await measureSpaceToCopy(storage, { from, into: { path, format } }, gate, above);
    const isMade = filesMade(state).has(from);
    if (space) taken.push(await reserveFor(storage, { from, into: path, isMade }, space, room));
    return space?.lengthBytes ?? 0;
  });
}

async function reserveForSnapshot(
  storage: Storage,
  image: string,
  { copiedBytes, room }: { readonly copiedBytes: number; readonly room: Room },
): Promise<Reservation> {
  return await whileOpen(await storage.openFile(image, "read", AS_IMAGE), async (file) => {
    const lengthBytes = await measureNewSnapshot(file, copiedBytes);
    return await room.reserve({ folder: posix.dirname(image), file: image, lengthBytes });
  });
}

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
      return spaces.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
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
    const isFull = error instanceof ImgtxError && error.code === "E_NO_SPACE";
    if (!isFull || !wanted.leavesOutEqual) throw error;
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
