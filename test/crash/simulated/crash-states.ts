// What a scenario's crashes leave, one after the other: for whoever lets something happen before recovery.

import type { Boundaries } from "./boundary-kinds.ts";
import { applyChange } from "./disk-log.ts";
import { DiskStates } from "./disk-states.ts";
import { describePoint, RECORDED_BOOT, type RecordedStep, type Recording } from "./recording.ts";
import type { SelectionLimits } from "./selections.ts";
import { SimulatedMachine } from "./simulated-disk.ts";

export interface CrashLimits {
  /** Disks tried at each crash point. */
  readonly limits: SelectionLimits;
  /** At how many calls a step is cut off, spread over all of it; its end is always one. */
  readonly points: number;
  /** Over how many of a step's last calls they are spread. Default: over all of them. */
  readonly lastCalls?: number;
  /** Where it is cut off instead. */
  readonly kinds?: Boundaries;
  readonly seed: number;
}

export interface CrashState {
  readonly kind: "power" | "process";
  /** Equal for disks on which recovery gives the same; undefined where nobody can tell. */
  readonly key: string | undefined;
  readonly trail: readonly string[];
  /** The machine as it comes up again, each time a new one. */
  readonly machine: () => SimulatedMachine;
}

/** The crashes of a step, in the order of its calls. */
export function* crashStates(
  recording: Recording,
  recorded: RecordedStep,
  { limits, points, lastCalls = Number.POSITIVE_INFINITY, kinds, seed }: CrashLimits,
): Generator<CrashState> {
  const { start, log, mutedPurposes } = recording;
  const states = new DiskStates(start);
  const cached = start.fork();
  const from = Math.max(recorded.from, recorded.to + 1 - lastCalls);
  const chosen = kinds?.choose(recording, recorded) ?? spread({ from, to: recorded.to }, points);
  for (let point = 0; point <= recorded.to; point += 1) {
    if (chosen.has(point)) {
      const where = describePoint(recorded.step.argv, log, recorded.from, point);
      for (const { tree, key, missing } of states.states(limits, seed + point)) {
        const lost = missing.length === 0 ? "nothing" : missing.join("; ");
        yield {
          kind: "power",
          key,
          trail: [where, `the power fails; missing on disk: ${lost}`],
          machine: () => new SimulatedMachine({ durable: tree, boots: 2, mutedPurposes }),
        };
      }
      const [seen, done] = [cached.fork(), log.slice(0, point)];
      yield {
        kind: "process",
        key: undefined,
        trail: [where, "the process dies; the page cache lives on"],
        machine: () =>
          new SimulatedMachine({
            durable: start,
            log: done,
            cached: seen,
            boots: 2,
            boot: RECORDED_BOOT,
            mutedPurposes,
          }),
      };
    }
    const change = log[point];
    if (!change) continue;
    states.advance(change);
    applyChange(cached, change);
  }
}

/** At most so many of the points from one to the other, the last among them. */
export function spread({ from, to }: Pick<RecordedStep, "from" | "to">, most: number): ReadonlySet<number> {
  const count = Math.max(1, Math.min(most, to - from + 1));
  const stride = (to - from + 1) / count;
  return new Set(Array.from({ length: count }, (_, index) => to - Math.floor(index * stride)));
}
