// Overlays that no record tells of: looked for by their headers in all folders where images of a workspace are or were, and in
// those below the workspace; of an image in no workspace, below its own folder.
//
// Invariants
// - Each folder is read once in one search, and each file once, whatever is asked of them.
// - What was not looked at is said: folders above the bound, and files of a folder above its own.
// - Below the workspace no other file system is gone into, and no link: what lies there is looked at where an image of the
//   workspace does.

import { posix } from "node:path";
import { ImgtxError } from "../../errors/index.ts";
import {
  findBacking,
  type FolderOverlays,
  identityOf,
  isBesideImage,
  readOverlaysIn,
} from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";
import type { Note } from "../notes/notes.ts";

/** On what was not looked at. */
type Unread = Extract<Note, { code: "folder not read whole" | "folder not read" | "folders not read" }>;

/** What one search looks at below the workspace, beside what is in folders of images. */
const BELOW_WORKSPACE = { files: 8192, folders: 256 };
/** Below the folder of an image in no workspace, which may be anybody's home. */
const BELOW_IMAGE = { files: 2048, folders: 64 };

export class OverlaySearch {
  readonly #storage: Storage;
  readonly #root: string;
  readonly #most: typeof BELOW_WORKSPACE;
  readonly #folders = new Map<string, FolderOverlays>();
  /** What identifies the file that the image on a block device stands on, by the name of that. */
  readonly #onVolumes = new Map<string, string>();
  readonly #unread = new Map<string, Unread>();
  #isRootRead = false;

  /** The root is that of the workspace. */
  constructor(storage: Storage, root: string) {
    this.#storage = storage;
    this.#root = isBesideImage(root) ? posix.dirname(root) : root;
    this.#most = isBesideImage(root) ? BELOW_IMAGE : BELOW_WORKSPACE;
  }

  /** On what was not looked at, by now. */
  get notes(): Unread[] {
    const long = [...this.#folders.values()].flatMap(({ folder, filesLeft }): readonly Unread[] =>
      filesLeft === 0 ? [] : [{ code: "folder not read whole", image: folder, filesLeft }],
    );
    return [...long, ...this.#unread.values()];
  }

  /**
   * Looks into the folders of these images, into those of others that the workspace knows, which may be gone, and below the
   * workspace.
   */
  async readAround(images: Iterable<string>, others: Iterable<string>): Promise<void> {
    for (const image of images) await this.#read(posix.dirname(image));
    for (const folder of new Set(Array.from(others, (image) => posix.dirname(image))))
      await this.#readIfThere(folder);
    await this.#readBelow();
  }

  /** Reads what is on these block devices: folders are looked through for files alone. */
  async readVolumes(paths: Iterable<string>): Promise<void> {
    for (const path of paths) {
      const backing = await findBacking(this.#storage, path, true);
      if (backing !== undefined) this.#onVolumes.set(path, backing);
    }
  }

  /** Those that were found, by the names that are there, one for each file. */
  async on(image: string): Promise<string[]> {
    const found = new Map<string, string>();
    const there = await this.#storage.stat(image);
    if (!there) return [];
    const backing = identityOf(there);
    const files = [...this.#folders.values()].flatMap(({ byBacking }) => byBacking.get(backing) ?? []);
    const volumes = [...this.#onVolumes].flatMap(([path, one]) => (one === backing ? path : []));
    for (const path of [...files, ...volumes]) {
      const stat = path === image ? undefined : await this.#storage.stat(path);
      if (stat && !found.has(identityOf(stat))) found.set(identityOf(stat), path);
    }
    return [...found.values()];
  }

  async #read(folder: string): Promise<FolderOverlays> {
    const known = this.#folders.get(folder);
    if (known) return known;
    const read = await readOverlaysIn(this.#storage, folder);
    this.#folders.set(folder, read);
    return read;
  }

  /** Undefined where it can't be read. */
  async #readIfThere(folder: string): Promise<FolderOverlays | undefined> {
    const known = this.#folders.get(folder);
    if (known || this.#unread.has(folder)) return known;
    try {
      if ((await this.#storage.stat(folder))?.kind !== "folder") return undefined;
      return await this.#read(folder);
    } catch (error) {
      if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
      this.#unread.set(folder, { code: "folder not read", image: folder, why: error.message });
      return undefined;
    }
  }

  async #readBelow(): Promise<void> {
    if (this.#isRootRead) return;
    this.#isRootRead = true;
    const fileSystem = (await this.#storage.stat(this.#root))?.fileSystem;
    const waiting = [this.#root];
    let files = 0;
    for (const [index, folder] of waiting.entries()) {
      if (index >= this.#most.folders || files >= this.#most.files) {
        const foldersLeft = waiting.length - index;
        this.#unread.set(this.#root, { code: "folders not read", image: this.#root, foldersLeft });
        return;
      }
      const isKnown = this.#folders.has(folder);
      const read = await this.#readIfThere(folder);
      if (!read) continue;
      if (!isKnown) files += read.filesSeen;
      for (const below of read.folders) {
        const stat = await this.#storage.statLink(below);
        if (stat?.kind === "folder" && stat.fileSystem === fileSystem) waiting.push(below);
      }
    }
  }
}
