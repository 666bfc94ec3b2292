// The model: what each device's guest has to find, and what each snapshot keeps, whatever commands ran and wherever they
// were cut off. Which image a device is on is observed; what it then holds is the model's to say.

import { digestOf, type Ended, type Seen, type Stage } from "./stage.ts";

export type Bytes = Uint8Array;

/** A generation as it was closed, as far as undo and redo ask. */
interface Closed {
  readonly images: ReadonlyMap<string, { readonly image: string; readonly format: string }>;
  /** From which an undo goes further back. */
  readonly position: number;
  readonly names: Names;
}

/** What each device is called, by the name that it had first: all else here goes by that. */
type Names = ReadonlyMap<string, string>;

export interface Model {
  names: Names;
  seen: Seen;
  /** What each device's guest finds. */
  contents: ReadonlyMap<string, Bytes>;
  /** What each snapshot keeps of each device, also of those that were taken back. */
  readonly kept: Map<number, ReadonlyMap<string, Bytes>>;
  /** What each image held, through its chain, when a device left it last. */
  readonly left: Map<string, Bytes>;
  readonly closed: Map<number, Closed>;
  position: number;
  undone: readonly number[];
  /** Devices whose guest has written since they came to their image. */
  readonly written: Set<string>;
  /** Whether nothing was cut off yet: what may be refused in doubt may not be refused then. */
  isCalm: boolean;
}

interface GoesTo {
  readonly generation: number;
  readonly undone: readonly number[];
  /** Whether what guests wrote since may be left behind. */
  readonly force: boolean;
}

/** What a command that is done leads to. */
export interface Effect {
  /** Of devices that hold something else then. */
  readonly contents?: ReadonlyMap<string, Bytes>;
  /** The devices that a new snapshot keeps, as they are before. */
  readonly taken?: readonly string[];
  /** Devices whose snapshots it may give up. */
  readonly givesUp?: readonly string[];
  /** Which snapshots it takes away, and of which devices. */
  readonly deletes?: { readonly numbers: readonly number[]; readonly devices: readonly string[] };
  /** The closed generation that an undo or a redo goes to. */
  readonly goesTo?: GoesTo;
  /** Devices with other names then. */
  readonly renamed?: Names;
  /** A device whose mirror is in sync then. */
  readonly mirrored?: string;
}

export async function beginModel(stage: Stage): Promise<Model> {
  const seen = await stage.see();
  const contents = new Map(
    [...seen.devices].map(([name, { answer }]) => [name, stage.readBytes(answer.image, answer.format)]),
  );
  return {
    seen,
    names: new Map([...seen.devices.keys()].map((name) => [name, name])),
    contents,
    kept: new Map(),
    left: new Map(),
    closed: new Map(),
    position: seen.generation,
    undone: [],
    written: new Set(),
    isCalm: true,
  };
}

/** What has to be, and is not, after a command with this effect has ended so, or after what is none. The model follows. */
export async function follow(
  model: Model,
  stage: Stage,
  ended: Ended | undefined,
  effect: Effect,
): Promise<string[]> {
  const found = await stage.see();
  const hasMoved = found.generation > model.seen.generation;
  const done = hasMoved ? effect : {};
  const names = namesAfter(model, done);
  const seen = byFirstNames(found, names);
  const contents = contentsAfter(model, seen, done);
  const problems = [
    ...(ended ? judgeEnd(ended, hasMoved) : []),
    ...seen.problems,
    ...judgeDevices(model, seen, contents),
    ...(done.goesTo ? judgeWayBack(model, seen, done.goesTo) : []),
    ...judgeNumbers(model, seen, done),
    ...judgeKept(model, seen, done),
    ...(done.mirrored !== undefined && ended?.exit === 0 ? judgeMirror(seen, stage, done.mirrored) : []),
  ];
  if (hasMoved) moveOn(model, seen, done);
  model.names = names;
  model.contents = contents;
  model.seen = seen;
  return problems;
}

