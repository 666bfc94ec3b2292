// What imgtx made and nothing needs any more: found for the whole workspace, and removed on the operator's word.
//
// Invariants
// - A file goes only where a record of this workspace says that imgtx made it, it is that very file, and it holds what
//   imgtx put there: an overlay no data at all, a copy its digest. What a guest has written to is never garbage. Of a
//   transaction that was given up before its mark its journal tells, by what an undo goes by.
// - Nothing goes that a device, a mirror, a snapshot, an open transaction, an overlay beside it, or a generation needs that
//   an undo or a redo can go to; nor what anybody has open. They are asked under the workspace lock.
// - What stays though nothing is known to need it is named, with the reason.

import { posix } from "node:path";
import {
  type DeviceTable,
  pathsOf,
  listVolumeRecords,
  readTable,
  underWorkspaceLock,
  type Workspace,
  gateOf,
  trustedBy,
} from "../../device/index.ts";
import { ImgtxError, unlessItFails, whileOpen } from "../../errors/index.ts";
import {
  checkOverlayIsEmpty,
  claimUnused,
  type Fingerprint,
  identityOf,
  isSameFile,
  openChain,
  takeFingerprint,
} from "../../format/index.ts";
import type { StorageFile } from "../../storage/index.ts";
import { digestFile } from "../images/files-beside.ts";
import { AS_IMAGE, readsAsEmpty } from "../images/devices.ts";
import { letGo } from "../images/let-go.ts";
import { findLayerVolume, removeLayer } from "../images/volumes.ts";
import { OverlaySearch } from "../images/overlay-search.ts";
import { removeFinished, removeUnless, whyElsewhere } from "../images/removal.ts";
import { readJournals } from "../journal/index.ts";
import { sayNote } from "../notes/notes.ts";
import type { KeptFile, LockWait, Session } from "../requests/request.ts";
import type { Garbage } from "../describe/repair-results.ts";
import { filesGivenUp, type LeftFile } from "./given-up.ts";
import { findMade, type MadeFiles } from "./made-files.ts";
import { findNeeded } from "./needed-files.ts";

/** Of an image that is needed, and may not be looked at. */
const UNSEEN = "; each overlay stays, since any may be that file by another name";

/** A name that only a transaction gives, beside the image that it is for. */
const TRANSACTION_FILE = /^\.imgtx-([a-z0-9]+)-\d+(?:-\d+|\.redo)$/;

/** Lists it; removes it where that is said. */
export async function collectGarbage(
  session: Session,
  { removes, ...waiting }: LockWait & { readonly removes: boolean },
): Promise<Garbage> {
  const { workspace } = session;
  const look = async (): Promise<Garbage> => await new Collection(session, removes).run();
  return removes ? await underWorkspaceLock(workspace, waiting, look) : await look();
}

/** What files are held against. */
interface Known {
  readonly table: DeviceTable;
  /** By path, what needs it. */
  readonly needed: ReadonlyMap<string, string>;
  /** The same, whatever their names: which files they are. */
  readonly files: ReadonlySet<string>;
  readonly standing: OverlaySearch;
}

class Collection {
  readonly #workspace: Workspace;
  readonly #session: Session;
  readonly #removes: boolean;
  readonly #found: { path: string; sizeBytes: number; what: Garbage["found"][number]["what"] }[] = [];
  readonly #stays: KeptFile[] = [];

  constructor(session: Session, removes: boolean) {
    this.#workspace = session.workspace;
    this.#session = session;
    this.#removes = removes;
  }

