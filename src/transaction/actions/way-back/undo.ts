// undo and redo: the table takes the last commit back, or does it again, as a new generation. No image is written to.
//
// An earlier generation is what it was only while its images are: each was fingerprinted when its
// generation was superseded, and is compared with that. What was written since stays in its own images: where a guest
// would miss it, an undo says so, and is refused.

import { posix } from "node:path";
import {
  type DeviceEntry,
  type DeviceTable,
  filesOfEntry,
  findDevice,
  isSameImage,
  movesNothing,
  renamesTowards,
  type SeenFile,
  trustedBy,
  withTrusted,
} from "../../../device/index.ts";
import { ImgtxError, unlessItFails } from "../../../errors/index.ts";
import { describeChanges, shellQuote } from "../../../format/index.ts";
import { type Action, MAKES_NO_FILES, type Plan, type PlanContext } from "../plan/action.ts";
import { deviceEntryOf, notesOnMirrorLeft } from "../plan/chain-entry.ts";
import { assertNotFrozen } from "../plan/fencing.ts";
import type { PlannedReport } from "../../journal/index.ts";
import type { Kept } from "../../notes/note-words.ts";
import { type Note, sayNote } from "../../notes/notes.ts";
import type { UndoRequest } from "../../requests/way-back-requests.ts";
import { assertNoStrangers, findStandingSnapshots, withStandingSeals } from "./standing.ts";
import { byNames, planRenaming, type UndoContext } from "./renaming.ts";
import { findGone, findKept, nothingMoves, sayLast } from "./kept.ts";
import { describeObstacle, findDoubts } from "./looks.ts";

type OpenChains = Plan["chains"][number][];
type OpenChain = OpenChains[number]["chain"];

export const undo: Action<UndoRequest> = {
  saying: { noun: "undo", done: "taken back", planned: "would be taken back" },
  takenBackBy: "redo",
  async plan({ kind, isForward, force }, given) {
    const way = await findWay(isForward, force, given);
    const { wanted, target, lost } = way;
    // By the names that its devices have there.
    const renames = renamesTowards(given.table, target);
    const context = byNames(given, renames);
    const { table } = context;
    const moves = movesBetween(table, target);
    const kept = findKept(table, target);
    const gone = isForward ? [] : findGone(table, target);
    if (movesNothing(given.table, target))
      throw nothingMoves({ ...way, gone }, kept, table, await sayLast(context));
    const obstacles: string[] = [];
    const doubts: Note[] = [];
    const chains: OpenChains = [];
    const changes: Plan["changes"][number][] = [];
    const written: string[] = [];
    const present = new Map<string, OpenChain>();
    for (const { device, before, after } of moves) {
      // Whoever froze it wants it to hold still; and its fence would stay on an image of no device.
      if (before) assertNotFrozen(before, "going back would move it to another image");
      // Where the present chain is broken, going back is the way out: that is no obstacle.
      const left = before && (await openInto(chains, [], before, context));
      if (left) present.set(device, left);
      if (left && after && isWrittenTo(before, left)) written.push(`'${device}' to ${before.image}`);
      const entry =
        after && (await reviveEntry({ before, after, wanted, context, chains, obstacles, doubts }));
      if (entry === undefined) continue;
      changes.push({ device, after: entry });
    }
    if (obstacles.length > 0) {
      const why = [...obstacles, ...gone.map(sayNote)].join("; ");
      throw new ImgtxError("E_CHANGED", `generation ${wanted} can't come back: ${why}`, {
        hint: "`imgtx snapshot-list` has what can be gone back to with `imgtx rollback`; put the images back from a copy, with their times, to reach this one",
      });
    }
    if (written.length > 0 && !force) throw wouldLeave(kind, written);
    const standing = await findStandingSnapshots(way, isForward, { changes, present }, context);
    if (!force) await assertNoStrangers(kind, changes, standing, context);
    if (doubts.length > 0 && !force) throw inDoubt(kind, wanted, doubts);
    const further = [...doubts, ...gone, ...lost];
    const sealed = await withStandingSeals(changes, target, standing, context);
    const renaming = planRenaming(given.table, renames, { kind, changes: sealed });
    return {
      ...MAKES_NO_FILES,
      devices: [...new Set([...moves.map((move) => move.device), ...renaming.devices])],
      ...(renames.length > 0 && { renames }),
      standing,
      reports: [
        ...moves.map((move, index) =>
          reportOf(kind, move, wanted, present, index === 0 ? { kept, doubts: further } : NOTHING),
        ),
        ...renaming.reports,
      ],
      changes: renaming.changes,
      allowPaths: [],
      chains,
    };
  },
};

export const redo: Action<UndoRequest> = {
  ...undo,
  saying: { noun: "redo", done: "done again", planned: "would be done again" },
  takenBackBy: "undo",
};

