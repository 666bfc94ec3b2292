// Changes the internal snapshots of a qcow2 image: makes one, goes back to one, takes one away.
//
// Invariants
// - As with bitmaps, the file is one that is staged: no order of these writes would leave an image whole.
// - A snapshot shares all clusters with the disk, its L2 tables too; each is counted once for each L1 table that leads
//   to it. Nothing is copied but the L1 table.
// - Other snapshots stay as they are, extra data that imgtx does not know included.
// - The VM state of a snapshot lies past the disk in its own L1 table. It stays there: the disk that is gone back to
//   does not get it, where a larger disk would show it.
// - Persistent bitmaps are of the disk alone: taking a snapshot away, or making one, leaves them as they are.

import { ImgtxError } from "../../../errors/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import { hostOffset } from "../../../units/index.ts";
import { type ChainLink, type Qcow2Link, readLink } from "../../chain/chain-link.ts";
import { openWriterState, requireWritable } from "../../open/open-for-writing.ts";
import { quoteName, shellQuote } from "../../quote-name.ts";
import { readBytes, readOwnHeader } from "../../read-header.ts";
import { encodeSize, encodeTablePlace, HEADER_AT } from "../codec/header.ts";
import { encodeName } from "../codec/header-extension.ts";
import { joinOffset } from "../codec/l1-table.ts";
import {
  countL1Entries,
  SNAPSHOT_TABLE_BYTES_MAX,
  SNAPSHOTS_MAX,
  TABLE_ENTRY_BYTES,
} from "../codec/limits.ts";
import { encodeSnapshotEntry, type SnapshotEntry } from "../codec/snapshot-table.ts";
import { readBitmapDirectory } from "../read/qcow2-bitmaps.ts";
import { readSnapshotTable, readSoundSnapshots, hasNoSnapshots } from "../read/qcow2-snapshots.ts";
import type { WriterState } from "../write/writer-state.ts";
import { replaceL1Table } from "./resize-image.ts";
import { countReferences, punchesFreed, refreshCopied } from "./table-references.ts";

/** QEMU keeps no more of a name. */
const NAME_BYTES_MAX = 255;
/** The size of the VM state, that of the disk, and a count of instructions, which is 0 as with qemu-img. */
const EXTRA_BYTES = 24;
/** For the snapshot table, a refcount block, and what is cut into pages. */
const SPARE_CLUSTERS = 8;

/** An internal snapshot that is to be made. */
export interface NewSnapshot {
  readonly name: string;
  /** Though another one has that name: ids tell them apart. */
  readonly mayRepeat?: boolean | undefined;
  readonly dateSec: number;
  readonly dateNsec: number;
}

/** The image, where its internal snapshots can be changed: E_UNSUPPORTED, E_REFUSED or E_CORRUPT where they can't. */
export async function judgeSnapshots(link: ChainLink): Promise<Qcow2Link> {
  const { header, path: image } = link;
  if (header === undefined) {
    throw hasNoSnapshots(image, { hint: "`imgtx snapshot DEV FILE` puts an overlay over it" });
  }
  requireWritable(header, image);
  await readSoundSnapshots(link);
  return { ...link, header };
}

/** E_EXISTS for a name that is taken, unless it may be, E_USAGE for one that none can have; E_UNSUPPORTED; the errors of judgeSnapshots. */
export async function judgeNewSnapshot(
  link: ChainLink,
  { name, mayRepeat }: Pick<NewSnapshot, "name" | "mayRepeat">,
): Promise<Qcow2Link> {
  const subject = await judgeSnapshots(link);
  const { header, path: image } = subject;
  const lengthBytes = encodeName(name).length;
  if (lengthBytes === 0 || lengthBytes > NAME_BYTES_MAX || name.includes("\0")) {
    throw new ImgtxError("E_USAGE", `no internal snapshot can have the name ${quoteName(name)}`, {
      hint: `choose a name of 1 to ${NAME_BYTES_MAX} bytes`,
    });
  }
  if (header.hasExternalDataFile) {
    throw new ImgtxError("E_UNSUPPORTED", "an image with an external data file has no internal snapshots", {
      image,
      hint: "`imgtx snapshot DEV FILE` puts an overlay over it",
    });
  }
  const { entries } = await readSnapshotTable(link);
  if (!mayRepeat && entries.some((entry) => entry.name === name)) {
    throw new ImgtxError("E_EXISTS", `Snapshot with name ${quoteName(name)} already exists`, {
      image,
      hint: "choose another name, or delete that snapshot first",
    });
  }
  if (entries.length < SNAPSHOTS_MAX) return subject;
  throw new ImgtxError("E_UNSUPPORTED", "the image has as many internal snapshots as it can have", {
    image,
    hint: "delete some that nobody needs",
  });
}

