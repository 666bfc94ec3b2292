// Images on block devices, as far as transactions know them.
//
// Invariants
// - A device that the operator names is taken only where he allowed devices; what the table, a plan or a journal names,
//   he named before.
// - What is not whole yet is refused by name, when it is planned: nothing has been done by then.

import { ImgtxError, whileOpen } from "../../errors/index.ts";
import {
  type Chain,
  type ChainLink,
  identityOf,
  isDeviceIdentity,
  isFileFenced,
  isSameFile,
  isUnfinishedBy,
  isZero,
  shellQuote,
} from "../../format/index.ts";
import {
  type DeviceTable,
  filesOfDevice,
  provisionerOf,
  readVolumeRecord,
  standsOnDevices,
  type Workspace,
} from "../../device/index.ts";
import type { FileStat, StorageFile } from "../../storage/index.ts";

import { type PlannedReport, type PlanRecord, volumesFilled, type WatchedImage } from "../journal/index.ts";
import type { Note } from "../notes/notes.ts";

type Storage = Workspace["storage"];

/** How an image is opened that the table, a plan or a journal names. */
export const AS_IMAGE = { mayBeDevice: true } as const;

/** E_NOT_A_FILE for a block device, unless the command allows them, or one is in the table already. */
export async function assertMayBeDevice(
  storage: Storage,
  path: string,
  { devices }: DeviceTable,
  isAllowed: boolean,
): Promise<void> {
  // Of all images that the table knows, one after the other, only where it matters.
  if (isAllowed || !(await isDeviceAt(storage, path)) || standsOnDevices(devices)) return;
  throw new ImgtxError("E_NOT_A_FILE", `Could not open '${path}': it is a block device, not a regular file`, {
    image: path,
    doing: "open",
    hint: "if it is meant, allow it with --allow-devices; the workspace takes others without that from then on",
  });
}

/** What a plan does to images that are there, and the files that it makes. */
interface Touched {
  readonly redo: readonly { readonly link: ChainLink; readonly makesImage?: boolean }[];
  readonly removes: readonly string[];
  readonly watched: readonly Pick<WatchedImage, "image" | "fingerprint">[];
  readonly made: readonly string[];
}

/** E_UNSUPPORTED where a plan would do to a block device what is not whole yet. */
export async function assertFitsDevices(
  storage: Storage,
  { redo, removes, watched, made }: Touched,
): Promise<void> {
  for (const { link, makesImage = false } of redo) {
    if (link.stat.kind === "device" && !makesImage) assertMayBeChanged(link);
  }
  for (const image of removes) {
    const isImage = watched.some((one) => one.image === image && one.fingerprint.headerSha256 !== null);
    if (!isImage && (await isDeviceAt(storage, image))) throw mayNotGo(image);
  }
  for (const image of made) await assertIsInFolder(storage, image);
}

/**
 * Nothing but a fence keeps a guest's write apart from what is about to be written, after the mark: a device has no times.
 * So the image needs a place for one. Up to the mark what was read of it is compared: see recorded-reads.ts.
 */
function assertMayBeChanged({ path: image, header }: ChainLink): void {
  if (header === undefined) {
    throw new ImgtxError("E_UNSUPPORTED", "a raw image on a block device has the size of the device", {
      image,
      hint: "make the volume itself larger or smaller (`lvresize` for LVM)",
    });
  }
  if (header.version < 3) {
    throw new ImgtxError(
      "E_UNSUPPORTED",
      "an image of version 2 on a block device can't be changed in place: it has no place for a fence",
      {
        image,
        hint: `while nobody uses it, \`qemu-img amend -f qcow2 -o compat=1.1 ${shellQuote(image)}\` makes it version 3`,
      },
    );
  }
}

/** E_REFUSED where content is to come from or into an image that earlier actions begin on a block device: see fill-volume.ts. */
export function assertNotBegun(
  { copies, removes }: Pick<PlanRecord, "copies" | "removes">,
  before: readonly PlanRecord[],
): void {
  if (copies.length + removes.length === 0) return;
  const begun = new Set(before.flatMap(volumesFilled));
  const used = copies.flatMap(({ kind, into, files }) => (kind === "fill" ? [] : [into, ...files]));
  const image = [...used, ...removes].find((one) => begun.has(one));
  if (image === undefined) return;
  throw new ImgtxError(
    "E_REFUSED",
    "an earlier action of the transaction makes this image on a block device, which comes to be with the commit",
    { image, hint: "commit the transaction first" },
  );
}

/** Where no program looks for what is on a device any more: LVM, RAID and each file system begin before that. */
export const HEAD_BYTES = 2 ** 20;

/** Whether nothing is on it that any program would find. */
export async function readsAsEmpty(
  file: Pick<StorageFile, "read">,
  { sizeBytes }: Pick<FileStat, "sizeBytes">,
): Promise<boolean> {
  const head = new Uint8Array(Math.min(HEAD_BYTES, sizeBytes));
  await file.read(head, 0);
  return isZero(head);
}

/** The same of the block device of that name. */
export async function isEmptyVolume(storage: Storage, path: string): Promise<boolean> {
  return await whileOpen(await storage.openFile(path, "read", AS_IMAGE), async (file) => {
    return await readsAsEmpty(file, await file.stat());
  });
}

