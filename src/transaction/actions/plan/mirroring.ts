// Copies of devices, as actions plan them: a new copy, or the changes that bring an existing one in sync.
//
// Invariants
// - A mirror is in sync with its device when both chains are, file by file, what they were when it was last
//   brought in sync. Everything else is found out by reading: nothing is assumed of an image that moved.
// - An existing mirror is not written to before the commit: its changes are made as an overlay beside it.

import { type ChainEntry, type DeviceEntry, filesOfEntry, type MirrorEntry } from "../../../device/index.ts";
import { ImgtxError, withPlace } from "../../../errors/index.ts";
import {
  assertCopyable,
  type Chain,
  type ChainLink,
  CHANGE_UNIT_BYTES,
  compareImages,
  describeChanges,
  describeDoubt,
  type Fingerprint,
  type DifferenceOptions,
  findDifferences,
  findRangesAbove,
  type Image,
  type ImageFormat,
  imageOf,
  MaskedImage,
  openImage,
  uniteRanges,
  writeChangesOverlay,
  isSameFile,
} from "../../../format/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import type { GuestRange } from "../../../units/index.ts";
import { type FileToMake, type FillTools, type PlanContext, progressOf } from "./action.ts";
import { PRIVATE } from "../../images/access.ts";
import { activeLayer, chainEntriesOf, settleChain } from "./chain-entry.ts";
import { NOT_MADE_YET } from "../../journal/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { Note } from "../../notes.ts";
import { notReliedOn, readMarked } from "./tracking.ts";

/** One copy, planned. */
export interface PlannedCopy {
  readonly mirror: MirrorEntry;
  readonly filesToMake: readonly FileToMake[];
  /** Writes filesToMake, which may be none. */
  fillFiles(files: readonly StorageFile[], tools: FillTools): Promise<void>;
  /** Of the source's bitmap. */
  readonly redo: readonly ImageChange[];
  /** Chains that must not change before the commit. */
  readonly chains: readonly Chain[];
  readonly notes: readonly Note[];
}

/**
 * What brings the device's mirror in sync with the present chain, which is open: nothing where it is in sync, unless
 * it is asked for always. E_REFUSED where the mirror can't be its copy any more.
 */
export async function planResync(
  entry: DeviceEntry,
  present: Chain,
  context: PlanContext,
  { verify, always = false }: { readonly verify: boolean; readonly always?: boolean },
): Promise<{ readonly copy: PlannedCopy; readonly chosen: Chain }> {
  const { name: device, mirror } = entry;
  if (!mirror) throw new Error("only a device with a mirror is brought in sync with one");
  const opened = await context.openChain(mirror.image, mirror.format, device);
  const chain = await settleChain(context.storage.host, opened);
  assertSameSize(device, activeLayer(present), activeLayer(chain));
  const source = chainEntriesOf(present);
  const renewed = { ...mirror, chain: chainEntriesOf(chain), source };
  // Also where changes wait for the commit: the mirror itself is not written to before.
  const isTouched = !isSameChain(mirror.chain, renewed.chain);
  const doubt = isTouched
    ? undefined
    : (doubtOf(mirror.chain, renewed.chain, chain) ?? doubtOf(mirror.source, source, present));
  const isInSync = !isTouched && doubt === undefined && isSameChain(mirror.source, source);
  const chains = [present, chain];
  if (isInSync && !verify && !always) {
    const notes: Note[] = [{ code: "in sync already" }];
    const fillFiles = async (): Promise<void> => await Promise.resolve();
    const copy = { mirror, filesToMake: [], fillFiles, redo: [], chains, notes };
    return { copy, chosen: chain };
  }
  await assertCopies(device, mirror, context);
  const marked = isTouched ? undefined : await readMarkedAlone(mirror, renewed, { present, copy: chain });
  const expected: Scope =
    marked === undefined || "code" in marked
      ? scopeOf(mirror, renewed, isTouched || doubt !== undefined)
      : { kind: "marked", ranges: marked };
  // Who wants it verified wants all of it compared, and to be told of what nothing accounts for.
  const scope = verify ? scopeOf(mirror, renewed, true) : expected;
  // A bitmap that can't be relied on costs a comparison, and an operator should know why.
  const distrust = mirror.bitmap !== null && marked && "code" in marked && !isInSync ? marked : undefined;
  const copy: PlannedCopy = {
    mirror: renewed,
    redo: [],
    filesToMake: [{ ...PRIVATE, path: mirror.image, hasHeader: true, copiedInto: mirror.format }],
    async fillFiles([file], tools) {
      if (!file) throw new Error("a file for the changes was planned");
      await fillChanges(file, { device, mirror, present, scope, expected, verify }, context, tools);
    },
    chains,
    notes: [
      ...(isTouched ? [{ code: "mirror written to" } as const] : []),
      ...(distrust ? [distrust] : []),
      ...(distrust || doubt === undefined || scope.kind !== "anywhere"
        ? []
        : [{ code: "copy in doubt", ...doubt } as const]),
      ...chain.links.flatMap((link) => link.warnings),
    ],
  };
  return { copy, chosen: chain };
}

