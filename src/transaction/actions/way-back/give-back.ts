// Gives the files that a snapshot keeps beside its disks back into a folder, with the rollback's own commit: new ones as new
// files of the statement, and what is written over by a redo log, so that all is given back with the disks, or nothing.
//
// Invariants
// - Nothing is given back that is not, byte for byte, what the snapshot has a digest of.
// - A file is written over only where the operator said so; and what it held is kept with what the devices leave, where that
//   is kept.

import { posix } from "node:path";
import { type FileBeside, fileBesidePath, findDeviceOnFile, type Snapshot } from "../../../device/index.ts";
import { ImgtxError, withPlace, whileOpen } from "../../../errors/index.ts";
import { shellQuote } from "../../../format/index.ts";
import { PRIVATE } from "../../images/access.ts";
import { copyDigested, digestFile, planFilesBeside } from "../../images/files-beside.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { Note } from "../../notes/notes.ts";
import type { PlannedReport } from "../../journal/index.ts";
import type { RollbackRequest } from "../../requests/way-back-requests.ts";
import type { FileToMake, Plan, PlanContext } from "../plan/action.ts";
import { assertNothingStandsOn } from "../plan/overlays-of.ts";

type Kept = Awaited<ReturnType<PlanContext["storage"]["openFile"]>>;
type FileStat = Awaited<ReturnType<Kept["stat"]>>;

interface OneBack {
  readonly toMake?: FileToMake;
  readonly redo?: ImageChange;
  readonly chains: Plan["chains"];
  readonly file?: { readonly path: string; readonly change: "create" | "change" };
  readonly note: Note;
  /** Writes what is kept into the file. */
  fill(target: Kept): Promise<void>;
}

/** What a rollback does to files, beside disks. */
interface GivenBack extends Required<Pick<Plan, "redo" | "chains">> {
  readonly toMake: readonly FileToMake[];
  /** What was there and is written over, for the snapshot of what is left. */
  readonly kept: readonly FileBeside[];
  readonly files: PlannedReport["files"];
  readonly notes: readonly Note[];
  /** Fills the files to make, which are in the same order. */
  fill(files: readonly Kept[]): Promise<void>;
}

/** The device is the one that refusals are about. isKeeping: whether what is left is kept as a snapshot. */
export async function planGivingBack(
  snapshot: Snapshot,
  { filesTo, overwrites = false }: Pick<RollbackRequest, "filesTo" | "overwrites">,
  { device, isKeeping }: { readonly device: string; readonly isKeeping: boolean },
  context: PlanContext,
): Promise<GivenBack> {
  const planned: OneBack[] = [];
  if (filesTo !== undefined) {
    for (const kept of filesOf(snapshot)) {
      const { number } = snapshot;
      planned.push(await planOne(kept, { filesTo, overwrites, device, number }, context));
    }
  }
  const made = planned.filter(({ toMake }) => toMake !== undefined);
  const over = planned.flatMap(({ redo }) => redo ?? []);
  const saved = await planFilesBeside(isKeeping ? over.map(({ link }) => link.path) : [], device, context);
  return {
    toMake: [...made.flatMap(({ toMake }) => toMake ?? []), ...saved.toMake],
    kept: saved.kept,
    redo: over,
    chains: [...planned.flatMap(({ chains }) => chains), ...saved.chains],
    files: [...planned.flatMap(({ file }) => file ?? []), ...saved.files],
    notes: [...planned.map(({ note }) => note), ...saved.notes],
    async fill(files) {
      for (const [index, one] of made.entries()) {
        const file = files[index];
        if (file) await one.fill(file);
      }
      await saved.fill(files.slice(made.length));
    },
  };
}

function filesOf({ files = [], number }: Snapshot): readonly FileBeside[] {
  if (files.length > 0) return files;
  throw new ImgtxError("E_REFUSED", `snapshot ${number} keeps no files beside its disks`, {
    hint: "leave --with-files out; `imgtx snapshot-group --all --with FILE` takes one that does",
  });
}

