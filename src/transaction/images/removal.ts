// Removes files that a transaction made, where they are still that: what undo may delete is decided here.
//
// Invariants
// - A staging file and a redo log go by their names, which hold the transaction's id.
// - A file at its final name goes where it is the file that the journal recorded, and holds what imgtx wrote into it:
//   by a digest of its content, for small ones, else by all that a fingerprint has. A file system whose inode numbers
//   change at a mount tells of the first by the second.
// - Nobody has it open, with QEMU's locks or without. They are held while it goes, so that a guest which starts at that
//   moment is refused.
// - Nothing refers to it: no device of the table, no other open transaction, no file that stays, no overlay in folders
//   of images, or below the workspace, and no device or snapshot of another workspace that is found above its folder.
// - What stays is named, with the reason.

import { posix } from "node:path";
import {
  type DeviceEntry,
  type DeviceOnFile,
  type DeviceTable,
  filesOfEntry,
  findUserElsewhere,
  readTable,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError, unlessItFails } from "../../errors/index.ts";
import {
  claimUnused,
  describeChanges,
  describeDoubt,
  digestContent,
  isPlaceholder,
  isSameFile,
  takeFingerprint,
} from "../../format/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import {
  NOT_MADE_YET,
  liveStatements,
  type NewFile,
  type PreparedFile,
  readJournals,
  type Statement,
} from "../journal/index.ts";
import { withName } from "../notes/note-words.ts";
import { isDiskThere } from "./planned-folders.ts";
import type { KeptFile } from "../requests/request.ts";
import { OverlaySearch } from "./overlay-search.ts";

/** What became of a file: it was not there, or went, or stays, and why. */
type End = "absent" | "removed" | KeptFile;

/** Removes new files of a transaction, the newest first. */
export class Removal {
  /** What stays. */
  readonly kept: KeptFile[] = [];
  readonly #workspace: Workspace;
  readonly #storage: Storage;
  readonly #statements: readonly Statement[];
  /** Files that the transaction makes, those of what is left of it included. */
  readonly #own: ReadonlySet<string>;
  /** Images that something refers to: what does, as a clause. */
  readonly #uses: Map<string, string>;
  readonly #folders = new Set<string>();
  readonly #standing: OverlaySearch;

  private constructor(
    workspace: Workspace,
    statements: readonly Statement[],
    earlier: readonly Statement[],
    uses: Map<string, string>,
  ) {
    const { storage, root } = workspace;
    this.#workspace = workspace;
    const files = [...earlier, ...statements].flatMap(({ plan }) => plan.newFiles);
    this.#own = new Set(files.flatMap((file) => [file.path, file.staging]));
    this.#storage = storage;
    this.#statements = statements;
    this.#uses = uses;
    this.#standing = new OverlaySearch(storage, root);
  }

  /** The id is that of the statements' transaction, of which the earlier ones are left. */
  static async begin(
    workspace: Workspace,
    id: string,
    statements: readonly Statement[],
    earlier: readonly Statement[] = [],
  ): Promise<Removal> {
    return new Removal(workspace, statements, earlier, await findUses(workspace, id));
  }

