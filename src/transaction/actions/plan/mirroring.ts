// Copies of devices, as actions plan them: a new copy, or the changes that bring an existing one in sync.
//
// Invariants
// - A mirror is in sync with its device when both chains are, file by file, what they were when it was last
//   brought in sync. Everything else is found out by reading: nothing is assumed of an image that moved.
// - An existing mirror is not written to before the commit: its changes are made as an overlay beside it.

import { type ChainEntry, type DeviceEntry, type MirrorEntry } from "../../../device/index.ts";
import { ImgtxError, withPlace, whileOpen } from "../../../errors/index.ts";
import {
  assertCopyable,
  type Chain,
  type ChainLink,
  CHANGE_UNIT_BYTES,
  compareImages,
  type DifferenceOptions,
  findDifferences,
  findRangesAbove,
  type Image,
  type ImageFormat,
  imageOf,
  isDeviceIdentity,
  MaskedImage,
  openImage,
  uniteRanges,
  writeChangesOverlay,
  isSameFile,
} from "../../../format/index.ts";
import type { StorageFile } from "../../../storage/index.ts";
import type { GuestRange } from "../../../units/index.ts";
import {
  type FileToMake,
  type FillTools,
  type PlanContext,
  type PlannedCopyStep as CopyOfPlan,
  progressOf,
} from "./action.ts";
import { PRIVATE } from "../../images/access.ts";
import { activeLayer, settleChain } from "./chain-entry.ts";
import { NOT_MADE_YET } from "../../journal/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import type { Note } from "../../notes/notes.ts";
import { assertNothingStandsOn, passingDamaged } from "./overlays-of.ts";
import { expectChanges, judgeMirror, measure, rangesOf, type Scope, scopeOf } from "./mirror-scope.ts";

/** One copy, planned. */
export interface PlannedCopy {
  readonly mirror: MirrorEntry;
  readonly filesToMake: readonly FileToMake[];
  /** Writes filesToMake, which may be none. */
  fillFiles(files: readonly StorageFile[], tools: FillTools): Promise<void>;
  /** Of the source's bitmap, and an image that is begun on a block device. */
  readonly redo: readonly ImageChange[];
  /** What fills that. Default: nothing. */
  readonly copies?: readonly CopyOfPlan[];
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
  assertMayBeSynced(device, mirror, context);
  const opened = await context.openChain(mirror.image, mirror.format, device, [], {
    mayBeHalfCopied: true,
  });
  const chain = await settleChain(context.storage.host, opened);
  assertSameSize(device, activeLayer(present), activeLayer(chain));
  const seen = judgeMirror(mirror, present, chain);
  const { isTouched, doubt, isInSync } = seen;
  const renewed = { ...seen.now, syncedAt: new Date(context.storage.host.now()).toISOString() };
  const chains = [present, chain];
  if (isInSync && !verify && !always) {
    const notes: Note[] = [{ code: "in sync already" }];
    const fillFiles = async (): Promise<void> => await Promise.resolve();
    const copy = { mirror, filesToMake: [], fillFiles, redo: [], chains, notes };
    return { copy, chosen: chain };
  }
  await assertCopies(device, mirror, context);
  const unread = await withPlace({ device, image: mirror.image }, async () =>
    assertNothingStandsOn(
      mirror.image,
      "would show another content",
      passingDamaged(context),
      otherMirror(device),
    ),
  );
  const { expected, whyUnmarked } = await expectChanges(mirror, seen, { present, copy: chain });
  // Who wants it verified wants all of it compared, and to be told of what no known change accounts for.
  const scope = verify ? scopeOf(mirror, renewed, true) : expected;
  const known = expected.kind === "marked" ? expected : accountedFor(mirror, renewed, doubt);
  // A bitmap that can't be relied on costs a comparison, and an operator should know why.
  const distrust = mirror.bitmap !== null && !isInSync ? whyUnmarked : undefined;
  const copy: PlannedCopy = {
    mirror: renewed,
    redo: [],
    filesToMake: [{ ...PRIVATE, path: mirror.image, hasHeader: true, copiedInto: mirror.format }],
    async fillFiles([file], tools) {
      if (!file) throw new Error("a file for the changes was planned");
      await fillChanges(
        file,
        { device, mirror, present, scope, expected: known, isTouched, verify },
        context,
        tools,
      );
    },
    chains,
    notes: [
      ...(isTouched ? [{ code: "mirror written to" } as const] : []),
      ...(distrust ? [distrust] : []),
      ...(distrust || doubt === undefined || scope.kind !== "anywhere"
        ? []
        : [{ code: "copy in doubt", ...doubt } as const]),
      ...chain.links.flatMap((link) => link.warnings),
      ...unread,
    ],
  };
  return { copy, chosen: chain };
}

