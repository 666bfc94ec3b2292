// Freezing and unfreezing, as actions plan it: which images get a fence, which lose theirs, and what can be said
// of what happened to them meanwhile.
//
// A device is fenced at its active layer. That keeps QEMU from the whole chain through this device, and goes on
// doing so below overlays that are put on top: so a snapshot sets no further fence. An image that has become the base of
// several devices stays fenced for all of them until the one that froze it is unfrozen; each of the others can be frozen
// and unfrozen meanwhile, at its own active layer.

import {
  type ChainEntry,
  type DeviceEntry,
  type DeviceTable,
  type FenceEntry,
  fenceToRaise,
  filesOfEntry,
  type FrozenEntry,
  isRaised,
} from "../../../device/index.ts";
import { ImgtxError } from "../../../errors/index.ts";
import {
  type Chain,
  type ChainLink,
  describeChanges,
  type Fingerprint,
  planImageFence,
  planImageLift,
} from "../../../format/index.ts";
import { sayTime } from "../../../units/index.ts";
import type { PlanContext } from "./action.ts";
import { activeLayer } from "./chain-entry.ts";
import { fenceBytesOf, isStoredFence } from "../../journal/index.ts";
import type { ImageChange } from "../../images/redo.ts";
import { sayFenceless } from "../../notes/note-words.ts";
import type { Note } from "../../notes/notes.ts";
import type { PlannedFile } from "../../requests/request.ts";

/** What freezing or unfreezing does to images, and what an operator should know of it. */
export interface Fencing {
  readonly fences: readonly FenceEntry[];
  readonly redo: readonly ImageChange[];
  readonly files: readonly PlannedFile[];
  readonly notes: readonly Note[];
}

/** E_REFUSED for what must not be done to a device that somebody holds still. */
export function assertNotFrozen({ name, image, frozen }: DeviceEntry, what: string): void {
  if (!frozen) return;
  throw new ImgtxError("E_REFUSED", `it is frozen, ${sayHolder(frozen)}: ${what}`, {
    device: name,
    image,
    hint: `\`imgtx unfreeze ${name}\` first`,
  });
}

/** What keeps QEMU from a new overlay as well: the fence below it, whoever set it. */
export function tellOfFences({ name, frozen }: DeviceEntry, below: Chain, table: DeviceTable): Note[] {
  return frozen ? [{ code: "stays frozen", device: name }] : findFences(name, below, table);
}

function sayHolder({ since, by }: Pick<FrozenEntry, "since" | "by">): string {
  return `since ${sayTime(since)} by ${by}`;
}

/**
 * A fence for the active layer, where its format has a place for one: the commit raises it. E_REFUSED where it has none
 * and must.
 */
export async function fenceActiveLayer(
  device: string,
  chain: Chain,
  context: Pick<PlanContext, "copiedInto" | "transaction">,
  isStrict: boolean,
): Promise<Fencing> {
  const top = activeLayer(chain);
  const { path, fingerprint, header } = top;
  if (context.copiedInto.has(path)) {
    // What is copied into it lifts its fence.
    throw new ImgtxError("E_REFUSED", "the transaction has still to bring it in sync, when it is committed", {
      device,
      image: path,
      hint: "commit the transaction, and freeze it then",
    });
  }
  if (header?.isFenced) {
    throw new ImgtxError("E_REFUSED", "it is fenced already, and no freeze of this device is known here", {
      device,
      image: path,
      hint: `another workspace may have frozen it; \`imgtx unfreeze --force ${device}\` lifts a forgotten fence`,
    });
  }
  const fence = await planImageFence(top, context.transaction);
  if (!fence) return withoutFence(device, top, isStrict);
  const { modifiedNs } = fingerprint;
  return {
    fences: [fenceToRaise(path, modifiedNs)],
    // Where it is changed as well, its redo log has to have the sectors that the fence is in.
    redo: top.file.onDisk ? [{ link: top, modifiedNs, write: () => Promise.resolve() }] : [],
    files: [{ path, change: "fence" }],
    notes: [
      ...(fence.isNamed ? [] : [{ code: "fence without a name", image: path } as const]),
      ...(top.dataFile ? [{ code: "data file without fence", image: top.dataFile.path } as const] : []),
    ],
  };
}

