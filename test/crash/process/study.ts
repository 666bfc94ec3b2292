// Cuts every studied step of a scenario off at every boundary, several at a time, each in its own folder.

import type { Violation } from "../report.ts";
import type { Scenario } from "../scenarios.ts";
import type { BuiltProgram } from "./built-program.ts";
import { cutOff, type Cut, type Injection } from "./cut-off.ts";
import { RealFolder } from "./real-folder.ts";
import { recordScenario, type RecordedStep } from "./recorded-scenario.ts";
import { canRunOutOfSpace, type Boundary } from "./trace.ts";

export interface ProcessFigures {
  boundaries: number;
  kills: number;
  errors: number;
  races: number;
  powerCuts: number;
}

export interface ProcessReport {
  readonly figures: ProcessFigures;
  readonly violations: Violation[];
  cutShort: boolean;
}

export interface StudyOptions {
  /** A folder of the rig's own. */
  readonly base: string;
  /** How many trials run at a time. */
  readonly width: number;
  /** Stop at this moment (milliseconds since 1970), with the report marked as cut short. */
  readonly deadline: number;
  /** Of how many trials qemu-img judges one; 0: of none. */
  readonly qemuEvery: number;
  /** Which of the injections that are possible at a boundary to make, by its number. */
  readonly chooses: (injection: Injection, number: number) => boolean;
}

export function emptyProcessReport(): ProcessReport {
  const figures = { boundaries: 0, kills: 0, errors: 0, races: 0, powerCuts: 0 };
  return { figures, violations: [], cutShort: false };
}

export function addProcessReport(total: ProcessReport, part: ProcessReport): void {
  for (const name of Object.keys(part.figures) as (keyof ProcessFigures)[]) {
    total.figures[name] += part.figures[name];
  }
  total.violations.push(...part.violations);
  total.cutShort ||= part.cutShort;
}

export async function studyScenario(
  scenario: Scenario,
  program: BuiltProgram,
  options: StudyOptions,
): Promise<ProcessReport> {
  const report = emptyProcessReport();
  const folders = foldersFor(options);
  const first = folders[0];
  if (!first) return report;
  const recorded = await recordScenario(scenario, program, first);
  const cuts = recorded.flatMap((step) => cutsOf(step, options));
  const outcomes = new Map<Cut, string | undefined>();
  const waiting = cuts.values();
  const work = async (folder: RealFolder): Promise<void> => {
    for (const cut of waiting) {
      if (Date.now() > options.deadline) {
        report.cutShort = true;
        return;
      }
      const { outcome, violations } = await cutOff(cut, program, folder);
      outcomes.set(cut, outcome);
      report.violations.push(...violations);
      report.figures[cut.injection === "kill" ? "kills" : "errors"] += 1;
    }
  };
  await Promise.all(folders.map(work));
  for (const step of recorded) {
    report.figures.boundaries += step.boundaries.length;
    report.violations.push(...findTurnsBack(step, outcomes));
  }
  return report;
}

/** Paths of one length, since images hold paths. */
export function foldersFor({ base, width }: Pick<StudyOptions, "base" | "width">): RealFolder[] {
  return Array.from({ length: width }, (_, slot) => new RealFolder(`${base}/slot-${slot}`));
}

function cutsOf(recorded: RecordedStep, options: StudyOptions): Cut[] {
  return recorded.boundaries.flatMap((boundary, number) =>
    possibleInjections(boundary)
      .filter((injection) => options.chooses(injection, number))
      .map((injection, place) => ({
        recorded,
        boundary,
        injection,
        number: number + place,
        asksQemu: options.qemuEvery > 0 && (number + place) % options.qemuEvery === 0,
      })),
  );
}

function possibleInjections(boundary: Boundary): Injection[] {
  if (boundary.isResult) return ["kill"];
  return canRunOutOfSpace(boundary) ? ["kill", "EIO", "ENOSPC"] : ["kill", "EIO"];
}

/** Rule 7: once a kill led to "after", a later one does too. */
function findTurnsBack(recorded: RecordedStep, outcomes: ReadonlyMap<Cut, string | undefined>): Violation[] {
  const kills = [...outcomes].filter(([cut]) => cut.recorded === recorded && cut.injection === "kill");
  const byBoundary = new Map(kills.map(([cut, outcome]) => [cut.boundary, outcome]));
  let firstAfter: Boundary | undefined;
  const violations: Violation[] = [];
  for (const boundary of recorded.boundaries) {
    const outcome = byBoundary.get(boundary);
    if (outcome === "after") firstAfter ??= boundary;
    if (outcome !== "before" || !firstAfter) continue;
    violations.push({
      scenario: recorded.scenario.name,
      rule: "a later kill takes back what an earlier one left committed (rule 7)",
      trail: [`\`${recorded.step.argv.join(" ")}\``],
      detail: `after: killed at ${firstAfter.label}\nbefore: killed at ${boundary.label}`,
    });
  }
  return violations;
}