function otherMirror(device: string): string {
  return `make another one, in a new file: \`imgtx mirror --cancel ${device}\` forgets this one where it is the mirror`;
}

/** E_REFUSED where an earlier merge gives it what it would lose, or points it to another image: one copy comes into an image. */
function assertMayBeSynced(
  device: string,
  { image }: MirrorEntry,
  { copiedInto, changedLast }: Pick<PlanContext, "copiedInto" | "changedLast">,
): void {
  const copy = copiedInto.get(image);
  if (copy?.up === undefined && copy?.kind !== "fill" && !changedLast.has(image)) return;
  throw new ImgtxError(
    "E_REFUSED",
    "what an earlier action does to the mirror comes only with the commit of the transaction",
    { device, image, hint: "commit the transaction first" },
  );
}

/** Refuses now what could not be written to after the commit mark: read-only, dirty, corrupt … */
async function assertCopies(
  device: string,
  mirror: MirrorEntry,
  { storage, gate }: PlanContext,
): Promise<void> {
  const { image, format } = mirror;
  // A copy that was given up has left its fence, if any.
  const isFenced = !isMade(mirror);
  await withPlace({ device }, async () => {
    await assertCopyable(storage, { path: image, format, isFenced }, gate);
  });
}

/**
 * Where what imgtx knows of makes the two differ. A block device never tells of a write: there it is no sign that a disk fails. A
 * copy that was given up has never been whole. That somebody wrote to the mirror accounts for nothing: its owner has to know.
 */
function accountedFor(
  mirror: MirrorEntry,
  now: MirrorEntry,
  doubt: ReturnType<typeof judgeMirror>["doubt"],
): Scope {
  const isUntold = doubt !== undefined && isDeviceIdentity(doubt.now);
  return scopeOf(mirror, now, isUntold || !isMade(mirror));
}

/** Whether its copy was ever ended. */
function isMade({ chain: [top] }: MirrorEntry): boolean {
  return top === undefined || !isSameFile(top.fingerprint, NOT_MADE_YET);
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
  /** Where what is known to have been written makes them differ. */
  readonly expected: Scope;
  /** Whether somebody wrote to the mirror. */
  readonly isTouched: boolean;
  readonly verify: boolean;
}

async function fillChanges(
  file: StorageFile,
  { device, mirror, present, scope, expected, isTouched, verify }: Changes,
  context: PlanContext,
  tools: FillTools,
): Promise<void> {
  // What a copy that was cut off has left here is of no use.
  if ((await file.stat()).sizeBytes > 0) await file.truncate(0);
  const { storage } = context;
  // The overlay leads to the mirror, which the operator has named, and which may be a block device.
  const gate = { ...context.gate, allowPaths: [...(context.gate.allowPaths ?? []), mirror.image] };
  const image = imageOf(present);
  await whileOpen(await context.openContent(mirror.image, mirror.format), async (old) => {
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
          : { code: "mended", lengthBytes: strangeBytes, isExpected: isAnywhere, isWritten: isTouched },
      );
    }
    tools.note(device, { code: "copied", lengthBytes: measure(ranges) });
    await writeChangesOverlay(storage, { file, path: file.path, image: old }, image, ranges, {
      signal: tools.signal,
      throttle: tools.throttle,
      onProgress: progressOf(tools, `copying ${device}`),
      gate,
    });
  });
  // Where the command commits by itself, the mirror is read back once it is in sync.
  if (verify && !tools.commitsAlone)
    await verifyCopy(image, { device, path: file.path, format: "qcow2" }, { storage, gate }, tools);
}

/** How much of the ranges is in none of the known ones; all are whole units. */
function measureOutside(ranges: readonly GuestRange[], known: readonly GuestRange[], end: number): number {
  return measure(uniteRanges([ranges, known], CHANGE_UNIT_BYTES, end)) - measure(known);
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
  if (scope.kind !== "upper layers") return await rangesOf(image, scope);
  const upper = await findRangesAbove(image, scope.depth);
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
  await whileOpen(await openImage(storage, path, { format, gate, dataFileAt }), async (copy) => {
    const onProgress = progressOf(tools, `verifying ${device}`);
    const result = await compareImages(source, copy, { strict: false, signal: tools.signal, onProgress });
    if (result.kind === "identical") return;
    if (result.kind === "unreadable") throw result.error;
    const place = "offset" in result ? ` at byte ${result.offset}` : "";
    throw new ImgtxError("E_IO", `read back, the copy differs from its source${place}`, {
      image: path,
      hint: "the disk or its cable may be failing: look at the kernel's log",
    });
  });
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

export function hasMirror(
  device: string,
  { image: present }: MirrorEntry,
  image: string,
  hint = `forget that one first with \`imgtx mirror --cancel ${device}\``,
): ImgtxError {
  return new ImgtxError("E_REFUSED", `it has a mirror already, ${present}`, { device, image, hint });
}
