// One run: a sequence of commands, guests' writes, crashes and looks, drawn and shrunk by fast-check, each step held against
// the model.

import * as fc from "fast-check";
import { readByQemu, type Wanted } from "./by-qemu.ts";
import { beginModel, follow, type Model } from "./model.ts";
import { Choices, type Kind, MOVES } from "./moves.ts";
import { type Cut, digestOf, type Ended, setStage, type Stage } from "./stage.ts";

const MOST_STEPS = 40;
/** A fault is told with a shorter way to it, if that is found in so many runs. */
const MOST_SHRINKS = 200;
const SECTOR_BYTES = 512;

const WEIGHTS: readonly (readonly [number, Kind])[] = [
  [22, "snapshot"],
  [14, "rollback"],
  [14, "undo"],
  [14, "redo"],
  [10, "snapshotDelete"],
  [8, "prune"],
  [8, "merge"],
  [3, "pull"],
  [6, "mirror"],
  [8, "reopen"],
  [6, "relocate"],
  [5, "rename"],
];

const aCut: fc.Arbitrary<Cut | undefined> = fc.oneof(
  { weight: 3, arbitrary: fc.constant(undefined) },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constantFrom("death", "death", "death", "power", "io", "no-space"),
      share: fc.nat(999),
      choice: fc.nat(999),
      again: fc.oneof(fc.constant(undefined), fc.nat(30)),
      next: fc.nat(3),
    }),
  },
);

type Step = fc.AsyncCommand<Model, Scene>;

interface Scene {
  readonly stage: Stage;
  readonly count: (what: string) => void;
}

class CommandStep implements Step {
  readonly kind: Kind;
  readonly number: number;
  readonly cut: Cut | undefined;

  constructor(kind: Kind, number: number, cut: Cut | undefined) {
    this.kind = kind;
    this.number = number;
    this.cut = cut;
  }

  check(): boolean {
    return true;
  }

  async run(model: Model, { stage, count }: Scene): Promise<void> {
    const move = await MOVES[this.kind](new Choices(this.number), model, stage);
    if (!move) return;
    const { effect, must, last } = move;
    const words = move.argv.map((word) => model.names.get(word) ?? word);
    const argv = last === undefined ? words : [...words, last];
    const ended = this.cut ? await stage.runCutOff(argv, this.cut) : await stage.run(argv);
    if (!this.cut && ended.exit === 16) await stage.recover();
    if (this.cut) model.isCalm = false;
    count(`${this.kind} ${ended.exit === 0 ? "done" : ended.exit === "killed" ? "killed" : "refused"}`);
    const problems = await follow(model, stage, ended, effect);
    const isHeld = must === "always" || (must !== "no" && model.isCalm);
    if (isHeld && !this.cut && ended.exit !== 0) problems.push(`it has to be possible: ${sayEnd(ended)}`);
    assertNone(problems, stage);
  }

  toString(): string {
    return this.kind;
  }
}

class GuestStep implements Step {
  readonly number: number;

  constructor(number: number) {
    this.number = number;
  }

  check(): boolean {
    return true;
  }

  async run(model: Model, { stage, count }: Scene): Promise<void> {
    const choices = new Choices(this.number);
    const name = choices.of([...model.contents.keys()]) ?? "";
    const before = model.contents.get(name) ?? new Uint8Array();
    const sectors = 1 + choices.below(20);
    const offset = choices.below(before.length / SECTOR_BYTES - sectors) * SECTOR_BYTES;
    const bytes = new Uint8Array(sectors * SECTOR_BYTES).fill(1 + choices.below(255));
    if (!(await stage.write(model.names.get(name) ?? name, { bytes, offset }))) return;
    const after = before.slice();
    after.set(bytes, offset);
    model.contents = new Map(model.contents).set(name, after);
    model.written.add(name);
    count("guest writes");
    assertNone(await follow(model, stage, undefined, {}), stage);
  }

  toString(): string {
    return "write";
  }
}

class RestartStep implements Step {
  check(): boolean {
    return true;
  }

  async run(model: Model, { stage }: Scene): Promise<void> {
    stage.restart();
    model.isCalm = false;
    assertNone(await follow(model, stage, undefined, {}), stage);
  }

  toString(): string {
    return "restart";
  }
}

class QemuStep implements Step {
  check(): boolean {
    return true;
  }

  async run({ contents, seen, kept }: Model, { stage, count }: Scene): Promise<void> {
    const devices = [...seen.devices].map(([name, { answer }]): Wanted => {
      const digest = digestOf(contents.get(name) ?? new Uint8Array());
      return { what: name, image: answer.image, format: answer.format, digest };
    });
    const snapshots = [...seen.snapshots].flatMap(([number, { answer }]) =>
      answer.devices.map(({ device, image, format }): Wanted => {
        const digest = digestOf(kept.get(number)?.get(device) ?? new Uint8Array());
        return { what: `${device} in snapshot ${number}`, image, format, digest };
      }),
    );
    const wanted = [...devices, ...snapshots];
    count("looks by QEMU");
    stage.trail.push(`QEMU reads ${wanted.length} disks`);
    assertNone(readByQemu(stage, wanted), stage);
  }

  toString(): string {
    return "look";
  }
}

const aNumber = fc.nat(2 ** 24);
const aCommand = fc
  .tuple(
    fc.oneof(...WEIGHTS.map(([weight, kind]) => ({ weight, arbitrary: fc.constant(kind) }))),
    aNumber,
    aCut,
  )
  .map(([kind, number, cut]) => new CommandStep(kind, number, cut));
const aStep: fc.Arbitrary<Step> = fc.oneof(
  { weight: 60, arbitrary: aCommand },
  { weight: 30, arbitrary: aNumber.map((number) => new GuestStep(number)) },
  { weight: 2, arbitrary: fc.constantFrom(new RestartStep(), new QemuStep()) },
);
const steps = fc.noBias(fc.array(aStep, { minLength: 1, maxLength: MOST_STEPS, size: "max" }));

class Fault extends Error {
  override readonly name = "Fault";
}

function assertNone(problems: readonly string[], { trail }: Stage): void {
  if (problems.length > 0) throw new Fault(`${problems.join("\n")}\n  ${trail.join("\n  ")}`);
}

function sayEnd({ exit, text }: Ended): string {
  return `${exit}: ${text.trim()}`;
}

/** What went wrong in the run of a seed, with the shortest way there that was found; undefined where nothing did. */
export async function runModel(seed: number, figures: Record<string, number>): Promise<string | undefined> {
  const count = (what: string) => void (figures[what] = (figures[what] ?? 0) + 1);
  let shrinks = 0;
  const property = fc.asyncProperty(steps, async (chosen) => {
    if ((shrinks += 1) > MOST_SHRINKS) return;
    await fc.asyncModelRun(async () => {
      const stage = await setStage();
      return { model: await beginModel(stage), real: { stage, count } };
    }, chosen);
  });
  const { failed, errorInstance } = await fc.check(property, { seed, numRuns: 1 });
  if (!failed) return undefined;
  const isOwn = !(errorInstance instanceof Fault) && errorInstance instanceof Error;
  return `seed ${seed}: ${isOwn ? errorInstance.stack : String(errorInstance)}`;
}