function withoutFence(device: string, { path, format }: ChainLink, isStrict: boolean): Fencing {
  if (isStrict) {
    throw new ImgtxError(
      "E_REFUSED",
      `${sayFenceless(format)} has no place for a fence, and --strict asks for one`,
      {
        device,
        image: path,
        hint:
          format === "raw"
            ? `freeze it without --strict, or put an overlay over it with \`imgtx snapshot ${device} FILE\` first`
            : `freeze it without --strict, or \`imgtx amend ${device} -o compat=1.1\` first`,
      },
    );
  }
  return { fences: [], redo: [], files: [], notes: [{ code: "no place for a fence", image: path, format }] };
}

/** Lifts fences that the table knows of, of images in the chain. */
export async function liftFences(
  entry: DeviceEntry,
  fences: readonly FenceEntry[],
  chain: Chain,
  how: { readonly isForced: boolean },
): Promise<Fencing> {
  const redo: ImageChange[] = [];
  const files: PlannedFile[] = [];
  const notes: Note[] = [];
  for (const fence of fences) {
    if (!isRaised(fence)) {
      files.push({ path: fence.image, change: "unfence" });
      continue;
    }
    const link = chain.links.find(({ path }) => path === fence.image);
    if (!link?.header?.isFenced) {
      notes.push({ code: "fence gone", image: fence.image });
      continue;
    }
    const known = await isAsRecorded(link, fence);
    if (!known && !how.isForced) throw fenceChanged(entry.name, link);
    // The time goes back only where nothing else has moved it.
    const was = entry.chain.find(({ image }) => image === fence.image)?.fingerprint;
    const isUntouched = was !== undefined && describeChanges(was, link.fingerprint).length === 0;
    redo.push(known ? recordedLift(link, fence, isUntouched) : await forcedLift(link));
    files.push({ path: fence.image, change: "unfence" });
  }
  return { fences: [], redo, files, notes };
}

/** Lifts fences in the chain that the table does not know of, by what they say of themselves. */
export async function liftForgottenFences(
  entry: DeviceEntry,
  chain: Chain,
  table: DeviceTable,
): Promise<Fencing> {
  const own = new Set(entry.frozen?.fences.map(({ image }) => image));
  const redo: ImageChange[] = [];
  for (const link of chain.links) {
    if (!link.header?.isFenced || own.has(link.path)) continue;
    const holder = holderOf(table, link.path);
    if (holder !== undefined) {
      throw new ImgtxError("E_IN_USE", `its fence belongs to '${holder}', which is frozen`, {
        device: entry.name,
        image: link.path,
        hint: `\`imgtx unfreeze ${holder}\``,
      });
    }
    redo.push(await forcedLift(link));
  }
  const notes = redo.map(({ link: { path: image, header } }): Note => {
    const of = { image, device: entry.name };
    if (header?.changer !== undefined) return { code: "marked corrupt", ...of, changer: header.changer };
    if (header?.merger !== undefined) return { code: "copied in part", image, changer: header.merger.id };
    return { code: "fence of others", ...of };
  });
  return { fences: [], redo, files: redo.map(({ link }) => ({ path: link.path, change: "unfence" })), notes };
}

interface MovedFreeze extends Omit<Fencing, "fences"> {
  readonly frozen: FrozenEntry | null;
}

/**
 * A frozen device stays so on another chain: the fences that this has stay, else its active layer gets one. Nothing
 * where it is not frozen.
 */
