// What a run may do next: command lines, and what they lead to by the model. A further action joins by a function here.

import { CWD } from "../crash/command-line.ts";
import type { Bytes, Effect, Model } from "./model.ts";
import type { Stage } from "./stage.ts";

interface Move {
  /** Devices by the names that they had first. */
  readonly argv: readonly string[];
  /** One more word, as it is. */
  readonly last?: string;
  readonly effect: Effect;
  /** When it has to end with 0: always, or where nothing was cut off before. */
  readonly must: "always" | "where all is calm" | "no";
}

/** Choices by one number: the first of each for 0, so that a shrunk one is plain. */
export class Choices {
  #left: number;

  constructor(number: number) {
    this.#left = number;
  }

  below(bound: number): number {
    const found = this.#left % bound;
    this.#left = Math.floor(this.#left / bound);
    return found;
  }

  of<T>(all: readonly T[]): T | undefined {
    return all.length === 0 ? undefined : all[this.below(all.length)];
  }

  /** At least one, where there is one, in their order. */
  some<T>(all: readonly T[]): T[] {
    const chosen = all.filter(() => this.below(2) === 0);
    return chosen.length > 0 ? chosen : all.slice(0, 1);
  }
}

type Propose = (choices: Choices, model: Model, stage: Stage) => Promise<Move | undefined>;

/** No chain is made longer: what a step costs stays bounded. */
const LONGEST_CHAIN = 9;

const namesOf = ({ seen }: Model): string[] => [...seen.devices.keys()];
const deviceOf = ({ seen }: Model, name: string) => seen.devices.get(name)!.answer;
const shortOf = (model: Model): string[] =>
  namesOf(model).filter((name) => deviceOf(model, name).chain.length < LONGEST_CHAIN);

const snapshot: Propose = async (choices, model, stage) => {
  const short = shortOf(model);
  const taken = choices.some(short);
  const [first] = taken;
  if (first === undefined) return undefined;
  const name = choices.below(3) === 0 ? ["--name", `n${stage.nextNumber()}`] : [];
  const isAll = short.length === namesOf(model).length && choices.below(3) === 0;
  if (isAll) return { argv: ["snapshot-group", "--all", ...name], effect: { taken: short }, must: "always" };
  const argv = taken.length === 1 ? ["snapshot", first] : ["snapshot-group", ...taken];
  return { argv: [...argv, ...name], effect: { taken }, must: "always" };
};

const rollback: Propose = async (choices, model) => {
  const found = choices.of([...model.seen.snapshots.values()]);
  if (!found) return undefined;
  const { number, devices } = found.answer;
  const all = devices.map(({ device }) => device);
  const chosen = choices.below(2) === 0 ? all : choices.some(all);
  const discard = choices.below(4) === 0;
  const contents = new Map(
    chosen.map((name) => [name, model.kept.get(number)?.get(name) ?? new Uint8Array()] as const),
  );
  return {
    argv: [
      "rollback",
      ...(chosen.length === all.length ? [] : chosen),
      "--to",
      String(number),
      ...(discard ? ["--discard", "--yes"] : []),
    ],
    effect: { contents, ...(discard ? {} : { taken: chosen }) },
    must: discard ? "no" : "always",
  };
};

async function wayBack(
  isForward: boolean,
  choices: Choices,
  model: Model,
  stage: Stage,
): Promise<Move | undefined> {
  const { position, undone, seen } = model;
  const generation = isForward ? undone.at(-1) : position - 1;
  const target = generation === undefined ? undefined : model.closed.get(generation);
  // Before its first generation lies what made the workspace.
  if (generation === undefined || !target) return undefined;
  const force = choices.below(4) === 0;
  const moved = [...target.images].filter(([name, { image }]) => image !== deviceOf(model, name).image);
  const isWhole = moved.every(([name, { image, format }]) => {
    const bytes = model.left.get(image);
    return bytes && !model.written.has(name) && stage.holds(image, format, bytes);
  });
  return {
    argv: [isForward ? "redo" : "undo", ...(force ? ["--force"] : [])],
    effect: {
      goesTo: {
        generation,
        undone: isForward ? undone.slice(0, -1) : [...undone, seen.generation],
        force,
      },
    },
    must: moved.length > 0 && isWhole ? "where all is calm" : "no",
  };
}

const undo: Propose = async (...all) => await wayBack(false, ...all);
const redo: Propose = async (...all) => await wayBack(true, ...all);

const snapshotDelete: Propose = async (choices, model) => {
  const all = [...model.seen.snapshots.keys()];
  const [first, ...more] =
    choices.below(2) === 0 ? choices.some(all) : all.slice(choices.below(all.length || 1));
  if (first === undefined) return undefined;
  const numbers = choices.below(2) === 0 ? [first] : [first, ...more];
  const kept = new Set(
    numbers.flatMap((one) => model.seen.snapshots.get(one)?.answer.devices.map(({ device }) => device) ?? []),
  );
  const isOfAll = choices.below(3) > 0;
  const devices = isOfAll ? [...kept] : choices.some([...kept]);
  const named = isOfAll ? [] : devices.flatMap((device) => ["--device", device]);
  return {
    argv: ["snapshot-delete", ...numbers.map(String), ...named, "--yes"],
    effect: { deletes: { numbers, devices } },
    must: "where all is calm",
  };
};