/** Refuses now what could not be written to after the commit mark: read-only, dirty, corrupt … */
async function assertCopies(
  device: string,
  { image, format, chain: [top] }: MirrorEntry,
  { storage, root, gate }: PlanContext,
): Promise<void> {
  // As recovery will open it, which has no folder of its own.
  const copying = { workspaceRoot: root, allowPaths: gate.allowPaths };
  // A copy that was given up has left its fence, if any.
  const isFenced = top !== undefined && isSameFile(top.fingerprint, NOT_MADE_YET);
  await withPlace({ device }, async () => {
    await assertCopyable(storage, { path: image, format, isFenced }, copying);
  });
}

/** The disk is to have another size than its mirror. */
export function mirrorKeepsSize({ name: device, image }: DeviceEntry, mirror: MirrorEntry): ImgtxError {
  return new ImgtxError("E_REFUSED", `it has a mirror of the present size, '${mirror.image}'`, {
    device,
    image,
    hint: `forget it with \`imgtx mirror ${device} --cancel\`, and make it anew afterwards`,
  });
}

/** E_REFUSED for an action that takes images out of the chain that the mirror was synced with. */
export function mirrorKeepsImages({ name: device, image }: DeviceEntry, mirror: MirrorEntry): ImgtxError {
  return new ImgtxError("E_REFUSED", `it has a mirror of its present images, '${mirror.image}'`, {
    device,
    image,
    hint: `forget it with \`imgtx mirror ${device} --cancel\`, and make it anew afterwards`,
  });
}

function assertSameSize(device: string, top: ChainLink, twin: ChainLink): void {
  if (top.virtualSizeBytes === twin.virtualSizeBytes) return;
  throw new ImgtxError(
    "E_REFUSED",
    `the mirror has ${twin.virtualSizeBytes} bytes, and the device has ${top.virtualSizeBytes}`,
    {
      device,
      image: twin.path,
      hint: `\`imgtx mirror --cancel ${device}\` forgets the mirror; then make another one`,
    },
  );
}

interface Changes {
  readonly device: string;
  readonly mirror: MirrorEntry;
  /** The device's. */
  readonly present: Chain;
  /** Where they are compared. */
  readonly scope: Scope;
  /** Where they can differ as far as anybody knows. */
  readonly expected: Scope;
  readonly verify: boolean;
}

