// imgtx prune [DEV …] --keep-last N …

import { ImgtxError } from "../../errors/index.ts";
import type {
  CountedRule,
  Outcome,
  PruneDecision,
  PrunePlan,
  RetentionPolicy,
} from "../../transaction/index.ts";
import type { OptionDefinition } from "../grammar/definition.ts";
import type { PlainCommand } from "../running/command.ts";
import { CHANGING_EXITS } from "../grammar/exit-status.ts";
import type { CommandInput } from "../grammar/input.ts";
import { openSession, runOptions } from "../running/invocation.ts";
import type { Canvas } from "../render/canvas.ts";
import { outcomeJson, withSchema } from "../render/json.ts";
import { sayTime } from "../../units/index.ts";
import { table } from "../render/layout.ts";
import type { Drawing } from "../running/report.ts";
import { confirm } from "./confirm.ts";
import { RATE_LIMIT } from "./rate-limit.ts";
import { OUTCOME } from "../running/outcomes.ts";

const ABOUT: Readonly<Record<CountedRule, string>> = {
  last: "the N newest; `unlimited`: all",
  hourly: "the newest of each of the last N hours that have one",
  daily: "of each of the last N days that have one",
  weekly: "of each of the last N weeks, from Monday to Sunday",
  monthly: "of each of the last N months",
  yearly: "of each of the last N years",
};

const KEEP_OPTIONS: readonly OptionDefinition[] = [
  ...Object.entries(ABOUT).map(([rule, about]) => ({
    long: `keep-${rule}`,
    value: { name: "N", completes: "nothing" as const },
    about,
  })),
  {
    long: "keep-within",
    value: { name: "DURATION", completes: "nothing" },
    about: "all that are newer than that before the newest one: 14d, 1y6m, 2d12h",
  },
  {
    long: "keep-name",
    value: { name: "GLOB", completes: "snapshot" },
    repeatable: true,
    about: "all whose name is that, with * ? and [...]",
  },
];

interface Pruned {
  readonly plan: PrunePlan;
  readonly outcome: Outcome | undefined;
}

const PRUNED: Drawing<Pruned> = {
  text: ({ plan, outcome }, canvas) => [
    ...drawDecisions(plan.decisions, canvas),
    ...plan.left.map(
      ({ number, device }) =>
        `${canvas.paint.yellow("note:")} snapshot ${number} stays for '${device}', which is in the table no more: ` +
        `\`imgtx snapshot-delete ${number} --device ${device} --keep-images\``,
    ),
    ...(plan.decisions.length > 0 ? [""] : []),
    ...(outcome ? OUTCOME.text(outcome, canvas) : ["Nothing to prune."]),
  ],
  json: ({ plan: { decisions, left }, outcome }) => ({
    ...(outcome ? outcomeJson(outcome) : withSchema({ changed: false, actions: [] })),
    decisions: decisions.map((one) => ({ ...one, kept: one.reasons.length > 0 })),
    left,
  }),
  stands: ({ outcome }) => outcome && OUTCOME.stands?.(outcome),
};

function drawDecisions(decisions: readonly PruneDecision[], canvas: Canvas): string[] {
  if (decisions.length === 0) return [];
  const rows = decisions.map(({ number, name, created, devices, reasons }) => [
    reasons.length > 0 ? "keep" : "drop",
    String(number),
    sayTime(created),
    name ?? "",
    reasons.map((one) => sayReason(one, devices)).join(", "),
  ]);
  return table(["", "NUMBER", "TAKEN", "NAME", "REASONS"], rows, canvas);
}

/** With the devices where others do not say so. */
function sayReason({ reason, devices }: PruneDecision["reasons"][number], judged: readonly string[]): string {
  return devices.length === judged.length ? reason : `${reason} (${devices.join(" ")})`;
}

export const prune: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      {
        name: "DEV",
        about: "whose snapshots are judged, and go; else all devices",
        optional: true,
        variadic: true,
        completes: "device",
      },
    ],
    options: [...KEEP_OPTIONS, RATE_LIMIT],
    about:
      "Takes snapshots away by a policy, in restic's words: what any --keep option keeps is kept, and all else goes, in " +
      "one transaction, as imgtx snapshot-delete does it. The policy is asked for each device by itself, and a " +
      "snapshot stays while any of them keeps it. Hours, days, weeks, months and years are those of UTC.",
    examples: [
      { command: "imgtx prune --keep-daily 7 --keep-weekly 5 --dry-run", about: "each one, and why" },
      { command: "imgtx prune --keep-within 14d --keep-name 'before-*'", about: "two weeks, and some names" },
      { command: "imgtx prune vda --keep-last 3", about: "of one device: others keep theirs" },
    ],
    exits: CHANGING_EXITS,
  },
  async execute(invocation) {
    const { input, report } = invocation;
    const { engine, session } = await openSession(invocation);
    const policy = readPolicy(input, engine);
    const plan = await engine.planPrune(session, input.texts("DEV"), policy);
    const { request } = plan;
    if (request) await confirm(invocation, sayGoing(request.snapshots.length));
    const outcome = request && (await engine.runActions(session, [request], runOptions(invocation, false)));
    report.done({ plan, outcome }, PRUNED);
    return 0;
  },
};

function sayGoing(count: number): string {
  return count === 1
    ? "A snapshot goes, and what it alone keeps is lost."
    : `${count} snapshots go, and what they alone keep is lost.`;
}

/** E_USAGE without a policy: all would go. */
function readPolicy(
  input: CommandInput,
  engine: {
    parseDuration(text: string): RetentionPolicy["within"];
    isEmptyPolicy(policy: RetentionPolicy): boolean;
  },
): RetentionPolicy {
  const within = input.text("--keep-within");
  const names = input.texts("--keep-name");
  const policy: RetentionPolicy = {
    ...Object.fromEntries(Object.keys(ABOUT).map((rule) => [rule, readKeep(input, `--keep-${rule}`)])),
    names,
    within: within === undefined ? undefined : engine.parseDuration(within),
  };
  if (!engine.isEmptyPolicy(policy)) return policy;
  throw new ImgtxError(
    "E_USAGE",
    "there is no --keep option, or all of them keep nothing: no snapshot would stay",
    {
      hint: "say what is to be kept: `imgtx prune --keep-daily 7 --keep-weekly 5 --dry-run`",
    },
  );
}

function readKeep(input: CommandInput, flag: string): number {
  const text = input.text(flag);
  return text === "unlimited" ? Infinity : (input.count(flag, 0) ?? 0);
}