/** E_REFUSED where going back would leave a bitmap that does not know of it; the errors of judgeSnapshots. */
export async function judgeApplying(link: ChainLink): Promise<Qcow2Link> {
  const subject = await judgeSnapshots(link);
  const [bitmap] = await readBitmapDirectory(link);
  if (bitmap === undefined) return subject;
  throw new ImgtxError(
    "E_REFUSED",
    `Device has active dirty bitmaps: ${quoteName(bitmap.name)} would not mark what changes`,
    {
      image: link.path,
      field: "bitmap_directory",
      hint: `remove it first: \`imgtx img bitmap --remove ${shellQuote(link.path)} ${shellQuote(bitmap.name)}\``,
    },
  );
}

/** A new snapshot of the disk as it is, without VM state. Errors are those of judgeNewSnapshot, and E_UNSUPPORTED. */
export async function createSnapshot(link: ChainLink, file: StorageFile, added: NewSnapshot): Promise<void> {
  await change(await judgeNewSnapshot(link, added), file, async (state, { entries, l1 }) => {
    await countReferences(state, l1, { by: 1 });
    const place = await state.store(l1);
    await writeTable(state, entries, [...entries, describeNew(state, entries, added, place)]);
    await refreshCopied(state, l1, state.files.header.l1TableOffset);
  });
}

/** The same in a file that is open for writing. */
export async function addSnapshot(file: StorageFile, added: NewSnapshot): Promise<void> {
  const { path } = file;
  const { link } = await readLink(file, await file.stat(), { path, format: "qcow2", overlayPath: undefined });
  await createSnapshot(link, file, added);
}

/** What a snapshot may take on the disk, at most, where so much more is copied into its image before. */
export async function measureNewSnapshot(file: StorageFile, copiedBytes: number): Promise<number> {
  const { clusterSizeBytes, l1TableOffset, l1Size, refcountBits } = await readOwnHeader(file, file.path);
  const l1 = await readL1(file, l1TableOffset, l1Size);
  const tables = Array.from({ length: l1Size }, (_, index) => placeAt(l1, index)).filter((at) => at !== 0);
  const clusters = Math.ceil(((await file.stat()).sizeBytes + copiedBytes) / clusterSizeBytes);
  const countBytes = Math.ceil((clusters * refcountBits) / 8);
  // Its L1 table twice, once in the log; the L2 tables and refcounts that change, in the log.
  return (
    2 * l1.length +
    tables.length * clusterSizeBytes +
    copiedBytes +
    countBytes +
    SPARE_CLUSTERS * clusterSizeBytes
  );
}

/** The disk as it was, at the size that it had. Errors are those of judgeApplying. */
export async function applySnapshot(link: ChainLink, file: StorageFile, entry: SnapshotEntry): Promise<void> {
  await change(await judgeApplying(link), file, async (state, { l1: now }) => {
    const { header } = state.files;
    const sizeBytes = entry.diskSize ?? header.size;
    const ofDisk = countL1Entries(sizeBytes, header.clusterBits, header.hasExtendedL2);
    const then = new Uint8Array(Math.max(now.length, ofDisk * TABLE_ENTRY_BYTES));
    then.set(await readL1(file, entry.l1TableOffset, Math.min(entry.l1Size, ofDisk)));
    const isKept = (index: number): boolean => placeAt(now, index) === placeAt(then, index);
    await countReferences(state, then, { by: 1, isKept });
    let place = header.l1TableOffset;
    if (then.length > now.length) place = await replaceL1Table(state, then);
    await countReferences(state, now, { by: -1, isKept });
    await refreshCopied(state, then, place);
    await file.write(encodeSize(sizeBytes), HEADER_AT.size);
  });
}