function namesAfter({ names, closed }: Model, { renamed, goesTo }: Effect): Names {
  const then = goesTo && closed.get(goesTo.generation)?.names;
  return new Map([...(then ?? names), ...(renamed ?? [])]);
}

/** A device that nobody has called so keeps its name, and is one too many. */
function byFirstNames(seen: Seen, names: Names): Seen {
  const firsts = new Map([...names].map(([first, name]) => [name, first]));
  const first = (name: string): string => firsts.get(name) ?? `${name}, which is none of them`;
  const rekey = <T>(map: ReadonlyMap<string, T>): ReadonlyMap<string, T> =>
    new Map([...map].map(([name, value]) => [first(name), value]));
  const snapshots = [...seen.snapshots].map(([number, { answer, digests, chains }]) => {
    const devices = answer.devices.map((one) => ({ ...one, device: first(one.device) }));
    return [
      number,
      { answer: { ...answer, devices }, digests: rekey(digests), chains: rekey(chains) },
    ] as const;
  });
  return { ...seen, devices: rekey(seen.devices), snapshots: new Map(snapshots) };
}

const NO_CHANGE = /^Nothing to change\.$/m;

function judgeEnd({ exit, text }: Ended, hasMoved: boolean): string[] {
  if (exit === 0 && !hasMoved && !NO_CHANGE.test(text))
    return ["it ended with 0, and no generation was made"];
  if (exit === 1) return [`it ended with 1: ${text}`];
  const isRefused = exit !== "killed" && exit !== 0 && exit !== 16;
  return isRefused && hasMoved ? [`it ended with ${exit}, and a generation was made`] : [];
}

/** A device that went back to an image has what that held. */
function contentsAfter(model: Model, seen: Seen, { contents, goesTo }: Effect): Map<string, Bytes> {
  const found = new Map<string, Bytes>();
  for (const [name, own] of model.contents) {
    const image = seen.devices.get(name)?.answer.image ?? "";
    const isBack = goesTo !== undefined && image !== model.seen.devices.get(name)?.answer.image;
    found.set(name, (isBack ? model.left.get(image) : contents?.get(name)) ?? own);
  }
  return found;
}

function judgeDevices(model: Model, seen: Seen, contents: ReadonlyMap<string, Bytes>): string[] {
  return [...contents].flatMap(([name, wanted]) => {
    const now = seen.devices.get(name);
    if (!now) return [`${name} is gone`];
    if (digestOf(wanted) === now.digest) return [];
    return [`${name} on ${now.answer.image} holds ${describe(model, now.digest)}`];
  });
}

/** The images of the generation that was gone to, and nothing that a guest would miss. */
function judgeWayBack(model: Model, seen: Seen, { generation, force }: GoesTo): string[] {
  const target = model.closed.get(generation);
  return [...seen.devices].flatMap(([name, { answer }]) => {
    const { image } = answer;
    const wanted = target?.images.get(name)?.image;
    const hasLeft = image !== model.seen.devices.get(name)?.answer.image;
    return [
      ...(wanted === image ? [] : [`${name} is on ${image}, not on ${wanted}`]),
      ...(hasLeft && model.written.has(name) && !force ? [`what the guest of ${name} wrote is left`] : []),
    ];
  });
}

/** Which snapshots there are. */
function judgeNumbers(model: Model, seen: Seen, effect: Effect): string[] {
  const { taken, goesTo } = effect;
  const problems: string[] = [];
  const added = [...seen.snapshots.keys()].filter((number) => !model.seen.snapshots.has(number));
  if (taken) {
    if (added.length !== 1) problems.push(`snapshots were taken: ${added.join(", ")}`);
    const keeps = taken.map((name) => [name, model.contents.get(name) ?? new Uint8Array()] as const);
    for (const number of added) model.kept.set(number, new Map(keeps));
  } else if (!goesTo) {
    problems.push(...added.map((number) => `snapshot ${number} came out of nothing`));
  }
  const active = new Set([...seen.devices.values()].map(({ answer }) => answer.image));
  for (const [number, { answer }] of model.seen.snapshots) {
    if (seen.snapshots.has(number)) continue;
    const isWrittenTo = answer.devices.some(({ image }) => active.has(image));
    const isGivenUp = answer.devices.every(({ device }) => mayLose(effect, number, device));
    if (!(goesTo ? isWrittenTo : isGivenUp)) problems.push(`snapshot ${number} is gone`);
  }
  return problems;
}

