// The images that one command has open, and QEMU's locks on them. Both end with the command, and never
// earlier: a lock that is dropped before the commit mark would let a guest start in between. Only a plan
// that came to nothing gives its own back.
//
// Invariant: the paths of a chain are canonical. The table and the journals keep them as names relative to
// the workspace, and a `..` behind a symbolic link would lead elsewhere in there than it does on the disk.

import { posix } from "node:path";
import { canonicalPath } from "../device/index.ts";
import { type Chain, filesOf, holdImages, openChain, parseImageFormat } from "../format/index.ts";
import type { LockWaiting, Storage, StorageFile } from "../storage/index.ts";
import { ImgtxError } from "../errors/index.ts";

export class OpenedImages {
  readonly #storage: Storage;
  readonly #gate: { readonly workspaceRoot: string; readonly currentFolder: string };
  readonly #chains: { chain: Chain; device: string }[] = [];
  readonly #made = new Map<string, StorageFile>();
  /** Real paths of folders. */
  readonly #folders = new Map<string, string>();
  #unlockedFrom = 0;

  constructor(storage: Storage, gate: { readonly workspaceRoot: string; readonly currentFolder: string }) {
    this.#storage = storage;
    this.#gate = gate;
  }

  async openChain(
    path: string,
    format: string | undefined,
    device: string,
    allowPaths: readonly string[],
  ): Promise<Chain> {
    try {
      const chain = await openChain(this.#storage, path, {
        format: format === undefined ? undefined : parseImageFormat(format),
        gate: { ...this.#gate, allowPaths },
      });
      const opened = { chain, device };
      this.#chains.push(opened);
      opened.chain = await this.#withCanonicalPaths(chain);
      return opened.chain;
    } catch (error) {
      throw error instanceof ImgtxError ? error.with({ device, image: path }) : error;
    }
  }

  /** Locks all that was opened since the last call, as one group in one order. */
  async lock(waiting: LockWaiting): Promise<void> {
    const fresh = this.#chains.slice(this.#unlockedFrom);
    const images = fresh.flatMap(({ chain, device }) =>
      chain.links.flatMap(filesOf).map((file) => ({ file, device })),
    );
    await holdImages(this.#storage, images, waiting);
    this.#unlockedFrom = this.#chains.length;
  }

  /** Keeps a file that the command made, which has its final name now. */
  keepMade(path: string, file: StorageFile): void {
    this.#made.set(path, file);
  }

  /** Every image that is open, by path. */
  byPath(): ReadonlyMap<string, { file: StorageFile; isLocked: boolean }> {
    const open = new Map<string, { file: StorageFile; isLocked: boolean }>();
    for (const [path, file] of this.#made) open.set(path, { file, isLocked: false });
    for (const { chain } of this.#chains.slice(0, this.#unlockedFrom)) {
      for (const { path, file, dataFile } of chain.links) {
        open.set(path, { file, isLocked: true });
        if (dataFile) open.set(dataFile.path, { file: dataFile.file, isLocked: true });
      }
    }
    return open;
  }

  /** How many chains are open: a moment to go back to. */
  mark(): number {
    return this.#chains.length;
  }

  /** Closes what was opened since, with its locks, for a plan that is made anew. */
  async closeSince(mark: number): Promise<void> {
    for (const { chain } of this.#chains.splice(mark)) await chain.close();
    this.#unlockedFrom = Math.min(this.#unlockedFrom, this.#chains.length);
  }

  async close(): Promise<void> {
    await this.closeSince(0);
    for (const file of this.#made.values()) await file.close();
    this.#made.clear();
  }

  async #withCanonicalPaths(chain: Chain): Promise<Chain> {
    const links = await Promise.all(
      chain.links.map(async (link) => ({
        ...link,
        path: await this.#canonical(link.path),
        dataFile: link.dataFile && { ...link.dataFile, path: await this.#canonical(link.dataFile.path) },
      })),
    );
    return { links, close: async () => await chain.close() };
  }

  async #canonical(path: string): Promise<string> {
    const folder = posix.dirname(path);
    const known = this.#folders.get(folder);
    if (known !== undefined) return posix.join(known, posix.basename(path));
    const canonical = await canonicalPath(this.#storage, path);
    this.#folders.set(folder, posix.dirname(canonical));
    return canonical;
  }
}
