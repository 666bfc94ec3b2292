// What the actions of a dry run change in place, for the later ones to see: in redo logs that nobody will apply.
//
// Invariant: the logs lie in a folder of their own for temporary files, and go with the command. Nothing else is written;
// where only the last action would change an image, nothing at all.

import { whileOpen } from "../../errors/index.ts";
import { posix } from "node:path";
import type { Workspace } from "../../device/index.ts";
import { redoLogName, StagedStorage } from "../../format/index.ts";
import { AS_IMAGE } from "../images/devices.ts";
import type { ImageChange } from "../images/redo.ts";

type Storage = Workspace["storage"];

const FOLDER_MODE = 0o700;

export class DryRun {
  /** The images as the actions so far would leave them. */
  readonly staged: StagedStorage;
  readonly #storage: Storage;
  readonly #below: StagedStorage;
  readonly #logs: string[] = [];
  #folder: string | undefined;

  /** below: the images as the open transaction leaves them; owned by this from now on. */
  constructor(storage: Storage, below: StagedStorage) {
    this.#storage = storage;
    this.#below = below;
    this.staged = new StagedStorage(below);
  }

  async stage(transaction: string, changes: readonly ImageChange[]): Promise<void> {
    for (const change of changes) {
      const { link } = change;
      if (!this.staged.isStaged(link.stat)) {
        const folder = await this.#makeFolder();
        // With the guard that asks least of a log.
        const log = redoLogName(transaction, this.#logs.length);
        const options = { transaction, log, guardedBy: "fence", folder } as const;
        this.#logs.push(await this.staged.stage(link.path, options));
      }
      await this.staged.whileChanging(async () => {
        await whileOpen(await this.staged.openFile(link.path, "write", AS_IMAGE), async (file) => {
          await change.write(file, transaction);
        });
      });
    }
  }

  async end(): Promise<void> {
    await this.staged.close();
    await this.#below.close();
    for (const log of this.#logs.splice(0)) await this.#storage.removeFile(log);
    if (this.#folder !== undefined) await this.#storage.removeFolder(this.#folder);
    this.#folder = undefined;
  }

  async #makeFolder(): Promise<string> {
    if (this.#folder !== undefined) return this.#folder;
    const { host } = this.#storage;
    const folder = posix.join(host.temporaryFolder, `imgtx-${host.randomName()}`);
    await this.#storage.makeFolder(folder, FOLDER_MODE);
    this.#folder = folder;
    return folder;
  }
}
