// Takes small files of the machine into a snapshot: each is copied, as a new file of the statement, into a folder of the
// workspace.
//
// Invariants
// - Only regular files, by their own names, and no larger than a machine's variables are: a disk is a device.
// - What is copied is what the plan has read, by its digest; and what it still is at the commit, which looks at it as at
//   an image. A program that has it open for writing, by QEMU's locks, is waited for.

import { createHash, type Hash } from "node:crypto";
import { posix } from "node:path";
import {
  type DeviceTable,
  type FileBeside,
  fileBesidePath,
  readingSnapshots,
  unlessGone,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { type Chain, identityOf, shellQuote } from "../../format/index.ts";
import type { Storage, StorageFile } from "../../storage/index.ts";
import type { Note } from "../notes/notes.ts";
import { type ImageAccess, PRIVATE } from "./access.ts";
import { removeFinished } from "./removal.ts";

/** The largest that machines have: the variables of an ARM board, in their flash. */
const LARGEST_BYTES = 64 * 2 ** 20;
const PIECE_BYTES = 2 ** 20;

interface BesideContext {
  readonly storage: Storage;
  readonly transaction: string;
  readonly root: string;
  readonly madeHere: ReadonlySet<string>;
  readonly canonicalPath: (path: string, device: string) => Promise<string>;
  readonly openChain: (path: string, format: string, device: string) => Promise<Chain>;
}

export interface PlannedBeside {
  readonly kept: readonly FileBeside[];
  readonly toMake: readonly (ImageAccess & { readonly path: string; readonly hasHeader: false })[];
  readonly chains: readonly { readonly device: string; readonly chain: Chain }[];
  readonly files: readonly { readonly path: string; readonly change: "create" }[];
  readonly notes: readonly Note[];
  /** Fills the new files, which are in the same order. E_CHANGED where one has changed since. */
  fill(files: readonly StorageFile[]): Promise<void>;
}

/** The device is the one that refusals are about. */
export async function planFilesBeside(
  sources: readonly string[],
  device: string,
  context: BesideContext,
): Promise<PlannedBeside> {
  const { root, transaction, madeHere } = context;
  const planned: { kept: FileBeside; chain: Chain; source: StorageFile }[] = [];
  for (const given of sources) {
    const path = await context.canonicalPath(given, device);
    const name = posix.basename(path);
    if (planned.some(({ kept }) => kept.name === name)) {
      throw new ImgtxError("E_USAGE", `two files to keep are called '${name}'`, {
        image: path,
        hint: "they are given back into one folder: keep one of them under another name",
      });
    }
    const { chain, file } = await openSmall(path, device, context);
    const { sizeBytes, mode, ownerId, groupId } = await file.stat();
    const copy = `${transaction}-${madeHere.size + planned.length}`;
    const sha256 = await digestFile(file);
    planned.push({
      kept: { name, copy, sizeBytes, sha256, mode, ownerId, groupId },
      chain,
      source: file,
    });
  }
  const paths = planned.map(({ kept: { copy } }) => fileBesidePath(root, copy));
  return {
    kept: planned.map(({ kept }) => kept),
    toMake: paths.map((path) => ({ ...PRIVATE, path, hasHeader: false })),
    chains: planned.map(({ chain }) => ({ device, chain })),
    files: paths.map((path) => ({ path, change: "create" })),
    notes: planned.map(({ kept: { sizeBytes }, source }) => ({
      code: "file kept beside",
      image: source.path,
      sizeBytes,
    })),
    async fill(files) {
      for (const [index, file] of files.entries()) {
        const one = planned[index];
        if (one) await copyDigested(one.source, file, one.kept.sha256);
      }
    },
  };
}

/**
 * They go with the snapshots that a commit has given up: what no table counts any more, and no undo brings back. Found by
 * the generation that closed with it, and the one that it made.
 */
export async function removeFilesBeside(
  workspace: Workspace,
  closed: DeviceTable,
  made: DeviceTable,
): Promise<void> {
  const { storage, root } = workspace;
  const kept = new Set(made.snapshots.map(({ number }) => number));
  const dropped = closed.snapshots.filter(({ number }) => !kept.has(number));
  const reads = readingSnapshots(workspace, closed);
  // Of one whose record is lost nobody knows what it kept: gc names that.
  const snapshots = await Promise.all(dropped.map(async (ref) => await unlessGone(() => reads.read(ref))));
  const copies = snapshots.flatMap((one) => (one?.files ?? []).map(({ copy }) => fileBesidePath(root, copy)));
  await removeFinished(storage, copies, "files of snapshots gone");
}

/** As a raw image, so that it is locked and watched as one. E_NOT_A_FILE, also for a link; E_REFUSED where it is large. */
async function openSmall(
  path: string,
  device: string,
  { storage, ...context }: BesideContext,
): Promise<{ chain: Chain; file: StorageFile }> {
  const there = await storage.statLink(path);
  if (there && there.kind !== "file") {
    const isLink = there.kind === "symlink";
    throw new ImgtxError("E_NOT_A_FILE", "it is no regular file, and can't be kept with a snapshot", {
      image: path,
      ...(isLink && { hint: `name what the link leads to: ${shellQuote(await storage.realPath(path))}` }),
    });
  }
  if (there && there.sizeBytes > LARGEST_BYTES) {
    throw new ImgtxError("E_REFUSED", `it is larger than ${LARGEST_BYTES / 2 ** 20} MiB`, {
      image: path,
      hint: "a disk is snapshotted as a device: `imgtx device add NAME FILE`",
    });
  }
  const chain = await context.openChain(path, "raw", device);
  const [link] = chain.links;
  if (!link) throw new Error("a chain without an image");
  if (there && identityOf(link.stat) !== identityOf(there)) throw changedMeanwhile(path);
  return { chain, file: link.file };
}

export async function digestFile(file: StorageFile): Promise<string> {
  return await readThrough(file, async () => Promise.resolve());
}

/** E_CHANGED where the source is not what it was when it had that digest. */
export async function copyDigested(source: StorageFile, target: StorageFile, sha256: string): Promise<void> {
  const found = await readThrough(source, async (piece, at) => await target.write(piece, at));
  if (found !== sha256) throw changedMeanwhile(source.path);
}

async function readThrough(
  file: StorageFile,
  use: (piece: Uint8Array, at: number) => Promise<void>,
): Promise<string> {
  const hash: Hash = createHash("sha256");
  const piece = new Uint8Array(PIECE_BYTES);
  for (let at = 0; ; ) {
    const count = await file.read(piece, at);
    if (count === 0 || at > LARGEST_BYTES) return hash.digest("hex");
    hash.update(piece.subarray(0, count));
    await use(piece.subarray(0, count), at);
    at += count;
  }
}

function changedMeanwhile(image: string): ImgtxError {
  return new ImgtxError("E_CHANGED", "it has changed while it was copied", {
    image,
    hint: "try again once nobody writes to it",
  });
}