interface HowToJudge {
  /** The chain that the device is on. */
  readonly below: Pick<Chain, "links">;
  readonly table: DeviceTable;
  /** The device that the image is for. */
  readonly device: string;
  readonly isOverwriting: boolean;
}

/**
 * Whether there is anything on a volume, the only link of its chain, that is to get a new image. E_REFUSED where that must
 * not be written over: without the operator's word, or since the workspace has an image on it, or it is fenced. An image
 * that was begun there and never was whole is nothing.
 */
export async function judgeVolume(
  storage: Storage,
  { file, path: image, stat, fingerprint }: ChainLink,
  { below, table, device, isOverwriting }: HowToJudge,
): Promise<"empty" | "in use"> {
  if (below.links.some((link) => identityOf(link.stat) === identityOf(stat)))
    throw new ImgtxError("E_REFUSED", "it holds an image of the chain that the device is on", { image });
  // A mirror that is not copied yet has its name alone.
  const user = table.devices.find((entry) =>
    filesOfDevice(entry).some(
      (one) => isSameFile(one.fingerprint, fingerprint) || (entry.name !== device && one.image === image),
    ),
  );
  if (user) throw new ImgtxError("E_IN_USE", `it holds an image of '${user.name}'`, { image });
  const isUnfinished = await isUnfinishedBy(file);
  if (!isUnfinished && (await isFileFenced(file))) {
    throw new ImgtxError(
      "E_REFUSED",
      "the image on it is frozen, or being changed: nothing is written over that",
      { image },
    );
  }
  // The kernel says whether it is mounted, or part of another device.
  await (await storage.openFile(image, "write", AS_IMAGE)).close();
  if (isUnfinished || (await readsAsEmpty(file, stat))) return "empty";
  if (isOverwriting) return "in use";
  throw new ImgtxError("E_REFUSED", "there is something on the volume already, which would be lost", {
    image,
    hint: `look with \`imgtx img info --allow-devices ${shellQuote(image)}\`; --overwrite writes over it`,
  });
}

export async function isDeviceAt(storage: Storage, image: string): Promise<boolean> {
  return (await storage.stat(image))?.kind === "device";
}

/** Nothing tells of a raw disk that nobody has written to it. */
function mayNotGo(image: string): ImgtxError {
  return new ImgtxError("E_UNSUPPORTED", "what is raw on a block device is not taken away", {
    image,
    hint: "leave it where it is: `--keep`, or without `--discard`",
  });
}

/** devtmpfs: what is made there takes memory, and is gone at the next start. */
async function assertIsInFolder(storage: Storage, image: string): Promise<void> {
  const place = { image, hint: "name a file in another folder" };
  if (await isDeviceAt(storage, image))
    throw new ImgtxError("E_UNSUPPORTED", "a new image can't be made on a block device yet", place);
  if (image.startsWith("/dev/") && !image.startsWith("/dev/shm/"))
    throw new ImgtxError("E_REFUSED", "files in /dev are lost when the machine starts anew", place);
}

/**
 * E_CHANGED where another device has by now the name that an image of the table has. A number is given to whatever is
 * attached next, and what is done to an image must not be done to a stranger's disk.
 */
export function assertSameDevices(
  {
    chains,
    changes,
  }: {
    readonly chains: readonly { readonly device: string; readonly chain: Chain }[];
    readonly changes: readonly { readonly device: string; readonly after: unknown }[];
  },
  table: DeviceTable,
): void {
  const onDevices = new Map(
    table.devices.map(({ name, chain }) => [
      name,
      chain.filter(({ fingerprint }) => isDeviceIdentity(fingerprint)),
    ]),
  );
  for (const { device, chain } of chains) {
    const known = onDevices.get(device) ?? [];
    // What leaves the table is nobody's any more: so an operator gets rid of what is not there.
    if (known.length === 0 || changes.some((change) => change.device === device && change.after === null))
      continue;
    for (const { path, fingerprint } of chain.links) {
      const was = known.find(({ image }) => image === path)?.fingerprint;
      if (!was || was.fileSystemId === fingerprint.fileSystemId) continue;
      throw new ImgtxError(
        "E_CHANGED",
        "another device has that name than the one that the workspace knows",
        {
          device,
          image: path,
          hint: `attach the device that was there; if this one is meant, \`imgtx device remove ${device}\` and add it anew`,
        },
      );
    }
  }
}

/** The reports, saying of block devices that are not needed any more what becomes of them. */
export async function withVolumesLetGo(
  workspace: Workspace,
  table: DeviceTable,
  reports: readonly PlannedReport[],
): Promise<readonly PlannedReport[]> {
  const { storage } = workspace;
  const told: PlannedReport[] = [];
  for (const report of reports) {
    const notes: Note[] = [];
    for (const { path: image, change } of report.files) {
      if (change !== "remove" || !(await isDeviceAt(storage, image))) continue;
      const made = await readVolumeRecord(workspace, table, image);
      const command = made && provisionerOf(table, made);
      notes.push(
        command
          ? { code: "volume goes", image, command: command.map(shellQuote).join(" ") }
          : { code: "volume let go", image },
      );
    }
    told.push(notes.length === 0 ? report : { ...report, notes: [...report.notes, ...notes] });
  }
  return told;
}
