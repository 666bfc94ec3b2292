// What a snapshot keeps is written to by nobody: no device may be on a sealed image, and no mirror be one, by whatever name; and
// what is sealed is changed in place by its own name alone, by those who see to its snapshots. And nobody writes to what
// another workspace, which is found above its folder, has below its devices, or keeps.
//
// Records are read where a device or a mirror comes to an image that is new to the table, and where an image that is changed has
// another name: through a link, or as a hard link.

import { posix } from "node:path";
import {
  type ChainEntry,
  type DeviceOnFile,
  type DeviceTable,
  filesOfEntry,
  findDevice,
  findUserElsewhere,
  isAnyElsewhere,
  type SeenFile,
  type SnapshotReads,
  type SnapshotRef,
  withGivenUp,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { identityOf, isDeviceIdentity, isSameFile, shellQuote } from "../../format/index.ts";
import type { FileStat, Storage } from "../../storage/index.ts";
import { sayElsewhere } from "../images/removal.ts";
import type { PlanRecord } from "../journal/index.ts";
import { withName } from "../notes/note-words.ts";
import type { Note } from "../notes/notes.ts";

type Plan = Pick<PlanRecord, "changes" | "newFiles" | "standing" | "givesUp" | "devices">;

/** What is written to, and was there before. */
interface Written {
  readonly device: string | undefined;
  readonly image: string;
  /** By its own name it is the business of those who change it. */
  readonly isInPlace: boolean;
  /** Of an active layer, or of a mirror. */
  readonly top?: ChainEntry;
  /** Undefined: it can't be looked at. */
  readonly stat: FileStat | undefined;
}

/** A device's active layer, as it is or is to be, that a device of another workspace is on as well; or that one has left. */
export interface Shared {
  readonly device: string | undefined;
  readonly note: Note & { readonly code: "active elsewhere" | "kept elsewhere" };
}

/**
 * E_IN_USE where what is written to is sealed, or another workspace's. changed: the images that the plan changes in place.
 * Returns what the operator has to know: active layers that others have as theirs.
 */
export async function assertOwnToWrite(
  workspace: Workspace,
  snapshots: SnapshotReads,
  table: DeviceTable,
  plan: Plan,
  changed: ReadonlySet<string>,
): Promise<readonly Shared[]> {
  await assertSealedStay(workspace.storage, snapshots, table, plan, changed);
  const written = await assertNotElsewhere(workspace, table, plan, changed);
  return [...written, ...(await findLeftShared(workspace, table, plan))];
}

/** E_IN_USE where a device would write to an image that is sealed, with the way that works. */
export async function assertSealedStay(
  storage: Storage,
  snapshots: SnapshotReads,
  table: DeviceTable,
  plan: Plan,
  changed: ReadonlySet<string> = new Set(),
): Promise<void> {
  const written = [...(await findNewTops(storage, table, plan)), ...(await findAliases(storage, changed))];
  if (written.length === 0) return;
  const then = (plan.givesUp ?? []).reduce(withGivenUp, table);
  const images = new Set(written.map(({ image }) => image));
  for (const ref of likelyFirst(then, images)) {
    if (plan.standing?.dropped.includes(ref.number)) continue;
    const { devices, number, name } = await snapshots.read(ref);
    for (const { device: keeper, chain } of devices) {
      const hit = await findHit(storage, chain.flatMap(filesOfEntry), written);
      if (!hit) continue;
      const [device = hit.writer.device] = hit.writer.isInPlace ? plan.devices : [];
      const place = hit.kept === hit.writer.image ? "" : `, as '${hit.kept}'`;
      throw new ImgtxError(
        "E_IN_USE",
        `${withName(`snapshot ${number}`, name)} keeps it, of '${keeper}'${place}: nobody writes to it any more`,
        {
          ...(device !== undefined && { device }),
          image: hit.writer.image,
          hint: waysOn(hit.writer, { keeper, number }),
        },
      );
    }
  }
}

/** For the device that it is kept of a rollback; for another one an overlay of its own, as a clone has. */
function waysOn(
  { device, image, top }: Written,
  { keeper, number }: { readonly keeper: string; readonly number: number },
): string {
  const back = `\`imgtx rollback ${keeper} --to ${number}\` puts '${keeper}' on a new overlay over it`;
  if (top === undefined || device === undefined || device === keeper) return back;
  const { format } = top;
  return `\`imgtx img create -f qcow2 -b ${shellQuote(image)} -F ${format} OVERLAY\` makes an overlay over it for '${device}'; ${back}`;
}

/** Images that devices and mirrors come to, but those that the plan makes, and that they were on before. */
async function findNewTops(
  storage: Storage,
  table: DeviceTable,
  { changes, newFiles }: Plan,
): Promise<Written[]> {
  const made = new Set(newFiles.map(({ path }) => path));
  const isKnown = (top: string): boolean =>
    table.devices.some(({ image, mirror }) => image === top || mirror?.image === top);
  const written: Written[] = [];
  for (const { device, after } of changes) {
    for (const top of [after?.chain[0], after?.mirror?.chain[0]]) {
      if (top === undefined || made.has(top.image) || isKnown(top.image)) continue;
      for (const { image } of filesOfEntry(top)) {
        const isTop = image === top.image;
        const stat = await storage.stat(image);
        written.push({ device, image, isInPlace: false, ...(isTop && { top }), stat });
      }
    }
  }
  return written;
}

/** Of images that are changed in place: those whose name need not be the one that a record has. */
async function findAliases(storage: Storage, changed: Iterable<string>): Promise<Written[]> {
  const written: Written[] = [];
  for (const image of changed) {
    const stat = await storage.stat(image);
    if (stat?.kind !== "file") continue;
    if (stat.names === 1 && (await storage.realPath(image)) === image) continue;
    written.push({ device: undefined, image, isInPlace: true, stat });
  }
  return written;
}

async function findHit(
  storage: Storage,
  kept: readonly SeenFile[],
  written: readonly Written[],
): Promise<{ readonly writer: Written; readonly kept: string } | undefined> {
  for (const sealed of kept) {
    for (const writer of written) {
      if (await isOneImage(storage, sealed, writer)) return { writer, kept: sealed.image };
    }
  }
  return undefined;
}

/** A volume has several names, such as /dev/vg/disk and /dev/mapper/vg-disk, and so has a file that is linked to. */
async function isOneImage(
  storage: Storage,
  sealed: SeenFile,
  { image, isInPlace, top, stat }: Written,
): Promise<boolean> {
  if (sealed.image === image) return !isInPlace;
  if (top && isDeviceIdentity(top.fingerprint)) return isSameFile(sealed.fingerprint, top.fingerprint);
  if (stat?.kind !== "file") return false;
  const mayBe =
    sealed.fingerprint.inode === stat.inode || posix.basename(sealed.image) === posix.basename(image);
  const there = mayBe ? await storage.stat(sealed.image) : undefined;
  return there !== undefined && identityOf(there) === identityOf(stat);
}

/** E_IN_USE where an image that is written to is below a device of another workspace, or one of its snapshots keeps it. */
async function assertNotElsewhere(
  workspace: Workspace,
  table: DeviceTable,
  plan: Plan,
  changed: ReadonlySet<string>,
): Promise<readonly Shared[]> {
  const shared: Shared[] = [];
  const tops = await findNewTops(workspace.storage, table, plan);
  const written = [
    ...tops.map(({ device, image }) => ({ device, image })),
    ...Array.from(changed, (image) => ({ device: plan.devices[0], image })),
  ];
  for (const { device, image } of written) {
    const found = await findUserElsewhere(workspace, image);
    if (!found) continue;
    // What both have as an active layer is their operator's business, who may have lost the other workspace.
    if (found.isActive) {
      shared.push(asShared(device, image, found));
      continue;
    }
    const { keptBy, root } = found;
    const there = `imgtx --workspace ${shellQuote(root)}`;
    const wayOut = keptBy
      ? `${there} snapshot-show ${keptBy.number}\` shows what it keeps`
      : `${there} device remove ${found.device}\` takes it out there`;
    throw new ImgtxError("E_IN_USE", `${sayElsewhere(found)}: nobody else may write to it`, {
      ...(device !== undefined && { device }),
      image,
      hint: `make an overlay over it, and use that; \`${wayOut}`,
    });
  }
  return shared;
}

/** What devices leave, and a guest of the other workspace would go on writing to: a snapshot's image, say. */
async function findLeftShared(
  workspace: Workspace,
  table: DeviceTable,
  { changes }: Plan,
): Promise<Shared[]> {
  const left = changes.flatMap(({ device, after }) => {
    const image = findDevice(table, device)?.image;
    return image === undefined || after === null || after.image === image ? [] : [{ device, image }];
  });
  const images = left.map(({ image }) => image);
  if (images.length === 0 || !(await isAnyElsewhere(workspace, images))) return [];
  const shared: Shared[] = [];
  for (const { device, image } of left) {
    const found = await findUserElsewhere(workspace, image);
    if (found?.isActive) shared.push(asShared(device, image, found));
    else if (found?.keptBy) shared.push(asKept(device, image, found, found.keptBy.number));
  }
  return shared;
}

function asShared(device: string | undefined, image: string, { device: other, root }: DeviceOnFile): Shared {
  return { device, note: { code: "active elsewhere", image, device: other, workspace: root } };
}

function asKept(
  device: string,
  image: string,
  { device: other, root }: DeviceOnFile,
  number: number,
): Shared {
  return { device, note: { code: "kept elsewhere", image, device: other, workspace: root, number } };
}

/**
 * The newest first, but before all others those that chains of the table name as the keepers of the images: a record has to
 * be read for each other snapshot, and there may be thousands.
 */
function likelyFirst(
  { devices, snapshots }: DeviceTable,
  images: ReadonlySet<string>,
): readonly SnapshotRef[] {
  const sealers = new Set(
    devices.flatMap(({ chain }) => {
      const depth = chain.findIndex(({ image }) => images.has(image));
      const sealer = chain.slice(0, depth + 1).findLast(({ sealedBy }) => sealedBy !== undefined);
      return sealer?.sealedBy ?? [];
    }),
  );
  const newest = snapshots.toReversed();
  return [
    ...newest.filter((ref) => sealers.has(ref.number)),
    ...newest.filter((ref) => !sealers.has(ref.number)),
  ];
}
