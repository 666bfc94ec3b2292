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

export class BoundaryKinds {
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
