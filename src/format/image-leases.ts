// Leases on images that devices leave, while a commit moves them: nobody who opens one for writing gets it meanwhile.
//
// QEMU opens an image first, and locks it a moment later. Whoever has come between the two when a device leaves
// the image sees no lock of ours afterwards, and writes to what the device is not on any more. A lease shows him,
// as it shows what takes no locks at all (locking=off, a loop device), and has who comes later wait in his open.
//
// Invariants
// - Taken with the workspace locked, and never waited for in there: whoever has the workspace may be about to open
//   the image for writing, and would wait for the lease.
// - Given back as soon as the table has moved, and before anything that takes long: a guest that starts meanwhile
//   hangs in its open.
// - None on an image that this commit writes to itself: it would wait for itself. A fence or a writer's lock keeps
//   others from such an image.
// - QEMU's locks on the image are held until whoever has it open for writing has met them, and failed.
// - Where there are no leases (another user's image, NFS) all goes on without.

import { ImgtxError } from "../errors/index.ts";
import {
  describeWriters,
  type Host,
  type LockWaiting,
  type Refusal,
  type Storage,
  type StorageFile,
  waitForLock,
} from "../storage/index.ts";

/** Open for reading, and by nothing of this process for writing. */
export interface LeasedImage {
  readonly device: string;
  readonly image: string;
  readonly file: StorageFile;
}

/** Another imgtx, or whoever opens for writing and closes at once, is waited for as with locks. */
const GRACE_MS = 40;

/** How long whoever came amid the move is given to meet QEMU's locks, and to go. */
const LEASE_TRIES = 60;
const LEASE_PAUSE_MS = 50;

/** Repeats an attempt until nobody has an image open any more who is in its way: E_LOCKED when the time is up. */
export async function waitForLeases<T extends object>(
  host: Host,
  waiting: LockWaiting,
  attempt: () => Promise<T | Refusal>,
): Promise<T> {
  const done: T[] = [];
  await waitForLock(host, waiting, GRACE_MS, async () => {
    const result = await attempt();
    if ("toError" in result) return result;
    done.push(result);
    return undefined;
  });
  const [result] = done;
  if (!result) throw new Error("what was not refused was done");
  return result;
}

export class ImageLeases {
  readonly #storage: Storage;
  readonly #images: readonly LeasedImage[];
  readonly #met = new Set<LeasedImage>();

  constructor(storage: Storage, images: readonly LeasedImage[]) {
    this.#storage = storage;
    this.#images = images;
  }

  /** All of them, or none and why. */
  take(): Refusal | undefined {
    for (const image of this.#images) {
      if (image.file.takeLease() !== "writers") continue;
      this.drop();
      return refusalOf(this.#storage, image);
    }
    return undefined;
  }

  /** Why the commit must not go on: somebody waits to open one of the images for writing, and would get it. */
  whoWaits(): Refusal | undefined {
    const wanted = this.#images.find(({ file }) => file.isLeaseWanted());
    return wanted && refusalOf(this.#storage, wanted);
  }

  /** Gives them back, and keeps in mind who waited. */
  drop(): void {
    for (const image of this.#images) {
      if (image.file.isLeaseWanted()) this.#met.add(image);
      image.file.dropLease();
    }
  }

  /** Gives them back before the move: whoever comes from now on is looked for afterwards. */
  dropEarly(): void {
    this.drop();
    for (const image of this.#images) this.#met.add(image);
  }

  /**
   * Called after the move, with QEMU's locks still held: waits until whoever came amid it has met them. What it
   * returns says who has not: a line for each image.
   */
  async findWhoWrote(): Promise<string[]> {
    const lines: string[] = [];
    for (const image of this.#met) {
      if (await isFree(this.#storage.host, image.file)) continue;
      const { device } = image;
      const who = describeWriters(await this.#storage.findHolders(await image.file.stat()));
      lines.push(
        `${image.image} was opened for writing while '${device}' moved on from it, by ${who}: what is written there ` +
          `is not on '${device}'; stop it, and start it again with '${device}' as it is now`,
      );
    }
    return lines;
  }
}

async function isFree(host: Host, file: StorageFile): Promise<boolean> {
  for (let tries = 1; ; tries += 1) {
    const answer = file.takeLease();
    file.dropLease();
    if (answer !== "writers") return true;
    if (tries === LEASE_TRIES) return false;
    await host.sleep(LEASE_PAUSE_MS);
  }
}

function refusalOf(storage: Storage, { device, image, file }: LeasedImage): Refusal {
  const writers = async () => describeWriters(await storage.findHolders(await file.stat()));
  return {
    describe: async () => `'${image}', opened for writing by ${await writers()}`,
    toError: async () =>
      new ImgtxError(
        "E_LOCKED",
        `somebody has it open for writing, without QEMU's lock: ${await writers()}`,
        {
          device,
          image,
          hint: "stop the guest or program that uses it, or wait for it with --wait",
        },
      ),
  };
}