export async function moveFreeze(
  entry: DeviceEntry,
  chains: { readonly present: Chain | undefined; readonly chosen: Chain },
  context: PlanContext,
): Promise<MovedFreeze> {
  const { frozen } = entry;
  if (!frozen) return { frozen: null, redo: [], files: [], notes: [] };
  const all = frozen.fences;
  const stay = all.filter(({ image }) => chains.chosen.links.some(({ path }) => path === image));
  const leave = all.filter((fence) => !stay.includes(fence));
  const nothing: Fencing = { fences: stay, redo: [], files: [], notes: [] };
  // Where it can't be opened, its fence stays on it.
  const lifted = chains.present
    ? await liftFences(entry, leave, chains.present, { isForced: false })
    : nothing;
  const set = stay.length > 0 ? nothing : await fenceActiveLayer(entry.name, chains.chosen, context, false);
  return {
    frozen: { ...frozen, fences: set.fences },
    redo: [...set.redo, ...lifted.redo],
    files: [...set.files, ...lifted.files],
    notes: [{ code: "stays frozen", device: entry.name }, ...set.notes, ...lifted.notes],
  };
}

/** The images that are not what the table has of them. */
export function findWrites(entries: readonly ChainEntry[], chain: Chain): Note[] {
  const now = new Map<string, Fingerprint>();
  for (const { path, fingerprint, dataFile } of chain.links) {
    now.set(path, fingerprint);
    if (dataFile) now.set(dataFile.path, dataFile.fingerprint);
  }
  return entries
    .flatMap(filesOfEntry)
    .map(({ image, fingerprint }) => ({ image, before: fingerprint, now: now.get(image) ?? null }))
    .filter((one) => one.now === null || describeChanges(one.before, one.now).length > 0)
    .map((changed) => ({ code: "changed while frozen", ...changed }));
}

/** What is to be said of a device that is added, or gets an overlay: fences in its chain, which are not its own. */
export function findFences(device: string, chain: Chain, table: DeviceTable): Note[] {
  return chain.links.flatMap(({ path, header }, above): Note[] => {
    const holder = holderOf(table, path);
    const { merger } = header ?? {};
    if (header?.changer !== undefined)
      return [{ code: "half changed", image: path, device, changer: header.changer }];
    if (!header?.isFenced && holder === undefined) return [];
    const isPart = merger !== undefined && above < merger.layers;
    return [
      ...(isPart ? [{ code: "copied in part", image: path, changer: merger.id } as const] : []),
      { code: "fenced", image: path, device, holder: holder ?? null },
    ];
  });
}

/** The device that a fence of this image was set for. */
function holderOf(table: DeviceTable, image: string): string | undefined {
  for (const { name, frozen } of table.devices)
    if (frozen?.fences.some((fence) => fence.image === image)) return name;
  return undefined;
}

/** Also that the record is one of a fence: of what is none neither side is written, whoever stored it. */
async function isAsRecorded({ file }: ChainLink, fence: FenceEntry): Promise<boolean> {
  const { offset, after } = fence;
  if (!isStoredFence(fence)) return false;
  const wanted = Buffer.from(after, "base64");
  const found = Buffer.alloc(wanted.length);
  return (await file.read(found, offset)) === wanted.length && found.equals(wanted);
}

function recordedLift(link: ChainLink, fence: FenceEntry, isUntouched: boolean): ImageChange {
  const { offset, before } = fenceBytesOf(fence);
  const modifiedNs = isUntouched ? fence.modifiedNs : null;
  return { link, modifiedNs, write: async (file) => await file.write(before, offset) };
}

async function forcedLift(link: ChainLink): Promise<ImageChange> {
  const { offset, after } = await planImageLift(link);
  return { link, write: async (file) => await file.write(after, offset) };
}

function fenceChanged(device: string, { path }: ChainLink): ImgtxError {
  return new ImgtxError("E_CHANGED", "its header is not the one that imgtx fenced: somebody has changed it", {
    device,
    image: path,
    hint: `look what did; \`imgtx unfreeze --force ${device}\` lifts the fence without the rest of the old header`,
  });
}

export function isFenced(device: string, image: string): ImgtxError {
  return new ImgtxError("E_REFUSED", "it is fenced, and nothing may be written to it", {
    device,
    image,
    hint: `\`imgtx unfreeze DEV\` for the device that was frozen ends that; \`imgtx unfreeze --force ${device}\` lifts a forgotten fence`,
  });
}