interface HowGiven {
  readonly filesTo: string;
  readonly overwrites: boolean;
  readonly device: string;
  readonly number: number;
}

async function planOne(kept: FileBeside, how: HowGiven, context: PlanContext): Promise<OneBack> {
  const { storage, root } = context;
  const copy = fileBesidePath(root, kept.copy);
  const withCopy = async <T>(use: (file: Kept) => Promise<T>): Promise<T> => {
    return await whileOpen(await storage.openFile(copy, "read", { refuseSymlink: true }), use);
  };
  if (!(await storage.statLink(copy)) || (await withCopy(digestFile)) !== kept.sha256)
    throw spoilt(kept.name, copy, how.number);
  const fill = async (target: Kept): Promise<void> =>
    await withCopy(async (file) => await copyDigested(file, target, kept.sha256));
  const path = await context.canonicalPath(posix.join(how.filesTo, kept.name), how.device);
  const there = await storage.statLink(path);
  if (there?.kind === "file") return { fill, ...(await planOver(path, kept, fill, how, context)) };
  if (there) {
    throw new ImgtxError(
      "E_EXISTS",
      "something that is no regular file has the name of a file to give back",
      {
        image: path,
        hint: "name another folder",
      },
    );
  }
  const { mode, ownerId, groupId } = kept;
  return {
    fill,
    chains: [],
    toMake: { ...PRIVATE, path, hasHeader: false, mode: mode & 0o777, owner: { ownerId, groupId } },
    file: { path, change: "create" },
    note: { code: "file given back", image: path, how: "made" },
  };
}

/** Where a file is there. E_EXISTS where it has another content, and may not be written over. */
async function planOver(
  path: string,
  kept: FileBeside,
  fill: OneBack["fill"],
  { device, overwrites, filesTo }: HowGiven,
  context: PlanContext,
): Promise<Omit<OneBack, "fill">> {
  const chain = await context.openChain(path, "raw", device);
  const [link] = chain.links;
  if (!link) throw new Error("a chain without an image");
  const chains = [{ device, chain }];
  if (link.stat.sizeBytes === kept.sizeBytes && (await digestFile(link.file)) === kept.sha256)
    return { chains, note: { code: "file given back", image: path, how: "there already" } };
  if (!overwrites) {
    throw new ImgtxError("E_EXISTS", "a file with other content has the name of a file to give back", {
      image: path,
      hint: `say --overwrite to have it written over, or name an empty folder: \`mkdir ${shellQuote(`${filesTo}/kept`)}\``,
    });
  }
  await assertNoImage(path, link.stat, device, context);
  return {
    chains,
    redo: {
      link,
      // Whatever is written to it after the mark would be cut off, or mixed with what it was.
      discards: true,
      write: async (file) => {
        await file.truncate(0);
        await fill(file);
      },
    },
    file: { path, change: "change" },
    note: { code: "file given back", image: path, how: "written over" },
  };
}

/** E_IN_USE for what a device shows, a snapshot keeps, or another image stands on: no file of a machine, whatever its name. */
async function assertNoImage(
  image: string,
  stat: FileStat,
  device: string,
  context: PlanContext,
): Promise<void> {
  const { storage, root } = context;
  const user = await findDeviceOnFile(storage, [root, posix.dirname(image)], [image], stat);
  if (user) {
    throw new ImgtxError("E_IN_USE", `it is an image of '${user.device}', and is not written over`, {
      image,
      hint: "name another folder",
    });
  }
  await withPlace({ device, image }, async () => {
    await assertNothingStandsOn(image, "would show another content", context);
  });
}

function spoilt(name: string, image: string, number: number): ImgtxError {
  return new ImgtxError("E_CHANGED", `what snapshot ${number} keeps of '${name}' is not what it was`, {
    image,
    hint: "put it back from a copy; or leave --with-files out, and the disks go back without it",
  });
}
