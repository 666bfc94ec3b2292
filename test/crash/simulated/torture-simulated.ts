// All that the simulated disk has to say about every scenario of the registry: crashes, injected errors,
// damaged journals, races, and the mutants.

import { AWAY_ALL, takeDisksAway } from "../judges/away.ts";
import {
  awayTrialOf,
  guestTrialOf,
  journalsIn,
  simulatedRaceOf,
  trialOf,
  type Trial,
} from "../command-line.ts";
import { damageJournals } from "../judges/damaged-journal.ts";
import { explore, EXPLORE_ALL, type ExploreOptions } from "../judges/explore.ts";
import { GUESTS_ALL, meetGuests } from "../judges/guests.ts";
import { injectErrors } from "../judges/injected-errors.ts";
import { judgeMutants, tryMutant, type Mutant } from "../judges/mutants.ts";
import { afterDeath, runRaces, withoutLocks } from "../judges/races.ts";
import { record } from "./recording.ts";
import { addReport, emptyReport, type Report } from "../report.ts";
import { REDUNDANT_FLUSHES } from "../judges/redundant-flushes.ts";
import { DEVICE_SCENARIOS } from "../scenarios/device-scenarios.ts";
import { IMAGE_SCENARIOS } from "../scenarios/image-scenarios.ts";
import { LAYOUT_SCENARIOS } from "../scenarios/layout-scenarios.ts";
import type { Scenario } from "../scenarios/sample-devices.ts";
import { RACES, SCENARIOS } from "../scenarios/scenarios.ts";

export interface SimulatedOptions {
  readonly seed: number;
  /** Milliseconds since 1970 by which all of it has to be over. */
  readonly deadline: number;
  readonly say: (line: string) => void;
  /** Only scenarios and races whose name contains this. */
  readonly only?: string;
  /** Only flushes whose purpose contains this are removed. */
  readonly purpose?: string;
  /** Which parts; all when left out. */
  readonly parts?: readonly Part[];
}

export const PARTS = ["crashes", "guests", "away", "errors", "damage", "races", "mutants"] as const;
export type Part = (typeof PARTS)[number];

export interface SimulatedResult {
  readonly report: Report;
  readonly mutants: readonly Mutant[];
  /** What is wrong with the list of redundant flushes. */
  readonly mutantProblems: readonly string[];
}

/** How much of the time that is left each part may take. Races take little, and the mutants the rest. */
const SHARES = { crashes: 0.4, guests: 0.3, away: 0.3, errors: 0.3, damage: 0.2 };
/** Every n-th byte of a journal is damaged: each one in the scenarios of the slice, fewer in the others. */
const DAMAGE_STRIDE = { inSlice: 1, others: 7 };
const RACE_SEEDS = 100;

/** Every so many calls of a command one dies, and its recovery meets the other command so often. */
const DEATH_STRIDE = 7;
const RACES_AFTER_DEATH = 3;

const ALL = [...SCENARIOS, ...LAYOUT_SCENARIOS, ...IMAGE_SCENARIOS, ...DEVICE_SCENARIOS];

export async function tortureSimulated(options: SimulatedOptions): Promise<SimulatedResult> {
  const scenarios = ALL.filter(({ name }) => name.includes(options.only ?? ""));
  const trials = await Promise.all(scenarios.map((scenario) => trialOf(scenario)));
  const run = new Run(options, trials);
  const wants = (part: Part) => options.parts?.includes(part) ?? true;
  if (wants("crashes") || wants("mutants")) await run.crashes();
  if (wants("guests")) await run.guests();
  if (wants("away")) await run.away();
  if (wants("errors")) await run.errors();
  if (wants("damage")) await run.damage();
  if (wants("races")) await run.races();
  const mutants = wants("mutants") ? await run.mutants() : [];
  const isWhole = wants("mutants") && options.only === undefined && options.purpose === undefined;
  const mutantProblems = isWhole ? judgeMutants(mutants, REDUNDANT_FLUSHES, run.report.purposes) : [];
  return { report: run.report, mutants, mutantProblems };
}

class Run {
  readonly report = emptyReport();
  readonly #options: SimulatedOptions;
  readonly #trials: readonly Trial[];
  /** For each purpose of a flush, the scenarios in which it was met. */
  readonly #seen = new Map<string, Trial[]>();

  constructor(options: SimulatedOptions, trials: readonly Trial[]) {
    this.#options = options;
    this.#trials = trials;
  }

  /** Every scenario with one crash before any with two: what is found early needs no time. */
  async crashes(): Promise<void> {
    const end = partOf(this.#options.deadline, SHARES.crashes);
    for (let depth = 1; depth <= EXPLORE_ALL.depth; depth += 1) {
      await this.#each(
        `crashes, ${depth} deep`,
        partOf(end, depth / EXPLORE_ALL.depth),
        async (trial, limits) => {
          const found = await explore(await record(trial.plan, trial.subject), trial.subject, {
            ...limits,
            depth,
          });
          for (const purpose of found.purposes) {
            const known = this.#seen.get(purpose) ?? [];
            if (!known.includes(trial)) this.#seen.set(purpose, [...known, trial]);
          }
          // The same boundaries are met at each depth.
          if (depth > 1) found.figures.points = 0;
          return found;
        },
      );
    }
  }