async function fillChanges(
  file: StorageFile,
  { device, mirror, present, scope, expected, verify }: Changes,
  context: PlanContext,
  tools: FillTools,
): Promise<void> {
  // What a copy that was cut off has left here is of no use.
  if ((await file.stat()).sizeBytes > 0) await file.truncate(0);
  const { storage, gate } = context;
  const image = imageOf(present);
  const old = await context.openContent(mirror.image, mirror.format);
  try {
    const ranges = await findChanges(image, old, scope, {
      signal: tools.signal,
      onProgress: progressOf(tools, `comparing ${device}`),
    });
    if (verify) {
      const isAnywhere = expected.kind === "anywhere";
      const known = isAnywhere ? [] : await findChanges(image, old, expected, { signal: tools.signal });
      const strangeBytes = measureOutside(ranges, known, image.virtualSizeBytes);
      tools.note(
        device,
        strangeBytes === 0
          ? { code: "as it should be" }
          : { code: "mended", lengthBytes: strangeBytes, isExpected: isAnywhere },
      );
    }
    await writeChangesOverlay(storage, { file, path: file.path, image: old }, image, ranges, {
      signal: tools.signal,
      onProgress: progressOf(tools, `copying ${device}`),
      gate,
    });
  } finally {
    await old.close();
  }
  // Where the command commits by itself, the mirror is read back once it is in sync.
  if (verify && !tools.commitsAlone)
    await verifyCopy(image, { device, path: file.path, format: "qcow2" }, context, tools);
}

/** How much of the ranges is in none of the known ones; all are whole units. */
function measureOutside(ranges: readonly GuestRange[], known: readonly GuestRange[], end: number): number {
  const measure = (list: readonly GuestRange[]): number =>
    list.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
  return measure(uniteRanges([ranges, known], CHANGE_UNIT_BYTES, end)) - measure(known);
}

/** Where a mirror and its device can differ. */
type Scope =
  | { readonly kind: "anywhere" }
  /** What a bitmap marks. */
  | { readonly kind: "marked"; readonly ranges: readonly GuestRange[] }
  /** In what the layers above this depth of the device's chain have: all else is as it was. */
  | { readonly kind: "new layers"; readonly depth: number }
  /** The same, and in what the mirror's own layer has: both stand on equal images. */
  | { readonly kind: "upper layers"; readonly depth: number; readonly baseLayers: number };

/** What the bitmap marks, where all below the active layer is as it was; else why not. */
async function readMarkedAlone(
  before: MirrorEntry,
  now: MirrorEntry,
  chains: { readonly present: Chain; readonly copy: Chain },
): Promise<readonly GuestRange[] | Note> {
  const [below, belowNow] = [before.source.slice(1), now.source.slice(1)];
  if (!isSameChain(below, belowNow)) return notReliedOn(before, "changed below");
  const doubt = doubtOf(before.chain, now.chain, chains.copy) ?? doubtOf(below, belowNow, chains.present);
  if (doubt) return { code: "bitmap in doubt", ...doubt };
  return await readMarked(before, chains.present);
}

function scopeOf(before: MirrorEntry, now: MirrorEntry, isTouched: boolean): Scope {
  const depth = isTouched ? undefined : countLayersAbove(before.source, now.source);
  if (depth !== undefined) return { kind: "new layers", depth };
  const below = countLayersAbove(before.source.slice(1), now.source);
  const isBaseKept = isSameChain(before.chain.slice(1), now.chain.slice(1));
  if (before.sync === "top" && isBaseKept && below !== undefined) {
    return { kind: "upper layers", depth: below, baseLayers: now.chain.length - 1 };
  }
  return { kind: "anywhere" };
}

/** In whole units of a changes overlay. */
async function findChanges(
  image: Image,
  old: Image,
  scope: Scope,
  watching: Pick<DifferenceOptions, "signal" | "onProgress">,
): Promise<readonly GuestRange[]> {
  const options = { ...watching, unitBytes: CHANGE_UNIT_BYTES };
  if (scope.kind === "anywhere") return await findDifferences(image, old, options);
  if (scope.kind === "marked") {
    return uniteRanges([scope.ranges], CHANGE_UNIT_BYTES, image.virtualSizeBytes);
  }
  const upper = await findRangesAbove(image, scope.depth);
  if (scope.kind === "new layers") return uniteRanges([upper], CHANGE_UNIT_BYTES, image.virtualSizeBytes);
  // The changes that wait for the commit are a layer of their own.
  const own = await findRangesAbove(old, old.layers.length - scope.baseLayers);
  const ranges = uniteRanges([upper, own], CHANGE_UNIT_BYTES, image.virtualSizeBytes);
  return await findDifferences(new MaskedImage(image, ranges), new MaskedImage(old, ranges), options);
}