/** The image without this snapshot. Errors are those of judgeSnapshots. */
export async function deleteSnapshot(
  link: ChainLink,
  file: StorageFile,
  { id, name, l1TableOffset, l1Size }: SnapshotEntry,
): Promise<void> {
  await change(await judgeSnapshots(link), file, async (state, { entries, l1 }) => {
    const others = entries.filter((entry) => entry.id !== id || entry.name !== name);
    await writeTable(state, entries, others);
    await countReferences(state, await readL1(file, l1TableOffset, l1Size), { by: -1 });
    state.release(l1TableOffset, l1Size * TABLE_ENTRY_BYTES, punchesFreed(state));
    await state.persist();
    await refreshCopied(state, l1, state.files.header.l1TableOffset);
  });
}

/** Has each entry say the size of its disk, which version 3 asks for. */
export async function stateDiskSizes(link: Qcow2Link): Promise<void> {
  const { entries } = await readSnapshotTable(link);
  if (entries.every(({ diskSize }) => diskSize !== undefined)) return;
  await change(link, link.file, async (state) => {
    const stated = entries.map((entry) => {
      // As QEMU has it, no count of instructions.
      const extraData = new Uint8Array(Math.max(EXTRA_BYTES, entry.extraData.length)).fill(0xff);
      extraData.set(entry.extraData);
      return { ...entry, diskSize: entry.diskSize ?? link.header.size, extraData };
    });
    await writeTable(state, entries, stated);
  });
}

interface Present {
  readonly entries: readonly SnapshotEntry[];
  readonly l1: Uint8Array;
}

async function change(
  subject: Qcow2Link,
  file: StorageFile,
  make: (state: WriterState, present: Present) => Promise<void>,
): Promise<void> {
  const { entries } = await readSnapshotTable(subject);
  const { l1TableOffset, l1Size } = subject.header;
  const state = await openWriterState(subject, {
    file,
    dataFile: file,
    isOrdered: true,
    keepsBitmaps: true,
  });
  await state.begin();
  await make(state, { entries, l1: await readL1(file, l1TableOffset, l1Size) });
  await state.finish();
}

async function readL1(file: StorageFile, offset: number, entries: number): Promise<Uint8Array> {
  const table = new Uint8Array(entries * TABLE_ENTRY_BYTES);
  table.set(await readBytes(file, offset, table.length));
  return table;
}

/** Where the L2 table of an entry is, or 0; both halves without their flags. */
function placeAt(l1: Uint8Array, index: number): number {
  const at = index * TABLE_ENTRY_BYTES;
  if (at + TABLE_ENTRY_BYTES > l1.length) return 0;
  const view = new DataView(l1.buffer, l1.byteOffset, l1.byteLength);
  return joinOffset(view.getUint32(at), view.getUint32(at + 4));
}

/** Its id is one more than the largest of the others, as QEMU gives them. */
function describeNew(
  { files: { header } }: WriterState,
  others: readonly SnapshotEntry[],
  { name, dateSec, dateNsec }: NewSnapshot,
  place: number,
): SnapshotEntry {
  const ids = others.map((entry) => Number(/^\d+/.exec(entry.id)?.[0] ?? 0));
  const id = String(Math.max(0, ...ids) + 1);
  return {
    l1TableOffset: hostOffset(place),
    l1Size: header.l1Size,
    id,
    name,
    dateSec,
    dateNsec,
    vmClockSec: 0,
    vmClockNsec: 0,
    vmStateSize: 0,
    diskSize: header.size,
    icount: 0,
    extraData: new Uint8Array(EXTRA_BYTES),
    idBytes: encodeName(id),
    nameBytes: encodeName(name),
  };
}

/** The new snapshot table, at another place, and the header that leads there; the old one is given back. */
async function writeTable(
  state: WriterState,
  before: readonly SnapshotEntry[],
  after: readonly SnapshotEntry[],
): Promise<void> {
  const { file, header, path } = state.files;
  const table = Buffer.concat(after.map(encodeSnapshotEntry));
  if (table.length > SNAPSHOT_TABLE_BYTES_MAX) {
    throw new ImgtxError("E_UNSUPPORTED", "the snapshot table would be larger than QEMU reads", {
      image: path,
    });
  }
  const place = await state.store(table);
  await file.write(encodeTablePlace(after.length, place), HEADER_AT.nbSnapshots);
  const oldBytes = before.reduce((sum, entry) => sum + encodeSnapshotEntry(entry).length, 0);
  state.release(header.snapshotsOffset, oldBytes, false);
}