  async run(): Promise<Garbage> {
    const table = await readTable(this.#workspace);
    const journals = await readJournals(this.#workspace);
    for (const { path, state } of journals) {
      // Whatever it made, and needs, is not known.
      if (state instanceof ImgtxError) this.#stays.push({ path, why: `it can't be read: ${state.message}` });
    }
    if (this.#stays.length === 0) {
      const needed = await findNeeded(this.#workspace, table);
      const made = await findMade(this.#workspace, table);
      const left = await filesGivenUp(this.#workspace, table);
      const standing = await this.#findOverlays(made, left);
      const files = await this.#identify(needed.keys());
      if (files) {
        await this.#collectLeft(left, { needed, files, standing });
        const known = { table, needed, files, standing };
        const volumes = await listVolumeRecords(this.#workspace, table);
        const open = new Set(journals.map(({ id }) => id));
        await this.#collectLayers(
          known,
          made,
          new Map(volumes.map(({ path, transaction }) => [path, open.has(transaction) ? "in use" : "done"])),
        );
      }
      await this.#collectBeside(needed, made);
      await this.#nameStrays(new Set(journals.map(({ id }) => id)), made);
    }
    return { found: this.#found, stays: this.#stays, removed: this.#removes };
  }

  /** In all folders of images, and of files that are left. */
  async #findOverlays({ folders, volumes }: MadeFiles, left: readonly LeftFile[]): Promise<OverlaySearch> {
    const standing = new OverlaySearch(this.#workspace.storage, this.#workspace.root);
    const others = [...folders].map((folder) => posix.join(folder, "any"));
    await standing.readAround([], [...others, ...left.map(({ path }) => path)]);
    await standing.readVolumes(volumes);
    return standing;
  }

  /** What a transaction that was given up would have taken back. */
  async #collectLeft(
    left: readonly LeftFile[],
    { needed, files, standing }: Omit<Known, "table">,
  ): Promise<void> {
    for (const { path, whyNotOurs } of left) {
      const stat = await this.#orStays(path, () => this.#workspace.storage.statLink(path));
      // Its path may be another file's by now, and that one's user another device.
      if (!stat || needed.has(path) || files.has(identityOf(stat))) continue;
      await this.#take(
        path,
        "file of a transaction",
        async (file) => (await whyNotOurs(file)) ?? (await this.#whyNeeded(standing, path)),
      );
    }
  }

  /** The newest first, in files and on volumes: what stands on another goes before it. Then volumes that nothing is on. */
  async #collectLayers(
    known: Known,
    made: MadeFiles,
    volumes: ReadonlyMap<string, "in use" | "done">,
  ): Promise<void> {
    const newest = [...made.overlays.keys()].toReversed();
    for (const path of new Set([...newest, ...volumes.keys()])) {
      const of = volumes.get(path);
      if (of === "done") await this.#collectVolume(known, made, path);
      else if (of === undefined) await this.#collectOverlay(known, made, path);
    }
  }

  async #collectOverlay(
    { needed, files, ...known }: Known,
    { overlays }: MadeFiles,
    path: string,
  ): Promise<void> {
    const was = overlays.get(path);
    if (!was || needed.has(path)) return;
    const stat = await this.#orStays(
      path,
      async () => (await this.#workspace.storage.stat(path)) ?? "absent",
    );
    // By another name: a link, or a second name of the file.
    if (stat === undefined || (stat !== "absent" && files.has(identityOf(stat)))) return;
    await this.#take(path, "overlay", async (file) => await this.#whyNoGarbage({ was, ...known }, file));
  }

  /** One that a provisioner has made, with the overlay on it, or nothing any more. What is not there is nobody's garbage. */
  async #collectVolume(
    { needed, files, ...known }: Known,
    { overlays }: MadeFiles,
    path: string,
  ): Promise<void> {
    const { storage } = this.#workspace;
    if (needed.has(path)) return;
    const stat = await this.#orStays(path, async () => (await storage.stat(path)) ?? "absent");
    if (stat === undefined || stat === "absent" || files.has(identityOf(stat))) return;
    const layer = await findLayerVolume(this.#workspace, known.table, path, undefined);
    const was = overlays.get(path);
    const judge = async (file: StorageFile): Promise<string | undefined> => {
      if (!layer) return "its device has no provisioner any more";
      if (await readsAsEmpty(file, stat)) return undefined;
      return was ? await this.#whyNoGarbage({ was, ...known }, file) : "what is on it is not known";
    };
    const why = await this.#orStays(path, async () => (await this.#clearVolume(path, judge)) ?? "cleared");
    if (why === undefined) return;
    const end =
      why === "cleared" && layer && this.#removes ? await removeLayer(this.#workspace, layer) : undefined;
    if (why !== "cleared") this.#stays.push({ path, why });
    else if (end) this.#stays.push(end);
    else this.#found.push({ path, sizeBytes: stat.sizeBytes, what: "volume" });
  }

  /** With writers kept from it meanwhile. Why it stays; a trial changes nothing. */
  async #clearVolume(
    path: string,
    judge: (file: StorageFile) => Promise<string | undefined>,
  ): Promise<string | undefined> {
    const { storage } = this.#workspace;
    const opening = storage.openFile(path, this.#removes ? "write" : "read", AS_IMAGE);
    return await whileOpen(await opening, async (file) => {
      const why = (await claimUnused(storage, file)) ?? (await orReason(judge, file));
      if (why !== undefined || !this.#removes) return why;
      const end = await letGo(storage, path, {
        expected: await takeFingerprint(file, false),
        isLocked: true,
        isFenced: async () => false,
        findReason: async () => undefined,
      });
      return typeof end === "object" ? end.why : undefined;
    });
  }

  /** Undefined where one may not be looked at, which may be any, by another name. */
  async #identify(paths: Iterable<string>): Promise<ReadonlySet<string> | undefined> {
    const found = new Set<string>();
    const known = this.#stays.length;
    for (const path of paths) {
      const look = async () => {
        // A link in a circle is no file, by no name.
        return await unlessItFails(() => this.#workspace.storage.stat(path), ["E_NOT_A_FILE"]);
      };
      const stat = await this.#orStays(path, look, UNSEEN);
      if (stat) found.add(identityOf(stat));
    }
    return this.#stays.length === known ? found : undefined;
  }

  /** What can't be looked at stays, and is named. */
  async #orStays<T>(path: string, look: () => Promise<T>, more = ""): Promise<T | undefined> {
    try {
      return await look();
    } catch (error) {
      if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
      this.#stays.push({ path, why: `${error.message}${more}` });
      return undefined;
    }
  }

  async #whyNoGarbage(
    { was, standing, table }: Omit<Known, "needed" | "files"> & { readonly was: Fingerprint },
    file: StorageFile,
  ): Promise<string | undefined> {
    const { storage } = this.#workspace;
    const { path } = file;
    if (!isSameFile(was, await file.stat())) return "another file has its name";
    const needed = await this.#whyNeeded(standing, path);
    if (needed !== undefined) return needed;
    const allowPaths = [...table.allowPaths, ...table.devices.flatMap(trustedBy)];
    const { currentFolder } = this.#session;
    const gate = gateOf(this.#workspace, { currentFolder, allowPaths });
    return await whileOpen(await openChain(storage, path, { format: "qcow2", gate }), async (chain) => {
      const [, below] = chain.links;
      if (!below) return "it stands on nothing any more";
      const [objection] = await checkOverlayIsEmpty(chain, below);
      return objection && `it is not as imgtx made it: ${objection}`;
    });
  }

  async #whyNeeded(standing: OverlaySearch, path: string): Promise<string | undefined> {
    const overlay = (await standing.on(path)).find((one) => this.#found.every((found) => found.path !== one));
    if (overlay !== undefined) return `'${overlay}' stands on it`;
    const unread = standing.notes.find(({ image }) => image === posix.dirname(path));
    return unread ? sayNote(unread) : await whyElsewhere(this.#workspace, path);
  }

  async #collectBeside(needed: ReadonlyMap<string, string>, { copies }: MadeFiles): Promise<void> {
    const { storage } = this.#workspace;
    const { beside } = pathsOf(this.#workspace);
    if ((await storage.statLink(beside))?.kind !== "folder") return;
    for (const name of await storage.readFolder(beside)) {
      const path = `${beside}/${name}`;
      if (needed.has(path)) continue;
      await this.#take(path, "file of a snapshot", async (file) => {
        const sha256 = copies.get(path);
        if (sha256 === undefined) return "no snapshot that is known has kept it";
        return (await digestFile(file)) === sha256 ? undefined : "it has changed since imgtx made it";
      });
    }
  }

  /** Files of transactions that this workspace has no journal of: another one may. */
  async #nameStrays(open: ReadonlySet<string>, { folders }: MadeFiles): Promise<void> {
    const { storage } = this.#workspace;
    for (const folder of folders) {
      const look = async () =>
        (await storage.statLink(folder))?.kind === "folder" ? await storage.readFolder(folder) : [];
      for (const name of (await this.#orStays(folder, look)) ?? []) {
        const id = TRANSACTION_FILE.exec(name)?.[1];
        const path = posix.join(folder, name);
        const isKnown = [...this.#found, ...this.#stays].some((one) => one.path === path);
        if (id === undefined || open.has(id) || isKnown) continue;
        const why = `it is of transaction ${id}, which this workspace has no journal of`;
        this.#stays.push({ path, why });
      }
    }
  }

  async #take(
    path: string,
    what: Garbage["found"][number]["what"],
    findReason: (file: StorageFile) => Promise<string | undefined>,
  ): Promise<void> {
    const { storage } = this.#workspace;
    const stat = await storage.statLink(path);
    if (!stat) return;
    const end = await removeUnless(storage, path, async (file) => await orReason(findReason, file), {
      isTrial: !this.#removes,
    });
    if (typeof end === "object") this.#stays.push(end);
    if (end !== "removed") return;
    this.#found.push({ path, sizeBytes: stat.allocatedBytes, what });
    if (this.#removes) await removeFinished(storage, [path], "garbage gone");
  }
}

/** What can't be looked into stays. */
async function orReason(
  findReason: (file: StorageFile) => Promise<string | undefined>,
  file: StorageFile,
): Promise<string | undefined> {
  try {
    return await findReason(file);
  } catch (error) {
    if (error instanceof ImgtxError && error.code !== "E_INTERNAL") return error.message;
    throw error;
  }
}