/** E_IO where the copy, read back, is not what its source is. */
export async function verifyCopy(
  source: Image,
  made: { device: string; path: string; format: ImageFormat; dataFileAt?: string | undefined },
  { storage, gate }: Pick<PlanContext, "storage" | "gate">,
  tools: Pick<FillTools, "signal" | "onProgress">,
): Promise<void> {
  const { device, path, format, dataFileAt } = made;
  const copy = await openImage(storage, path, { format, gate, dataFileAt });
  try {
    const onProgress = progressOf(tools, `verifying ${device}`);
    const result = await compareImages(source, copy, { strict: false, signal: tools.signal, onProgress });
    if (result.kind === "identical") return;
    if (result.kind === "unreadable") throw result.error;
    const place = "offset" in result ? ` at byte ${result.offset}` : "";
    throw new ImgtxError("E_IO", `read back, the copy differs from its source${place}`, {
      image: path,
      hint: "the disk or its cable may be failing: look at the kernel's log",
    });
  } finally {
    await copy.close();
  }
}

interface Doubt {
  readonly image: string;
  readonly before: Fingerprint;
  readonly now: Fingerprint;
}

/** The first image, from the base on, that may have been written to unseen though it looks the same. */
function doubtOf(
  before: readonly ChainEntry[],
  now: readonly ChainEntry[],
  { links }: Chain,
): Doubt | undefined {
  // A fence has the id of its transaction in the header: it is the same one, and nobody opened the image after it was set.
  const fenced = new Set(links.flatMap(({ path, header }) => (header?.isFenced ? [path] : [])));
  const known = new Map(before.flatMap(filesOfEntry).map(({ image, fingerprint }) => [image, fingerprint]));
  for (const { image, fingerprint } of now.flatMap(filesOfEntry).toReversed()) {
    const was = known.get(image);
    // What has changed for certain is found by its changes.
    if (!was || fenced.has(image) || describeChanges(was, fingerprint).length > 0) continue;
    if (describeDoubt(was, fingerprint) !== undefined) return { image, before: was, now: fingerprint };
  }
  return undefined;
}

/** The file system, size and times of every image are what they were. */
function isSameChain(before: readonly ChainEntry[], now: readonly ChainEntry[]): boolean {
  return before.length === now.length && before.every((entry, depth) => isSameImage(entry, now[depth]));
}

function isSameImage(before: ChainEntry, now: ChainEntry | undefined): boolean {
  if (now === undefined || before.image !== now.image) return false;
  if (describeChanges(before.fingerprint, now.fingerprint).length > 0) return false;
  if (before.dataFile === null || now.dataFile === null) return before.dataFile === now.dataFile;
  return describeChanges(before.dataFile.fingerprint, now.dataFile.fingerprint).length === 0;
}

/**
 * How many layers were put on top of what the mirror is a copy of, where that is still as it was: then only
 * they have something new. Undefined where it is not.
 */
function countLayersAbove(source: readonly ChainEntry[], present: readonly ChainEntry[]): number | undefined {
  // Of nothing that is known: where no layer has anything, the mirror may have something all the same.
  if (source.length === 0) return undefined;
  const above = present.length - source.length;
  return above >= 0 && isSameChain(source, present.slice(above)) ? above : undefined;
}

/**
 * The copy of the parent chain that a twin of migrate stands on, where nobody has made it yet. The twin itself is
 * not made either, in a dry run.
 */
export function findMissingParent({ chain }: MirrorEntry): ChainEntry | undefined {
  return chain.slice(1).find(({ fingerprint }) => isSameFile(fingerprint, NOT_MADE_YET));
}

/** E_REFUSED for a device without one. */
export function requireMirror({ name: device, image, mirror: present }: DeviceEntry): MirrorEntry {
  if (present) return present;
  throw new ImgtxError("E_REFUSED", "it has no mirror", {
    device,
    image,
    hint: `make one with \`imgtx mirror ${device} FILE\``,
  });
}
