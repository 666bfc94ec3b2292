// Many walks, each from a fresh start and by a seed of its own, until all steps are taken or the time is up.

import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { takeWalk } from "./walk.ts";

const STEPS_A_WALK = 250;

export interface WalksRequest {
  readonly program: string;
  readonly seed: number;
  readonly steps: number;
  readonly deadline: number;
  readonly say: (line: string) => void;
}

export async function tortureWalk({ program, seed, steps, deadline, say }: WalksRequest) {
  const problems: string[] = [];
  const totals: Record<string, number> = {};
  let taken = 0;
  let walks = 0;
  for (; taken < steps && Date.now() < deadline; walks += 1) {
    const report = await walkIn({
      program,
      seed: seed + walks,
      steps: Math.min(STEPS_A_WALK, steps - taken),
      deadline,
    });
    // A walk that ends at once would be taken for ever.
    taken += Math.max(1, report.steps);
    for (const [what, count] of Object.entries(report.figures)) totals[what] = (totals[what] ?? 0) + count;
    if (report.fault !== undefined) problems.push(report.fault);
    say(
      `walk: seed ${seed + walks}: ${report.steps} steps${report.fault === undefined ? "" : ", and a fault"}`,
    );
  }
  const figures = Object.entries(totals).map(([what, count]) => `${what} ${count}`);
  return { problems, figures: [`walks ${walks}, steps ${taken}: ${figures.join(", ")}`] };
}

/** One walk in a folder of its own, which stays where a fault was found. */
export async function walkIn(walk: Omit<Parameters<typeof takeWalk>[0], "folder">) {
  const folder = mkdtempSync(join(tmpdir(), `imgtx-walk-${walk.seed}-`));
  mkdirSync(folder, { recursive: true });
  const report = await takeWalk({ ...walk, folder });
  if (report.fault === undefined) rmSync(folder, { recursive: true });
  return report;
}
