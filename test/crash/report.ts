// What a run of the rig found.

export interface Violation {
  readonly scenario: string;
  /** The rule that was broken, in the numbers of the crash model. */
  readonly rule: string;
  /** How to get there, outermost first: step, crash point, what the disk lost, then the same within recovery. */
  readonly trail: readonly string[];
  readonly detail: string;
}

interface Figures {
  /** Moments at which a command was cut off. */
  points: number;
  /** Different disks that recovery was run on. */
  states: number;
  /** Of those, disks left by a crash inside recovery. */
  nested: number;
  /** Commands that met an injected error. */
  errors: number;
  /** Journals that were damaged on purpose. */
  damages: number;
  /** Pairs of commands run at the same time. */
  races: number;
  /** Guests that wrote between a crash and its recovery, and guests that could not be started then. */
  guests: number;
  keptOut: number;
  /** Recoveries that waited for something, and said so. */
  waits: number;
  /** Recoveries with a disk away. */
  away: number;
}

export interface Report {
  readonly figures: Figures;
  readonly violations: Violation[];
  /** What the flushes were for that were met. */
  readonly purposes: Set<string>;
  /** Whether time ran out before everything was tried. */
  cutShort: boolean;
}

export function emptyReport(): Report {
  return {
    figures: {
      points: 0,
      states: 0,
      nested: 0,
      errors: 0,
      damages: 0,
      races: 0,
      guests: 0,
      keptOut: 0,
      waits: 0,
      away: 0,
    },
    violations: [],
    purposes: new Set(),
    cutShort: false,
  };
}

export function addReport(total: Report, part: Report): void {
  for (const name of Object.keys(part.figures) as (keyof Figures)[]) {
    total.figures[name] += part.figures[name];
  }
  total.violations.push(...part.violations);
  for (const purpose of part.purposes) total.purposes.add(purpose);
  total.cutShort ||= part.cutShort;
}

export function describeViolation(violation: Violation): string {
  const trail = violation.trail.map((line) => `    ${line}`).join("\n");
  return `${violation.scenario}: ${violation.rule}\n${trail}\n  ${violation.detail.replaceAll("\n", "\n  ")}`;
}

/** The lines in which two observations differ; equal lines are left out. */
export function differences(actual: string, wanted: ReadonlyMap<string, string>): string {
  const have = new Set(actual.split("\n"));
  const parts: string[] = [];
  for (const [name, text] of wanted) {
    const lines = new Set(text.split("\n"));
    const extra = [...have].filter((line) => !lines.has(line)).map((line) => `  + ${line}`);
    const lacking = [...lines].filter((line) => !have.has(line)).map((line) => `  - ${line}`);
    parts.push(`against "${name}":`, ...extra, ...lacking);
  }
  return parts.join("\n");
}

/** Violations that differ only in where they were met, told once: the one with the shortest way to it. */
export function groupViolations(violations: readonly Violation[]): string[] {
  const groups = new Map<string, Violation[]>();
  for (const violation of violations) {
    const start = violation.detail.split("\n").map((line) => line.trim().slice(0, 16));
    const key = withoutIds([violation.rule, violation.trail.length, ...start.slice(0, 2)].join("|"));
    groups.set(key, [...(groups.get(key) ?? []), violation]);
  }
  return [...groups.values()].map((group) => {
    const [first] = group.toSorted((one, other) => lengthOf(one) - lengthOf(other));
    if (!first) return "";
    const scenarios = [...new Set(group.map(({ scenario }) => scenario))];
    const more = group.length === 1 ? "" : `  (${group.length} times, in: ${scenarios.join("; ")})\n`;
    return `${more}${describeViolation(first)}`;
  });
}

function lengthOf(violation: Violation): number {
  return violation.trail.length * 1_000_000 + violation.trail.join().length;
}

/** With the ids of transactions and all numbers made alike. */
export function withoutIds(text: string): string {
  return text.replaceAll(/z{3,}[a-z0-9]+/g, "ID").replaceAll(/\d+/g, "N");
}
