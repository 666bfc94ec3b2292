// The crash rigs and the fuzzers at full length, and their figures. Started by test/tooling/torture.ts.

import { parseArgs } from "node:util";
import { tortureDifferential } from "../fuzz/differential.ts";
import { tortureStaged } from "../format/staged/torture-staged.ts";
import { tortureHostile } from "../fuzz/hostile.ts";
import { PROGRAM } from "../helpers/program.ts";
import { tortureModel } from "../model/torture-model.ts";
import { tortureWalk } from "../walk/torture-walk.ts";
import { groupViolations } from "./report.ts";
import { torturePower, tortureProcess, type RealOptions, type RealResult } from "./real/torture-real.ts";
import { PARTS, tortureSimulated, type Part } from "./simulated/torture-simulated.ts";

const RIGS = ["simulated", "process", "power", "walk", "model", "hostile", "differential", "staged"] as const;
type Rig = (typeof RIGS)[number];

interface Request {
  readonly rigs: readonly Rig[];
  readonly parts: readonly Part[];
  readonly seed: number;
  readonly deadline: number;
  readonly only: string | undefined;
  readonly purpose: string | undefined;
  /** How many images, sequences or cases a fuzzer tries. */
  readonly cases: number | undefined;
}

const HOSTILE_CASES = 100_000;
const DIFFERENTIAL_SEQUENCES = 1000;
const WALK_STEPS = 3000;
const MODEL_RUNS = 2000;
const STAGED_CASES = 100_000;

/** Runs what the arguments ask for; returns the exit status. */
export async function torture(args: readonly string[]): Promise<number> {
  const request = readRequest(args);
  const problems: string[] = [];
  const figures: string[] = [];
  for (const [index, rig] of request.rigs.entries()) {
    // Each rig gets an equal part of the time that is left.
    const deadline = Date.now() + (request.deadline - Date.now()) / (request.rigs.length - index);
    const outcome = await runRig(rig, { ...request, deadline });
    problems.push(...outcome.problems);
    figures.push(...outcome.figures);
  }
  say("");
  for (const problem of problems) say(`${problem}\n`);
  say(`seed ${request.seed}`);
  for (const figure of figures) say(figure);
  say(problems.length === 0 ? "no violation" : `${problems.length} violations`);
  return problems.length === 0 ? 0 : 1;
}

interface Outcome {
  readonly problems: readonly string[];
  readonly figures: readonly string[];
}

async function runRig(rig: Rig, request: Request): Promise<Outcome> {
  switch (rig) {
    case "simulated":
      return await runSimulated(request);
    case "process":
      return await runReal("real process", tortureProcess, request);
    case "power":
      return await runReal("power cuts", torturePower, request);
    case "walk":
      return await tortureWalk({
        ...request,
        say,
        program: PROGRAM,
        steps: request.cases ?? WALK_STEPS,
      });
    case "model":
      return await tortureModel({ ...request, say, runs: request.cases ?? MODEL_RUNS });
    case "hostile":
      return await tortureHostile({ ...request, say, cases: request.cases ?? HOSTILE_CASES });
    case "differential":
      return await tortureDifferential({
        ...request,
        say,
        sequences: request.cases ?? DIFFERENTIAL_SEQUENCES,
      });
    case "staged":
      return await tortureStaged({ ...request, say, cases: request.cases ?? STAGED_CASES });
  }
}

async function runReal(
  title: string,
  rig: (options: RealOptions) => Promise<RealResult>,
  request: Request,
): Promise<Outcome> {
  const started = Date.now();
  const { seed, deadline, only } = request;
  const { violations, figures } = await rig({ program: PROGRAM, seed, deadline, say, only: only ?? "" });
  const seconds = Math.round((Date.now() - started) / 1000);
  return { problems: groupViolations(violations), figures: [`${title}, ${seconds} s:`, ...figures] };
}

async function runSimulated(request: Request): Promise<Outcome> {
  const started = Date.now();
  const { report, mutants, mutantProblems } = await tortureSimulated({
    seed: request.seed,
    deadline: request.deadline,
    parts: request.parts,
    say,
    ...(request.only === undefined ? {} : { only: request.only }),
    ...(request.purpose === undefined ? {} : { purpose: request.purpose }),
  });
  const count = (verdict: string) => mutants.filter((mutant) => mutant.verdict === verdict).length;
  const { points, states, nested, errors, damages, races } = report.figures;
  return {
    problems: [...groupViolations(report.violations), ...mutantProblems],
    figures: [
      `simulated disk, ${Math.round((Date.now() - started) / 1000)} s${report.cutShort ? ", cut short" : ""}:`,
      `  boundaries ${points}, disk states ${states}, of these ${nested} within a recovery`,
      `  injected errors ${errors}, damaged journals ${damages}, races ${races}`,
      `  flushes removed ${mutants.length}: killed ${count("killed")}, survived ${count("survived")}, cut short ${count("cut short")}`,
    ],
  };
}

function readRequest(args: readonly string[]): Request {
  const { values, positionals } = parseArgs({
    args: [...args],
    allowPositionals: true,
    options: {
      seed: { type: "string", default: "1" },
      seconds: { type: "string" },
      only: { type: "string" },
      purpose: { type: "string" },
      cases: { type: "string" },
      part: { type: "string", multiple: true },
    },
  });
  const rigs = positionals.length === 0 || positionals.includes("all") ? RIGS : positionals.map(rigOf);
  const seconds = values.seconds === undefined ? Number.POSITIVE_INFINITY : Number(values.seconds);
  return {
    rigs,
    parts: values.part?.map(partOf) ?? PARTS,
    seed: Number(values.seed),
    deadline: Date.now() + seconds * 1000,
    only: values.only,
    purpose: values.purpose,
    cases: values.cases === undefined ? undefined : Number(values.cases),
  };
}

function rigOf(name: string): Rig {
  const found = RIGS.find((rig) => rig === name);
  if (!found) throw new Error(`no rig is called ${name}; there are ${RIGS.join(", ")} and all`);
  return found;
}

function partOf(name: string): Part {
  const found = PARTS.find((part) => part === name);
  if (!found) throw new Error(`no part is called ${name}; there are ${PARTS.join(", ")}`);
  return found;
}

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}
