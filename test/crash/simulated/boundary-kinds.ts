// Which calls of a step a slice cuts it off at. Steps of different scenarios have most of their calls in common: a journal
// is begun, a table moved, and a view made anew by all of them. A boundary is told by what the step does, on one device or on
// several, what was flushed last before it, and the calls on both sides of it; boundaries that were met often enough
// by then, in this scenario or in an earlier one, are passed over. Some of each step are cut off all the same.

import type { Change } from "./disk-log.ts";
import { spread } from "./crash-states.ts";
import type { RecordedStep, Recording } from "./recording.ts";
import { withoutIds } from "../report.ts";

/** Commands whose second word tells what they do. */
const GROUPS: readonly string[] = ["txn", "device", "img"];
/** Of these, the actions of their transaction tell. */
const ENDS: readonly string[] = ["txn commit", "txn abort", "txn rollback-to"];

/** At which of its calls a step is cut off. */
export interface Boundaries {
  choose(recording: Recording, step: RecordedStep): ReadonlySet<number>;
}

export class BoundaryKinds implements Boundaries {
  readonly #most: number;
  readonly #always: number;
  readonly #met = new Map<string, number>();

  /** Of each kind so many are cut off, and of each step, spread over it, at least so many. */
  constructor({ most, always }: { readonly most: number; readonly always: number }) {
    this.#most = most;
    this.#always = always;
  }

  choose({ plan, log }: Recording, { index, from, to }: RecordedStep): ReadonlySet<number> {
    const chosen = new Set(spread({ from, to }, this.#always));
    const what = describeStep(plan.steps.slice(0, index + 1).map(({ argv }) => argv));
    let phase = "";
    for (let point = from; point <= to; point += 1) {
      const [before, after] = [log[point - 1], log[point]];
      if (point > from && before?.kind === "flush") phase = before.purpose;
      const sides = [point > from && before, point < to && after].map((call) => (call ? kindOf(call) : ""));
      const kind = [what, phase, ...sides].join("\n");
      const count = this.#met.get(kind) ?? 0;
      if (count >= this.#most) continue;
      this.#met.set(kind, count + 1);
      chosen.add(point);
    }
    return chosen;
  }
}

/**
 * For what takes long at each crash: a boundary is told by the step and by what was flushed last alone, and of a step so
 * many new ones are cut off, spread over it. What is passed over so is new to a later step still. A scenario that has
 * nothing new is cut off at its end.
 */
export class Phases implements Boundaries {
  readonly #mostOfStep: number;
  readonly #met = new Set<string>();
  readonly #cut = new WeakSet<Recording>();

  constructor(mostOfStep: number) {
    this.#mostOfStep = mostOfStep;
  }

  choose(recording: Recording, { index, from, to }: RecordedStep): ReadonlySet<number> {
    const { plan, log, steps } = recording;
    const what = describeStep(plan.steps.slice(0, index + 1).map(({ argv }) => argv));
    const ofPhases = new Map<string, number[]>();
    let phase = "";
    for (let point = from; point <= to; point += 1) {
      const before = log[point - 1];
      if (point > from && before?.kind === "flush") phase = before.purpose;
      const kind = `${what}\n${point === to ? "end" : phase}`;
      if (!this.#met.has(kind)) ofPhases.set(kind, [...(ofPhases.get(kind) ?? []), point]);
    }
    const chosen = new Set<number>();
    const fresh = [...ofPhases];
    for (const last of spread({ from: 1, to: fresh.length }, this.#mostOfStep)) {
      const [kind, points] = fresh[last - 1] ?? [];
      if (kind === undefined || points === undefined) continue;
      this.#met.add(kind);
      // Amid the phase: at its begin nothing is pending.
      chosen.add(points[Math.floor(points.length / 2)] ?? to);
    }
    const isLast = index === steps.findLast(({ studied }) => studied)?.index;
    if (isLast && !this.#cut.has(recording)) chosen.add(to);
    if (chosen.size > 0) this.#cut.add(recording);
    return chosen;
  }
}

/** What the last of these steps does. */
function describeStep(steps: readonly (readonly string[])[]): string {
  const words = steps.map(([first = "", second = ""]) =>
    GROUPS.includes(first) ? `${first} ${second}` : first,
  );
  const last = words.at(-1) ?? "";
  const actions = ENDS.includes(last) ? [...new Set(words)].sort() : [];
  const names = (steps.at(-1) ?? []).map((word) => /^vd[a-z]\b/.exec(word)?.[0]).filter(Boolean);
  return [last, ...actions, new Set(names).size > 1 ? "of several" : ""].join(" ");
}

function kindOf(call: Change): string {
  const of = call.kind === "name" ? call.operation : call.kind === "flush" ? call.purpose : "";
  return `${call.kind} ${of} ${placeOf(call.path)}`;
}

/** A file of the workspace by its name, one that is on its way by its kind, and all others alike. */
function placeOf(path: string): string {
  const own = /\/\.imgtx(\/.*)?$/.exec(path);
  if (own) return withoutIds(own[0].replace(/\/view\/.*/, "/view"));
  const staged = /\/\.imgtx-[a-z0-9]+-(.*)$/.exec(path);
  if (staged) return withoutIds(staged[1] ?? "");
  return /\/devices(\/|$)/.test(path) ? "view" : "";
}