  /** Removes what is ours of a new file. False where its disk is not there, and nothing is known of it. */
  async remove({ plan, prepared }: Statement, { path, staging }: NewFile): Promise<boolean> {
    // Also where nothing was left to remove: a process that died may have removed it, and not durably.
    this.#folders.add(posix.dirname(path));
    const made = prepared?.files.find((file) => file.path === path);
    const ends: End[] = [await removeUnless(this.#storage, staging, () => Promise.resolve(undefined))];
    if (made) {
      const findReason = async (file: StorageFile) =>
        (await isPlaceholder(file, staging))
          ? undefined
          : ((await whyNotAsMade(this.#storage, file, made)) ?? (await this.#whyNeeded(path)));
      ends.push(await removeUnless(this.#storage, path, findReason));
    }
    const isSeen = ends.some((end) => end !== "absent" && !isAnothers(end));
    if (!isSeen && !(await isDiskThere(this.#storage, path, plan.folders))) return false;
    for (const end of ends) if (typeof end === "object") this.#keep(end);
    return true;
  }

  /** Removes a statement's redo logs, but for those that are still needed. Returns those that may be on a disk that is not there. */
  async removeLogs({ plan }: Statement, needed: ReadonlySet<string> = new Set()): Promise<string[]> {
    const away: string[] = [];
    for (const { log } of plan.redo) {
      if (needed.has(log)) continue;
      this.#folders.add(posix.dirname(log));
      const end = await removeUnless(this.#storage, log, () => Promise.resolve(undefined));
      if (typeof end === "object") this.#keep(end);
      if (end === "absent" && !(await isDiskThere(this.#storage, log, plan.folders))) away.push(log);
    }
    return away;
  }

  /** Makes it durable. */
  async flush(): Promise<void> {
    for (const folder of this.#folders) {
      if (!(await this.#storage.stat(folder))) continue;
      // Where no name is durable, none comes back.
      await unlessItFails(() => this.#storage.flushFolder(folder, "removed images"), ["E_UNSUPPORTED"]);
    }
  }

  async #whyNeeded(path: string): Promise<string | undefined> {
    const use = this.#uses.get(path);
    if (use !== undefined) return use;
    await this.#standing.readAround([], [...this.#own, ...this.#uses.keys()]);
    // One that the table or this transaction knows has named the file before it was made, as a migration's does.
    const overlay = (await this.#standing.on(path)).find(
      (one) => !this.#own.has(one) && !this.#uses.has(one),
    );
    return overlay === undefined ? await whyElsewhere(this.#workspace, path) : `'${overlay}' stands on it`;
  }

  #keep(file: KeptFile): void {
    this.kept.push(file);
    for (const below of findBelow(this.#statements, file.path)) {
      this.#uses.set(below, `'${file.path}' stands on it`);
    }
  }
}

/** What another disk may have under this name. */
function isAnothers(end: End): boolean {
  return typeof end === "object" && end.why === ANOTHER_FILE;
}

const ANOTHER_FILE = "another file has its name";

/** What a commit has made and used up, and nobody else can know: it goes by name, durably, before the journal does. */
export async function removeFinished(
  storage: Storage,
  files: readonly string[],
  purpose: string,
): Promise<void> {
  for (const file of files) if (await storage.statLink(file)) await storage.removeFile(file);
  // Else a power cut could keep a file and lose the journal, and nobody would know of it any more.
  for (const folder of new Set(files.map((file) => posix.dirname(file)))) {
    if (await storage.stat(folder)) await storage.flushFolder(folder, purpose);
  }
}

/** Removes the file, unless somebody has it or there is a reason. isLocked: the caller keeps writers from it himself. isTrial: nothing is removed. */
export async function removeUnless(
  storage: Storage,
  path: string,
  findReason: (file: StorageFile) => Promise<string | undefined>,
  { isLocked = false, isTrial = false }: { readonly isLocked?: boolean; readonly isTrial?: boolean } = {},
): Promise<End> {
  let file: StorageFile | undefined;
  try {
    if (!(await storage.statLink(path))) return "absent";
    file = await storage.openFile(path, "read", { refuseSymlink: true });
    // First who has it: while the locks are held, it stays what it is.
    const held = isLocked ? undefined : await claimUnused(storage, file);
    const why = held ?? (await findReason(file));
    if (why !== undefined) return { path, why };
    if (file.isLeaseWanted()) return { path, why: "somebody has begun to open it" };
    if (!isTrial) await storage.removeFile(path);
    return "removed";
  } catch (error) {
    return endOfFailure(error, path, NOT_OURS);
  } finally {
    await file?.close();
  }
}

/** What became of what could not be removed: it is not there, or, for one of these reasons, not ours. All else is thrown. */
export function endOfFailure(
  error: unknown,
  path: string,
  notOurs: ReadonlySet<string>,
): "absent" | KeptFile {
  if (!(error instanceof ImgtxError)) throw error;
  if (error.code === "E_NOT_FOUND") return "absent";
  if (!notOurs.has(error.code)) throw error;
  return { path, why: error.message };
}

/** A folder, a link, a file that its owner has closed to us: nothing that imgtx made. */
const NOT_OURS: ReadonlySet<string> = new Set(["E_NOT_A_FILE", "E_LOOP", "E_NO_PERMISSION"]);

/** Why a file at its final name is not provably what the transaction made. */
export async function whyNotAsMade(
  storage: Storage,
  file: StorageFile,
  made: PreparedFile,
): Promise<string | undefined> {
  const isKnown = isSameFile(made.fingerprint, await file.stat());
  // Where a mount makes inode numbers up, each byte that imgtx wrote is the proof, and there is no other.
  const isTold = made.contentSha256 === null || (await storage.describeFileSystem(file.path)).keepsInodes;
  if (!isKnown && isTold) return ANOTHER_FILE;
  if (made.contentSha256 !== null) {
    const isOurs = (await digestContent(file)) === made.contentSha256;
    return isOurs ? undefined : "somebody has written to it since imgtx made it";
  }
  const now = await takeFingerprint(file, made.fingerprint.headerSha256 !== null);
  const changes = describeChanges(made.fingerprint, now);
  if (changes.length > 0) return `it has changed since imgtx made it: ${changes.join(", ")}`;
  // A statement that was cut off has not looked at it again, and nobody was told that it is there.
  const doubt = made.fingerprint.changedNs === undefined ? undefined : describeDoubt(made.fingerprint, now);
  return doubt && `somebody may have written to it since imgtx made it: ${doubt}`;
}

/** What needs it of another workspace, which is found above its folder, as a clause. */
export async function whyElsewhere(workspace: Workspace, image: string): Promise<string | undefined> {
  const found = await findUserElsewhere(workspace, image);
  return found && sayElsewhere(found);
}

/** As a clause, of an image. */
export function sayElsewhere({ device, root, keptBy, isActive }: DeviceOnFile): string {
  if (!keptBy) return `device '${device}' of the workspace '${root}' ${isActive ? "uses" : "stands on"} it`;
  return `${withName(`snapshot ${keptBy.number}`, keptBy.name)} of the workspace '${root}' keeps it, of '${device}'`;
}

/** Images that a device of the table, or another open transaction, refers to: which one, as a clause. */
export async function findUses(workspace: Workspace, own: string): Promise<Map<string, string>> {
  const uses = usesOf(await readTable(workspace), (device) => `'${device}' uses it`);
  for (const { id, state } of await readJournals(workspace, own)) {
    if (state instanceof ImgtxError) continue;
    for (const { plan } of liveStatements(state)) {
      const entries = plan.changes.flatMap(({ after }) => after ?? []);
      const named = [
        ...plan.watched.map(({ image }) => image),
        ...plan.newFiles.map(({ path }) => path),
        ...entries.flatMap(imagesOf),
      ];
      for (const image of named) uses.set(image, `transaction ${id} uses it`);
    }
  }
  return uses;
}

function usesOf({ devices }: DeviceTable, say: (device: string) => string): Map<string, string> {
  return new Map(
    devices.flatMap((device) => imagesOf(device).map((image) => [image, say(device.name)] as const)),
  );
}

/** But for what a mirror is to stand on, and that is still to be made: until then its name is nobody's. */
function imagesOf(entry: DeviceEntry): string[] {
  const [, ...below] = entry.mirror?.chain ?? [];
  const unmade = below.filter(({ fingerprint }) => isSameFile(fingerprint, NOT_MADE_YET));
  return chainsOf(entry)
    .flat()
    .filter((path) => unmade.every(({ image }) => image !== path));
}

/** What the statements' own images stand on, and so must stay with them. */
function findBelow(statements: readonly Statement[], kept: string): string[] {
  return statements
    .flatMap(({ plan }) => plan.changes.flatMap(({ after }) => (after ? chainsOf(after) : [])))
    .flatMap((chain) => (chain.includes(kept) ? chain.slice(chain.indexOf(kept) + 1) : []));
}

/** The device's own chain and its mirror's, active layer first. */
function chainsOf({ chain, mirror }: DeviceEntry): string[][] {
  return [chain, mirror?.chain ?? []].map((entries) =>
    entries.flatMap(filesOfEntry).map(({ image }) => image),
  );
}
