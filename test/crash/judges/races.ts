// Two commands at the same time on the same machine, mixed call by call from a seed. The outcome must be
// one that the two give in some order, one of them perhaps refused; a refused one changes nothing. (Rule 8.)

import { seededRandom } from "../../helpers/random.ts";
import type { Tree } from "../simulated/disk-tree.ts";
import { differences, emptyReport, type Report } from "../report.ts";
import { SimulatedDeath, SimulatedMachine } from "../simulated/simulated-disk.ts";
import { observeCopy, runOn, type Subject } from "../subject.ts";

export interface Race {
  readonly name: string;
  /** The disk, with everything prepared. */
  readonly disk: Tree;
  readonly one: readonly string[];
  readonly other: readonly string[];
  /** Whether the two see each other's locks. Default: they do. */
  readonly sharesLocks?: boolean;
  /** Exit statuses that the one that lost may end with. */
  readonly refusals: readonly number[];
}

/** The same by two mountings. An image's fence, or what is done already, may be met where a lock would have been. */
export function withoutLocks(race: Race): Race {
  const refusals = race.refusals.length === 0 ? [] : [...race.refusals, 14];
  return { ...race, name: `${race.name}, each by a mounting of its own`, sharesLocks: false, refusals };
}

/**
 * The same where a third process has died amid the first command, at this call: recovery, beside the other one. Undefined where
 * it ends before that.
 */
export async function afterDeath(race: Race, subject: Subject, call: number): Promise<Race | undefined> {
  const { name, one, other, sharesLocks = true, refusals } = race;
  const machine = new SimulatedMachine({ durable: race.disk, boots: 2, sharesLocks });
  machine.arm({ call, kind: "death", stays: false });
  try {
    await runOn(machine, subject, one);
    return undefined;
  } catch (error) {
    if (!(error instanceof SimulatedDeath)) throw error;
  }
  return {
    name: `${name}, after a process that died at call ${call} of the first`,
    disk: machine.tree,
    one: subject.recover,
    other,
    sharesLocks,
    refusals: [...refusals, ...MET],
  };
}

/** Busy, in a transaction, or refused because of an effect that is there already. */
const MET: readonly number[] = [10, 11, 14];

export async function runRaces(race: Race, subject: Subject, seeds: Iterable<number>): Promise<Report> {
  const report = emptyReport();
  const allowed = await serialOutcomes(race, subject);
  for (const seed of seeds) {
    report.figures.races += 1;
    const random = seededRandom(seed);
    const machine = new SimulatedMachine({
      durable: race.disk,
      boots: 1,
      sharesLocks: race.sharesLocks ?? true,
      pace: async () => {
        for (let turns = random.below(8); turns > 0; turns -= 1) await Promise.resolve();
      },
    });
    const results = await Promise.all([
      runOn(machine, subject, race.one),
      runOn(machine, subject, race.other),
    ]);
    const exits = results.map((result) => result.exit);
    const trail = [`seed ${seed}: exit statuses ${exits.join(" and ")}`];
    const text = results.map((result) => result.text).join("\n");
    const violate = (rule: string, detail: string) =>
      report.violations.push({ scenario: race.name, rule: `${rule} (rule 8)`, trail, detail });
    if (exits.some((exit) => exit !== 0 && !race.refusals.includes(exit))) {
      violate("a race ends with a wrong exit status", text);
      continue;
    }
    const wanted = allowed.get(winners(exits));
    if (!wanted) {
      violate("no order of the two commands gives these exit statuses", text);
      continue;
    }
    const observed = await observeCopy(machine, subject);
    if (wanted.has(observed)) continue;
    const named = new Map([...wanted].map((one, index) => [`outcome ${index}`, one]));
    violate(
      "the outcome is none that the two give one after the other",
      `${text}\n${differences(observed, named)}`,
    );
  }
  return report;
}

/** For each choice of winners, what can be observed after it. */
async function serialOutcomes(race: Race, subject: Subject): Promise<Map<string, Set<string>>> {
  const allowed = new Map<string, Set<string>>();
  const add = (exits: readonly number[], observed: string) => {
    const key = winners(exits);
    allowed.set(key, (allowed.get(key) ?? new Set()).add(observed));
  };
  for (const [first, second, swapped] of [
    [race.one, race.other, false],
    [race.other, race.one, true],
  ] as const) {
    const machine = new SimulatedMachine({ durable: race.disk, boots: 1 });
    const firstExit = (await runOn(machine, subject, first)).exit;
    // The second may find the first at work, and be turned away before it could see its effect.
    add(swapped ? [1, firstExit] : [firstExit, 1], await observeCopy(machine, subject));
    const secondExit = (await runOn(machine, subject, second)).exit;
    add(swapped ? [secondExit, firstExit] : [firstExit, secondExit], await observeCopy(machine, subject));
  }
  return allowed;
}

function winners(exits: readonly number[]): string {
  return exits.map((exit) => (exit === 0 ? "wins" : "loses")).join(",");
}