  async guests(): Promise<void> {
    const end = partOf(this.#options.deadline, SHARES.guests);
    await this.#eachScenario("guests", end, async (scenario, limits) => {
      const { plan, subject } = await guestTrialOf(scenario);
      return await meetGuests(await record(plan, subject), subject, { ...GUESTS_ALL, ...limits });
    });
  }

  async away(): Promise<void> {
    const end = partOf(this.#options.deadline, SHARES.away);
    await this.#eachScenario("away", end, async (scenario, limits) => {
      const trial = await awayTrialOf(scenario);
      if (!trial) return undefined;
      const { plan, subject } = trial;
      return await takeDisksAway(await record(plan, subject), subject, { ...AWAY_ALL, ...limits });
    });
  }

  /** For what lays its disk out by itself. */
  async #eachScenario(
    part: string,
    end: number,
    run: (
      scenario: Scenario,
      limits: Pick<ExploreOptions, "seed" | "deadline" | "maxViolations">,
    ) => Promise<Report | undefined>,
  ): Promise<void> {
    const entries = ALL.filter(({ name }) => name.includes(this.#options.only ?? ""));
    for (const [index, scenario] of entries.entries()) {
      const deadline = partOf(end, 1 / (entries.length - index));
      const found = await run(scenario, { seed: this.#options.seed, deadline, maxViolations: 100 });
      if (found) this.#take(part, scenario.name, found);
    }
  }

  async errors(): Promise<void> {
    await this.#each("errors", partOf(this.#options.deadline, SHARES.errors), async (trial, limits) =>
      injectErrors(await record(trial.plan, trial.subject), trial.subject, limits),
    );
  }

  async damage(): Promise<void> {
    await this.#each(
      "damage",
      partOf(this.#options.deadline, SHARES.damage),
      async ({ plan, subject, inSlice }, limits) => {
        const stride = inSlice ? DAMAGE_STRIDE.inSlice : DAMAGE_STRIDE.others;
        return damageJournals(await record(plan, subject), subject, journalsIn, stride, limits);
      },
    );
  }

  async #each(
    part: string,
    end: number,
    run: (trial: Trial, limits: ExploreOptions) => Promise<Report>,
  ): Promise<void> {
    for (const [index, trial] of this.#trials.entries()) {
      const deadline = partOf(end, 1 / (this.#trials.length - index));
      const { seed } = this.#options;
      this.#take(
        part,
        trial.plan.name,
        await run(trial, { ...EXPLORE_ALL, seed, deadline, maxViolations: 100 }),
      );
    }
  }

  async races(): Promise<void> {
    const { only, seed } = this.#options;
    for (const entry of RACES.filter(({ name }) => name.includes(only ?? ""))) {
      const { race, subject } = await simulatedRaceOf(entry);
      const seeds = Array.from({ length: RACE_SEEDS }, (_, index) => seed * RACE_SEEDS + index);
      const apart = withoutLocks(race);
      for (const one of [race, apart]) this.#take("races", one.name, await runRaces(one, subject, seeds));
      for (let call = seed % DEATH_STRIDE; ; call += DEATH_STRIDE) {
        const cut = await afterDeath(apart, subject, call);
        if (!cut) break;
        this.#take("races", cut.name, await runRaces(cut, subject, seeds.slice(0, RACES_AFTER_DEATH)));
      }
    }
  }

  async mutants(): Promise<Mutant[]> {
    const mutants: Mutant[] = [];
    const { seed } = this.#options;
    const purposes = [...this.#seen.keys()].filter((one) => one.includes(this.#options.purpose ?? "")).sort();
    for (const [index, purpose] of purposes.entries()) {
      const deadline = partOf(this.#options.deadline, 1 / (purposes.length - index));
      const mutant = await tryMutant(purpose, this.#seen.get(purpose) ?? [], {
        ...EXPLORE_ALL,
        seed,
        deadline,
      });
      mutants.push(mutant);
      this.#options.say(
        `mutant: without "${purpose}": ${mutant.verdict}${mutant.by ? `, by ${firstLine(mutant.by)}` : ""}`,
      );
    }
    return mutants;
  }

  #take(part: string, name: string, found: Report): void {
    addReport(this.report, found);
    const cut = found.cutShort ? ", cut short" : "";
    this.#options.say(`${part}: ${name}: ${describeFigures(found)}${cut}`);
  }
}

function firstLine(text: string): string {
  return text.split("\n")[0] ?? "";
}

/** The moment at which a part of the time that is left until the deadline is over. */
function partOf(deadline: number, share: number): number {
  return Date.now() + (deadline - Date.now()) * share;
}

function describeFigures(report: Report): string {
  const figures = Object.entries(report.figures)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${count} ${name}`);
  return `${figures.join(", ")}; ${report.violations.length} violations`;
}
