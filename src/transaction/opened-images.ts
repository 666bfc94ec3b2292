// The images that one command has open, and QEMU's locks on them. Both end with the command, and never
// earlier: a lock that is dropped before the commit mark would let a guest start in between.

import { type Chain, holdImages, type ImageFormat, openChain } from "../format/index.ts";
import type { ImageLocks, LockWaiting, Storage } from "../storage/index.ts";
import { ImgtxError } from "../errors/index.ts";

export class OpenedImages {
  readonly #storage: Storage;
  readonly #root: string;
  readonly #chains: { chain: Chain; device: string }[] = [];
  readonly #locks: ImageLocks[] = [];
  #unlockedFrom = 0;

  constructor(storage: Storage, root: string) {
    this.#storage = storage;
    this.#root = root;
  }

  async openChain(
    path: string,
    format: ImageFormat | undefined,
    device: string,
    allowPaths: readonly string[],
  ): Promise<Chain> {
    try {
      const chain = await openChain(this.#storage, path, {
        format,
        gate: { workspaceRoot: this.#root, allowPaths },
      });
      this.#chains.push({ chain, device });
      return chain;
    } catch (error) {
      throw error instanceof ImgtxError ? error.with({ device }) : error;
    }
  }

  /** Locks all that was opened since the last call, as one group in one order. */
  async lock(waiting: LockWaiting): Promise<void> {
    const fresh = this.#chains.slice(this.#unlockedFrom);
    const images = fresh.flatMap(({ chain, device }) =>
      chain.links.flatMap(({ file, dataFile }) =>
        [file, ...(dataFile ? [dataFile.file] : [])].map((opened) => ({ file: opened, device })),
      ),
    );
    this.#locks.push(await holdImages(this.#storage, images, waiting));
    this.#unlockedFrom = this.#chains.length;
  }

  /** Paths of the images that are open and locked. */
  lockedPaths(): ReadonlySet<string> {
    const locked = this.#chains.slice(0, this.#unlockedFrom);
    return new Set(
      locked.flatMap(({ chain }) =>
        chain.links.flatMap(({ path, dataFile }) => (dataFile ? [path, dataFile.path] : [path])),
      ),
    );
  }

  async close(): Promise<void> {
    for (const locks of this.#locks) locks.release();
    for (const { chain } of this.#chains) await chain.close();
    this.#chains.length = 0;
  }
}