/** What nobody can tell to be what it was is gone back to by the word of the operator alone. */
function inDoubt(kind: UndoRequest["kind"], wanted: number, doubts: readonly Note[]): ImgtxError {
  return new ImgtxError(
    "E_REFUSED",
    `generation ${wanted} may not be what it was: ${doubts.map(sayNote).join("; ")}`,
    {
      hint: `look at the images; \`imgtx ${kind} --force\` goes to them as they are now`,
    },
  );
}

interface Move {
  readonly device: string;
  readonly before: DeviceEntry | undefined;
  readonly after: DeviceEntry | null;
}

function movesBetween(present: DeviceTable, target: DeviceTable): Move[] {
  const names = [...new Set([...present.devices, ...target.devices].map((device) => device.name))].sort();
  return names.flatMap((device) => {
    const before = findDevice(present, device);
    const after = findDevice(target, device) ?? null;
    return isSameImage(before, after) ? [] : [{ device, before, after }];
  });
}

const NOTHING = { kept: [], doubts: [] } as const;

interface Way {
  /** The closed generation that is gone to. */
  readonly wanted: number;
  readonly target: DeviceTable;
  readonly undone: readonly number[];
  /** Of generations that the history lacks, and that are passed over. */
  readonly lost: readonly Note[];
}

/** E_REFUSED where there is nothing to take back, or to do again. */
async function findWay(isForward: boolean, force: boolean, context: PlanContext): Promise<Way> {
  const { generation, position = generation, undone = [], adopted = 0 } = context.table;
  const next = isForward ? undone.at(-1) : position - 1;
  const last = isForward || next === undefined ? next : await findKnownFrom(next, adopted, context);
  const wanted = force ? (last ?? next) : next;
  if (wanted === undefined) {
    throw new ImgtxError("E_REFUSED", "nothing was taken back that could be done again", {
      hint: "a commit after an undo ends that; `imgtx history` lists the commits",
    });
  }
  if (wanted >= 0 && wanted < adopted) {
    throw new ImgtxError(
      "E_REFUSED",
      `generation ${wanted} is of before the workspace was copied, and its images are the original's`,
      { hint: "`imgtx snapshot-list` has what can be gone back to with `imgtx rollback`" },
    );
  }
  const target = wanted < 0 ? undefined : await context.readGeneration(wanted);
  if (!target) {
    const isPast = last !== undefined && last !== wanted;
    throw new ImgtxError(
      "E_REFUSED",
      wanted < 0 ? "there is no commit that could be taken back" : `the history has no generation ${wanted}`,
      {
        hint: isPast
          ? `put \`.imgtx/history\` back from a copy; \`imgtx undo --force\` passes over it, to generation ${last}`
          : "`imgtx history` lists the commits, `imgtx snapshot-list` what can be gone back to",
      },
    );
  }
  return {
    wanted,
    target,
    lost: Array.from({ length: isForward ? 0 : position - 1 - wanted }, (_, index): Note => {
      return { code: "generation lost", generation: position - 1 - index };
    }),
    undone: isForward ? undone.slice(0, -1) : [...undone, generation].slice(-MOST_UNDONE),
  };
}

/** The newest from there back that the history has, as far as the workspace has not been another's. */
async function findKnownFrom(
  newest: number,
  adopted: number,
  context: PlanContext,
): Promise<number | undefined> {
  for (let generation = newest; generation >= Math.max(adopted, 0); generation -= 1) {
    if (await context.readGeneration(generation)) return generation;
  }
  return undefined;
}

/** Further back nobody remembers what was undone. */
const MOST_UNDONE = 100;

/** Where the image is gone, and the device has one of the same name in another folder: a sentence. */
function sayMoved({ name, image }: DeviceEntry, before: DeviceEntry | undefined): string[] {
  const moved = before?.chain.find(
    (one) => posix.basename(one.image) === posix.basename(image) && one.image !== image,
  );
  if (!moved) return [];
  const back = `imgtx relocate ${name} ${shellQuote(posix.dirname(image))}`;
  return [`its name is that of ${moved.image} now: \`${back}\` moves that there`];
}

/** Whether somebody wrote to what the device is on since that was made. */
function isWrittenTo({ chain: [was] }: DeviceEntry, { links: [now] }: OpenChain): boolean {
  return (
    was !== undefined && now !== undefined && describeChanges(was.fingerprint, now.fingerprint).length > 0
  );
}

function wouldLeave(kind: UndoRequest["kind"], written: readonly string[]): ImgtxError {
  return new ImgtxError(
    "E_REFUSED",
    `a guest has written since: ${written.join("; ")}; that would be left behind`,
    {
      hint:
        "`imgtx rollback` goes back to the newest snapshot and keeps what was written as a snapshot of its own; " +
        `\`imgtx ${kind} --force\` leaves it in its image, which no device uses then`,
    },
  );
}