function mayLose(effect: Effect, number: number, device: string): boolean {
  return effect.givesUp?.includes(device) === true || isDeleted(effect, number, device);
}

function isDeleted({ deletes }: Effect, number: number, device: string): boolean {
  return deletes !== undefined && deletes.numbers.includes(number) && deletes.devices.includes(device);
}

/** What each of them keeps. */
function judgeKept(model: Model, seen: Seen, effect: Effect): string[] {
  const problems: string[] = [];
  for (const [number, { digests, answer }] of seen.snapshots) {
    const kept = new Map(model.kept.get(number));
    for (const { device, image } of answer.devices) {
      // One that comes back, of what a device was on right before, keeps what its guest has written since.
      const isBack = effect.goesTo !== undefined && !model.seen.snapshots.has(number);
      if (isBack && model.seen.devices.get(device)?.answer.image === image)
        kept.set(device, model.contents.get(device) ?? new Uint8Array());
    }
    for (const device of digests.keys()) {
      if (!kept.has(device)) problems.push(`snapshot ${number} keeps ${device}, which nobody asked for`);
    }
    for (const [device, bytes] of kept) {
      const digest = digests.get(device);
      if (isDeleted(effect, number, device) && digest !== undefined) {
        problems.push(`snapshot ${number} keeps ${device} still`);
      } else if (digest === undefined && mayLose(effect, number, device)) kept.delete(device);
      else if (digest === undefined) problems.push(`snapshot ${number} has lost ${device}`);
      else if (digest !== digestOf(bytes)) {
        problems.push(`snapshot ${number} holds of ${device} ${describe(model, digest)}`);
      }
    }
    model.kept.set(number, kept);
  }
  return problems;
}

function judgeMirror(seen: Seen, stage: Stage, device: string): string[] {
  const { answer, digest } = seen.devices.get(device) ?? {};
  if (!answer?.mirror) return [`${device} has no mirror`];
  const { image, format, sync } = answer.mirror;
  const isSame = sync === "none" || stage.digestOf(image, format) === digest;
  return isSame ? [] : [`${image} is not in sync with ${device}`];
}

/** What a digest is of, where the model has met it. */
function describe({ contents, kept, left }: Model, digest: string): string {
  const known = [
    ...[...contents].map(([name, bytes]) => [`${name} before`, bytes] as const),
    ...[...kept].flatMap(([number, devices]) =>
      [...devices].map(([name, bytes]) => [`${name} in snapshot ${number}`, bytes] as const),
    ),
    ...[...left].map(([image, bytes]) => [`${image} when it was left`, bytes] as const),
  ];
  const [what] = known.find(([, bytes]) => digestOf(bytes) === digest) ?? [];
  return what === undefined ? "what nobody knows" : `what ${what} had`;
}

function moveOn(model: Model, seen: Seen, { goesTo }: Effect): void {
  const { seen: before, position, names } = model;
  const images = new Map([...before.devices].map(([name, { answer }]) => [name, answer]));
  model.closed.set(before.generation, { images, position, names });
  model.position = goesTo
    ? (model.closed.get(goesTo.generation)?.position ?? goesTo.generation)
    : seen.generation;
  model.undone = goesTo?.undone ?? [];
  for (const [name, { image }] of images) {
    if (seen.devices.get(name)?.answer.image === image) continue;
    model.left.set(image, model.contents.get(name) ?? new Uint8Array());
    model.written.delete(name);
  }
}
