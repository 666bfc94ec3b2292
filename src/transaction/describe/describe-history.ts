// The log of operations as data for results: what made each generation, what that moved, and which the way back reaches.

import {
  type DeviceTable,
  isSameImage,
  listHistory,
  nameAt,
  readCommit,
  readingHistory,
  readTable,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { ACTION_KINDS } from "../requests/action-kinds.ts";
import { traitsOf } from "../actions/index.ts";
import type { Session } from "../requests/request.ts";
import type { GenerationDescription, HistoryDescription } from "./results.ts";

interface Wanted {
  /** Only those that were about this device. Default: all. */
  readonly device?: string | undefined;
  /** The newest. Default: as many as there are. */
  readonly count?: number | undefined;
}

/** The generations that the history keeps and the present one, newest first. One that is damaged hides no other. */
export async function listGenerations(
  { workspace }: Session,
  { device, count = Infinity }: Wanted,
): Promise<HistoryDescription> {
  const present = await readTable(workspace);
  const history = readingHistory(workspace, present);
  const wayBack = new WayBack(present);
  const found: GenerationDescription[] = [];
  for (const generation of [present.generation, ...(await listHistory(workspace, present)).toReversed()]) {
    if (found.length >= count) break;
    const problem = generation === present.generation ? null : await findProblem(history, generation);
    if (problem === undefined) continue;
    const { head, moves } = await readCommit(history, present, generation);
    const { committed = null, transaction = null, summary = "", operation } = head ?? {};
    const described = {
      generation,
      committed,
      transaction,
      name: operation?.name ?? null,
      summary,
      actions: (operation?.actions ?? []).map(({ kind, devices, ...to }) => ({
        kind,
        devices,
        snapshot: to.snapshot ?? null,
        generation: to.generation ?? null,
        givenUp: to.givenUp ?? [],
      })),
      devices: moves ?? [],
      present: generation === present.generation,
      problem,
      ...wayBack.at(generation, problem === null, {
        moves,
        kinds: (operation?.actions ?? []).map(({ kind }) => kind),
      }),
    };
    const about = new Set(
      [...described.devices, ...described.actions.flatMap((one) => one.devices)].map(nameOf),
    );
    const then = device === undefined ? undefined : nameAt(device, generation, present);
    if (device === undefined || (then !== undefined && about.has(then))) found.push(described);
  }
  return { generation: present.generation, generations: found };
}

function nameOf(one: string | { readonly device: string }): string {
  return typeof one === "string" ? one : one.device;
}

/** Why it can't be read; undefined where what stands there is none of imgtx's. */
async function findProblem(
  history: ReturnType<typeof readingHistory>,
  generation: number,
): Promise<string | null | undefined> {
  try {
    return (await history.file(generation)) && null;
  } catch (error) {
    if (error instanceof ImgtxError) return error.message;
    throw error;
  }
}

const FOR_GOOD: ReadonlySet<string> = new Set(
  ACTION_KINDS.filter((kind) => traitsOf(kind).takenBackBy === "nothing"),
);

/** What made a generation. */
interface Commit {
  readonly moves: GenerationDescription["devices"] | undefined;
  readonly kinds: readonly string[];
}

/** Which generations undo and redo go to, told of each from the newest on. */
class WayBack {
  readonly #position: number;
  readonly #undone: ReadonlySet<number>;
  readonly #adopted: number;
  #isOpen = true;
  /** Whether a generation was passed that the history lacks: an undo that is forced goes on. */
  #isForced = false;
  #last: number | undefined;

  constructor({ generation, position = generation, undone = [], adopted = 0 }: DeviceTable) {
    this.#position = position;
    this.#undone = new Set(undone);
    this.#adopted = adopted;
  }

  at(
    generation: number,
    isSound: boolean,
    { moves, kinds }: Commit,
  ): Pick<GenerationDescription, "undo" | "undoForced" | "redo"> {
    // What is of before the workspace was copied is its original's.
    if (generation < this.#adopted) return { undo: false, undoForced: false, redo: false };
    const isGap = generation < this.#position && generation + 1 !== (this.#last ?? generation + 1);
    this.#last = generation;
    if (isGap) this.#isForced = true;
    if (generation <= this.#position && !isSound) this.#isOpen = false;
    const isReached = generation < this.#position && this.#isOpen;
    const [undo, undoForced] = [isReached && !this.#isForced, isReached && this.#isForced];
    // An undo of what moved no image, or took images away, is refused, and so goes no further; forced ones go past a gap.
    // Of a commit right after a gap nobody knows what it moved.
    const isStep =
      (moves?.some(({ before, after }) => !isSameImage(before, after)) ?? true) &&
      !kinds.some((kind) => FOR_GOOD.has(kind));
    if (generation <= this.#position) this.#isOpen &&= isStep;
    return { undo, undoForced, redo: isSound && this.#undone.has(generation) };
  }
}