/** What a policy lets go of, asked for each device by itself: a snapshot goes where none of them keeps it. */
const prune: Propose = async (choices, model) => {
  const named = choices.below(2) === 0 ? [] : choices.some(namesOf(model));
  const judged = named.length === 0 ? namesOf(model) : named;
  const last = 1 + choices.below(3);
  const all = [...model.seen.snapshots].map(([number, { answer }]) => ({
    number,
    devices: answer.devices.map(({ device }) => device).filter((device) => judged.includes(device)),
  }));
  const stays = new Set(
    judged.flatMap((device) => {
      const own = all.filter(({ devices }) => devices.includes(device)).map(({ number }) => number);
      return own.sort((a, b) => b - a).slice(0, last);
    }),
  );
  const numbers = all.flatMap(({ number, devices }) =>
    devices.length > 0 && !stays.has(number) ? [number] : [],
  );
  if (numbers.length === 0) return undefined;
  return {
    argv: ["prune", ...named, "--keep-last", String(last), "--yes"],
    effect: { deletes: { numbers, devices: judged } },
    must: "where all is calm",
  };
};

const merge: Propose = async (choices, model) => {
  const long = namesOf(model).filter((name) => deviceOf(model, name).chain.length > 1);
  const several = choices.some(long);
  const [name] = several;
  if (name === undefined) return undefined;
  const keep = choices.below(4) === 0 ? ["--keep"] : [];
  if (choices.below(2) === 0) {
    return { argv: ["merge", ...several, ...keep], effect: { givesUp: several }, must: "no" };
  }
  const { chain } = deviceOf(model, name);
  const from = choices.below(chain.length - 1);
  const into = from + 1 + choices.below(chain.length - 1 - from);
  const way = ["--from", chain[from]?.image ?? "", "--into", chain[into]?.image ?? ""];
  return { argv: ["merge", name, ...way, ...keep], effect: { givesUp: [name] }, must: "no" };
};

const pull: Propose = async (choices, model) => {
  const name = choices.of(namesOf(model).filter((one) => deviceOf(model, one).chain.length > 1));
  if (name === undefined) return undefined;
  const below = choices.of(deviceOf(model, name).chain.slice(1));
  const base = choices.below(2) === 0 ? [] : ["--base", below?.image ?? ""];
  return { argv: ["pull", name, ...base], effect: { givesUp: [name] }, must: "no" };
};

const mirror: Propose = async (choices, model, stage) => {
  const name = choices.of(namesOf(model)) ?? "";
  const { mirror: one } = deviceOf(model, name);
  if (one) {
    const isLeft = choices.below(4) === 0;
    if (isLeft) return { argv: ["mirror", "--cancel", name], effect: {}, must: "no" };
    return { argv: ["mirror", name], effect: { mirrored: name }, must: "no" };
  }
  const format = choices.of(["qcow2", "raw"]) ?? "raw";
  const sync = format === "qcow2" ? (choices.of([[], [], ["--sync", "top"]]) ?? []) : [];
  const file = `${CWD}/m${stage.nextNumber()}.${format}`;
  return {
    argv: ["mirror", name, file, "--format", format, ...sync],
    effect: { mirrored: name },
    must: "no",
  };
};

/** To the mirror, which is brought in sync, or to an image that nobody has. */
const reopen: Propose = async (choices, model, stage) => {
  const mirrored = namesOf(model).filter((name) => deviceOf(model, name).mirror !== null);
  const own = choices.below(3) === 0 ? undefined : choices.of(mirrored);
  if (own !== undefined) {
    const { image } = deviceOf(model, own).mirror ?? {};
    return { argv: ["reopen", own, image ?? ""], effect: {}, must: "no" };
  }
  const name = choices.of(namesOf(model)) ?? "";
  const format = choices.of(["qcow2", "raw"]) ?? "raw";
  const number = stage.nextNumber();
  const file = `${CWD}/other${number}.${format}`;
  await stage.makeImage(file, format, number);
  const contents = new Map<string, Bytes>([[name, stage.readBytes(file, format)]]);
  return { argv: ["reopen", name, file, "--format", format], effect: { contents }, must: "always" };
};

/** To another folder, with all that snapshots keep: what is shown, and kept, stays. */
const relocate: Propose = async (choices, model) => {
  const names = choices.some(namesOf(model));
  if (names.length === 0) return undefined;
  const folder = choices.of(["../new", ".", "../images"]) ?? ".";
  const keep = choices.below(4) === 0 ? ["--keep"] : [];
  return { argv: ["relocate", ...names, folder, ...keep], effect: {}, must: "no" };
};

/** To a name that no device has: also to one that another device had. */
const rename: Propose = async (choices, { names }) => {
  const device = choices.of([...names.keys()]) ?? "";
  const taken = new Set(names.values());
  const name = choices.of([...names.keys(), "sys", "data"].filter((one) => !taken.has(one))) ?? "";
  const effect = { renamed: new Map([[device, name]]) };
  return { argv: ["device", "rename", device], last: name, effect, must: "always" };
};

/** What a run is made of. */
export const MOVES = {
  snapshot,
  rollback,
  undo,
  redo,
  snapshotDelete,
  prune,
  merge,
  pull,
  mirror,
  reopen,
  relocate,
  rename,
} as const;
export type Kind = keyof typeof MOVES;