/** Today's entry for a device as it was, or undefined with an obstacle noted. */
async function reviveEntry(revive: {
  before: DeviceEntry | undefined;
  after: DeviceEntry;
  wanted: number;
  context: UndoContext;
  chains: OpenChains;
  obstacles: string[];
  doubts: Note[];
}): Promise<DeviceEntry | undefined> {
  const { before, after, wanted, context, chains, obstacles, doubts } = revive;
  const chain = await openInto(chains, obstacles, after, context);
  if (!chain) {
    obstacles.push(...sayMoved(after, before));
    return undefined;
  }
  const present = findDevice(context.table, after.name);
  const revived = withTrusted(deviceEntryOf(after.name, chain, after), present ? trustedBy(present) : []);
  const entry = { ...revived, ...(after.made === after.image && { made: after.made }) };
  const closing = await closingEntry(after, wanted, context);
  const latest = await latestLooks(after.name, wanted, context);
  if (closing.chain.length !== entry.chain.length) {
    obstacles.push(
      `${after.image} has ${entry.chain.length} images in its chain, not ${closing.chain.length}`,
    );
  }
  for (const [depth, was] of closing.chain.entries()) {
    const now = entry.chain[depth];
    if (!now) break;
    const files: [SeenFile, SeenFile][] = [[was, now]];
    if (was.dataFile && now.dataFile) files.push([was.dataFile, now.dataFile]);
    // Below an overlay of the device nobody has written to it all the while.
    const isSealed = before?.chain.slice(1).some(({ image }) => image === was.image) === true;
    for (const [file, present] of files) {
      const changes = describeObstacle(file, present);
      obstacles.push(...changes);
      const known = latest.get(file.image) ?? file.fingerprint;
      const isOlder = describeChanges(file.fingerprint, known).length > 0;
      const last = isOlder ? file : { ...file, fingerprint: known };
      if (changes.length === 0) doubts.push(...findDoubts(last, present, isSealed));
    }
  }
  return entry;
}

/** The device's entry in the last generation of the stretch from wanted on in which it had this image. */
async function closingEntry(entry: DeviceEntry, wanted: number, context: UndoContext): Promise<DeviceEntry> {
  let closing = entry;
  for (let generation = wanted + 1; generation < context.table.generation; generation += 1) {
    const table = await readIfSound(generation, context);
    const later = table && findDevice(table, context.nameThen(entry.name, generation));
    if (!later || !isSameImage(later, entry)) break;
    closing = later;
  }
  return closing;
}

/** What later generations knew of the device's images: a commit that left one has moved its change time itself. */
async function latestLooks(
  device: string,
  wanted: number,
  context: UndoContext,
): Promise<ReadonlyMap<string, SeenFile["fingerprint"]>> {
  const looks = new Map<string, SeenFile["fingerprint"]>();
  for (let generation = wanted + 1; generation < context.table.generation; generation += 1) {
    const table = await readIfSound(generation, context);
    const { chain = [] } = (table && findDevice(table, context.nameThen(device, generation))) ?? {};
    for (const { image, fingerprint } of chain.flatMap(filesOfEntry)) looks.set(image, fingerprint);
  }
  return looks;
}

/** What a damaged generation between two knew of an image is not known: the one before it decides. */
async function readIfSound(generation: number, context: PlanContext): Promise<DeviceTable | undefined> {
  return await unlessItFails(() => context.readGeneration(generation), ["E_CORRUPT"]);
}

async function openInto(
  chains: OpenChains,
  obstacles: string[],
  entry: DeviceEntry,
  context: PlanContext,
): Promise<OpenChain | undefined> {
  try {
    const chain = await context.openChain(entry.image, entry.format, entry.name, trustedBy(entry));
    chains.push({ device: entry.name, chain });
    return chain;
  } catch (error) {
    if (!(error instanceof ImgtxError)) throw error;
    const isNamed = error.message.includes(entry.image);
    obstacles.push(isNamed ? error.message : `${entry.image}: ${error.message}`);
    return undefined;
  }
}

function reportOf(
  kind: UndoRequest["kind"],
  { device, before, after }: Move,
  wanted: number,
  present: ReadonlyMap<string, OpenChain>,
  { kept, doubts }: { readonly kept: readonly Kept[]; readonly doubts: readonly Note[] },
): PlannedReport {
  const left = present.get(device);
  // What can't be opened may have been written to.
  const isWritten = before !== undefined && (left === undefined || isWrittenTo(before, left));
  return {
    kind,
    device,
    before: before?.image ?? null,
    after: after?.image ?? null,
    format: after?.format ?? null,
    files: [],
    notes: [
      ...(before
        ? [
            isWritten
              ? ({ code: "written since", image: before.image, device, generation: wanted } as const)
              : ({ code: "image left", image: before.image } as const),
            ...notesOnMirrorLeft(before),
          ]
        : []),
      ...(after?.frozen ? [{ code: "was frozen", device } as const] : []),
      ...(after?.mirror && after.mirror.image !== before?.mirror?.image
        ? [{ code: "was the mirror", image: after.mirror.image } as const]
        : []),
      ...doubts,
      ...kept.map((one) => ({ code: "left by a rollback", ...one }) as const),
    ],
  };
}
