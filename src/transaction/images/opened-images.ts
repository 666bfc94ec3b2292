// The images that one command has open, and QEMU's locks on them. Both end with the command, and never
// earlier: a lock that is dropped before the commit mark would let a guest start in between. Only a plan
// that came to nothing gives its own back. New images stay open from their making, for their locks, and the commit
// looks at them without opening them again. Each image is locked through one open file: two of one process would stand
// in each other's way.
//
// Invariant: the paths of a chain are canonical. The table and the journals keep them as names relative to
// the workspace, and a `..` after a symbolic link would lead elsewhere in there than it does on the disk.

import { posix } from "node:path";
import { canonicalPath, gateOf } from "../../device/index.ts";
import {
  assertNotHalfChanged,
  type Chain,
  type ChainLink,
  type GateOptions,
  holdImages,
  identityOf,
  isNamedRaw,
  openChain,
  parseImageFormat,
} from "../../format/index.ts";
import type { FileStat, LockWaiting, Storage, StorageFile } from "../../storage/index.ts";
import { ImgtxError, withPlace } from "../../errors/index.ts";

interface HeldImage {
  readonly file: StorageFile;
  readonly path: string;
  readonly isWritten: boolean;
  /** Index of the chain that the file belongs to. */
  readonly chain: number;
}

export interface HowToOpen {
  /** The image by itself, whatever it stands on. */
  readonly isAlone?: boolean;
  /** Also where its header leads to no refcount table: for its repair. */
  readonly mayLackRefcounts?: boolean;
  /** Also where a change of it was cut off, for what reads no content. */
  readonly mayBeHalfChanged?: boolean;
  /** Also where a copy into it was cut off, for what compares all of it. */
  readonly mayBeHalfCopied?: boolean;
}

export class OpenedImages {
  readonly #storage: Storage;
  readonly #root: string;
  readonly #currentFolder: string;
  readonly #chains: { chain: Chain; device: string }[] = [];
  readonly #made = new Map<string, StorageFile>();
  /** Real paths of folders. */
  readonly #folders = new Map<string, string>();
  /** By file system and inode: through which open file this command holds the locks. */
  readonly #held = new Map<string, HeldImage>();
  #unlockedFrom = 0;

  constructor(
    storage: Storage,
    { workspaceRoot, currentFolder }: { readonly workspaceRoot: string; readonly currentFolder: string },
  ) {
    this.#storage = storage;
    this.#root = workspaceRoot;
    this.#currentFolder = currentFolder;
  }

  gateWith(trust: Pick<GateOptions, "allowPaths" | "device">): GateOptions {
    return gateOf({ root: this.#root }, { currentFolder: this.#currentFolder, ...trust });
  }

  async openChain(
    path: string,
    format: string | undefined,
    device: string,
    trust: Pick<GateOptions, "allowPaths" | "device">,
    { isAlone = false, mayLackRefcounts = false, mayBeHalfChanged = false, mayBeHalfCopied }: HowToOpen = {},
  ): Promise<Chain> {
    return await withPlace({ device, image: path }, async () => {
      const chain = await openChain(this.#storage, path, {
        format: format === undefined ? undefined : parseImageFormat(format),
        gate: this.gateWith(trust),
        backing: !isAlone,
        mayLackRefcounts,
      });
      const opened = { chain, device };
      this.#chains.push(opened);
      if (format === undefined && isNamedRaw(path)) assertIsRaw(chain);
      if (!mayBeHalfChanged) assertNotHalfChanged(chain, { mayBeHalfCopied });
      opened.chain = await this.#withCanonicalPaths(chain);
      return opened.chain;
    });
  }

  /**
   * Locks all that was opened since the last call, as one group in one order; what is to be written, as a writer's.
   * An image that the command has locked already is locked through the same open file again, or not at all: two
   * of its own would stand in each other's way.
   */
  async lock(waiting: LockWaiting, written: ReadonlySet<string>): Promise<void> {
    const images = new Map<string, HeldImage & { stat: FileStat; device: string }>();
    for (const [index, { chain, device }] of this.#chains.entries()) {
      if (index < this.#unlockedFrom) continue;
      for (const { file, stat: seen, path } of chain.links.flatMap(placesOf)) {
        const stat = seen ?? (await file.stat());
        const key = identityOf(stat);
        const known = images.get(key) ?? this.#held.get(key);
        const isWritten = written.has(path);
        if (known && (known.isWritten || !isWritten)) continue;
        const through = { file: known?.file ?? file, chain: known?.chain ?? index };
        images.set(key, { ...through, stat, path, device, isWritten });
      }
    }
    await holdImages(this.#storage, [...images.values()], waiting);
    for (const [key, { device: _device, stat: _stat, ...held }] of images) this.#held.set(key, held);
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

  /** The files that hold the locks, by path. */
  heldByPath(): ReadonlyMap<string, StorageFile> {
    return new Map([...this.#held.values()].map(({ path, file }) => [path, file.onDisk ?? file]));
  }

  /** How many chains are open: a moment to go back to. */
  mark(): number {
    return this.#chains.length;
  }

  /** The images that were opened since, with their data files. */
  pathsSince(mark: number): ReadonlySet<string> {
    const links = this.#chains.slice(mark).flatMap(({ chain }) => chain.links);
    return new Set(links.flatMap(({ path, dataFile }) => (dataFile ? [path, dataFile.path] : [path])));
  }

  /** Closes what was opened since, with its locks, for a plan that is made anew. */
  async closeSince(mark: number): Promise<void> {
    for (const { chain } of this.#chains.splice(mark)) await chain.close();
    this.#unlockedFrom = Math.min(this.#unlockedFrom, this.#chains.length);
    for (const [key, { chain }] of this.#held) if (chain >= mark) this.#held.delete(key);
  }

  /** Closes one image, however often it is open, with its locks: it has gone. */
  async closeImage(path: string): Promise<void> {
    const links = this.#chains.flatMap(({ chain }) => chain.links);
    for (const { path: image, file, dataFile } of links) {
      if (image === path) await file.close();
      if (dataFile?.path === path) await dataFile.file.close();
    }
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

/** A link's own file, with what was seen of it as it was opened, and its data file; with their canonical paths. */
function placesOf({
  file,
  stat,
  path,
  dataFile,
}: ChainLink): { file: StorageFile; stat?: FileStat; path: string }[] {
  return dataFile ? [{ file, stat, path }, dataFile] : [{ file, stat, path }];
}

/** E_REFUSED where nobody said which format it is, its name says raw, and a guest may have written what it looks like. */
function assertIsRaw({ links: [top] }: Chain): void {
  if (top === undefined || top.format === "raw") return;
  throw new ImgtxError("E_REFUSED", `its name says that it is raw, and its bytes look like ${top.format}`, {
    hint:
      `if a guest may have written to it as a raw disk, --format raw; if you know that it is ${top.format}, ` +
      `--format ${top.format}`,
  });
}
