// All that the simulated disk has to say about every scenario of the registry: crashes, injected errors,
// damaged journals, races, and the mutants.

import { journalsIn, simulatedRaceOf, trialOf, type Trial } from "./command-line.ts";
import { damageJournals } from "./damaged-journal.ts";
import { explore, EXPLORE_ALL, type ExploreOptions } from "./explore.ts";
import { injectErrors } from "./injected-errors.ts";
import { judgeMutants, tryMutant, type Mutant } from "./mutants.ts";
import { runRaces } from "./races.ts";
import { record } from "./recording.ts";
import { addReport, emptyReport, type Report } from "./report.ts";
import { REDUNDANT_FLUSHES } from "./redundant-flushes.ts";
import { RACES, SCENARIOS } from "./scenarios.ts";

export interface SimulatedOptions {
  readonly seed: number;
  /** Milliseconds since 1970 by which all of it has to be over. */
  readonly deadline: number;
  readonly say: (line: string) => void;
  /** Only scenarios and races whose name contains this. */
  readonly only?: string;
  /** Which parts; all when left out. */
  readonly parts?: readonly Part[];
}

export const PARTS = ["crashes", "errors", "damage", "races", "mutants"] as const;
export type Part = (typeof PARTS)[number];

export interface SimulatedResult {
  readonly report: Report;
  readonly mutants: readonly Mutant[];
  /** What is wrong with the list of redundant flushes. */
  readonly mutantProblems: readonly string[];
}

/** How much of the time that is left each part may take, while others wait. */
const SHARES: Readonly<Record<Part, number>> = {
  crashes: 0.4,
  errors: 0.4,
  damage: 0.3,
  races: 0.3,
  mutants: 1,
};
/** Every n-th byte of a journal is damaged: each one in the scenarios of the slice, fewer in the others. */
const DAMAGE_STRIDE = { inSlice: 1, others: 7 };
const RACE_SEEDS = 200;

export async function tortureSimulated(options: SimulatedOptions): Promise<SimulatedResult> {
  const scenarios = SCENARIOS.filter(({ name }) => name.includes(options.only ?? ""));
  const trials = await Promise.all(scenarios.map(trialOf));
  const report = emptyReport();
  const seen = new Map<string, Trial[]>();
  const wants = (part: Part) => options.parts?.includes(part) ?? true;
  const limited = (part: Part, waiting: number): ExploreOptions => ({
    ...EXPLORE_ALL,
    seed: options.seed,
    maxViolations: 100,
    deadline: slice(options.deadline, SHARES[part], waiting),
  });
  const take = (part: Part, name: string, found: Report) => {
    addReport(report, found);
    const cut = found.cutShort ? ", cut short" : "";
    options.say(`${part}: ${name}: ${describeFigures(found)}${cut}`);
  };
  for (const [index, trial] of trials.entries()) {
    const waiting = trials.length - index;
    const recording = await record(trial.plan, trial.subject);
    if (wants("crashes") || wants("mutants")) {
      const found = await explore(recording, trial.subject, limited("crashes", waiting));
      for (const purpose of found.purposes) seen.set(purpose, [...(seen.get(purpose) ?? []), trial]);
      take("crashes", trial.plan.name, found);
    }
    if (wants("errors")) {
      take(
        "errors",
        trial.plan.name,
        await injectErrors(recording, trial.subject, limited("errors", waiting)),
      );
    }
    if (wants("damage")) {
      const damage = limited("damage", waiting);
      take(
        "damage",
        trial.plan.name,
        await damageJournals(
          recording,
          trial.subject,
          journalsIn,
          trial.inSlice ? DAMAGE_STRIDE.inSlice : DAMAGE_STRIDE.others,
          damage,
        ),
      );
    }
  }
  if (wants("races")) await tortureRaces(options, take);
  const mutants = wants("mutants") ? await tortureMutants(seen, options) : [];
  const mutantProblems =
    wants("mutants") && options.only === undefined ? judgeMutants(mutants, REDUNDANT_FLUSHES) : [];
  return { report, mutants, mutantProblems };
}

async function tortureRaces(
  options: SimulatedOptions,
  take: (part: Part, name: string, found: Report) => void,
): Promise<void> {
  for (const entry of RACES.filter(({ name }) => name.includes(options.only ?? ""))) {
    const { race, subject } = await simulatedRaceOf(entry);
    const seeds = Array.from({ length: RACE_SEEDS }, (_, index) => options.seed * RACE_SEEDS + index);
    take("races", race.name, await runRaces(race, subject, seeds));
  }
}

async function tortureMutants(
  seen: ReadonlyMap<string, readonly Trial[]>,
  options: SimulatedOptions,
): Promise<Mutant[]> {
  const mutants: Mutant[] = [];
  const purposes = [...seen.keys()].sort();
  for (const [index, purpose] of purposes.entries()) {
    const deadline = slice(options.deadline, SHARES.mutants, purposes.length - index);
    const trials = seen.get(purpose) ?? [];
    const mutant = await tryMutant(purpose, trials, { ...EXPLORE_ALL, seed: options.seed, deadline });
    mutants.push(mutant);
    options.say(`mutant: without "${purpose}": ${mutant.verdict}`);
  }
  return mutants;
}

/** The moment by which one of `waiting` equal pieces of a share of the time left has to be over. */
function slice(deadline: number, share: number, waiting: number): number {
  return Date.now() + ((deadline - Date.now()) * share) / waiting;
}

function describeFigures(report: Report): string {
  const figures = Object.entries(report.figures)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${count} ${name}`);
  return `${figures.join(", ")}; ${report.violations.length} violations`;
}
