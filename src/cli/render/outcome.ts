// What a command did, prepared, or would do: a line an action, then the chains of the devices.
//
// Paths are absolute, as in the history and in JSON: a result is read in a log or a mail of cron's, and pasted elsewhere.
// `imgtx tree`, which is looked at where one is, shortens them.

import { type ActionKind, type ActionReport, type Outcome, traitsOf } from "../../transaction/index.ts";
import type { Canvas } from "./canvas.ts";
import { drawChains } from "./chain.ts";
import { sayTime } from "../../units/index.ts";
import { fold, foldLabelled, widthOf, withName, wordsOf } from "./layout.ts";

/** `undone` is for what took a transaction, or a part of one, back; `undoing` for a dry run of that. */
export type Tense = "done" | "prepared" | "planned" | "undone" | "undoing";

/** Undone is a noun and its participle: "snapshot undone" would be one, and "snapshot would be undone" will be. */
function say(kind: ActionKind, tense: Tense): string {
  const { noun, done, planned } = traitsOf(kind).saying;
  const words = { done, prepared: `${noun} prepared`, planned, undone: `${noun} undone` };
  return tense === "undoing" ? `${noun} would be undone` : words[tense];
}

export function tenseOf(outcome: Outcome): Tense {
  if (outcome.dryRun) return "planned";
  return outcome.pending ? "prepared" : "done";
}

/** More devices than this are a line each, without their chains: `imgtx tree` draws those. */
const DRAWN_WHOLE = 4;

export function drawOutcome(outcome: Outcome, canvas: Canvas, tense: Tense, closing: string): string[] {
  if (outcome.devices.length > DRAWN_WHOLE)
    return [...drawMany(outcome, canvas, tense), "", ...fold(wordsOf(closing), canvas, 2)];
  const actions =
    tense === "undone" || tense === "undoing"
      ? drawUndone(outcome.actions, canvas, tense)
      : outcome.actions.flatMap((action) => drawAction(action, canvas, tense));
  const chains = drawChains(outcome.devices, canvas);
  return [
    ...actions,
    ...(chains.length > 0 ? ["", ...chains, ""] : []),
    ...fold(wordsOf(closing), canvas, 2),
  ];
}

/** The last line of an action's result. */
export function closingOf(outcome: Outcome): string {
  if (outcome.applied !== undefined) {
    return `Already applied at ${sayTime(outcome.applied)}, as generation ${outcome.generation}: nothing was done.`;
  }
  const joined = outcome.joined && sayJoined(outcome.transaction, outcome.joined);
  if (outcome.dryRun) {
    return joined ? `Dry run in ${joined}: nothing was changed.` : "Dry run: nothing was changed.";
  }
  if (joined) {
    return `Prepared in ${joined}; \`imgtx txn commit ${outcome.transaction}\` makes it take effect.`;
  }
  if (!outcome.changed) return "Nothing to change.";
  const [taken] = outcome.snapshots.toReversed();
  return taken
    ? `Generation ${outcome.generation}, snapshot ${withName(taken.number, taken.name)}: \`imgtx rollback --to ${taken.number}\` goes back to it.`
    : `Generation ${outcome.generation}${sayWayBack(outcome)}.`;
}

/** How the step is taken back, where one command does that for all of its actions, or none for any. */
function sayWayBack({ actions }: Outcome): string {
  const [way, ...others] = new Set(actions.map(({ kind }) => traitsOf(kind).takenBackBy));
  if (way === undefined || others.length > 0) return "";
  if (way === "nothing") return "; nothing takes it back";
  const names = [...new Set(actions.flatMap(({ device }) => device ?? []))];
  return `: \`imgtx ${way.replace("DEVICES", names.join(" "))}\` takes it back`;
}

/** What stays done, as a clause, where the result can't be written; undefined: nothing. */
export function standingOf({
  dryRun,
  changed,
  pending,
  transaction,
  generation,
}: Outcome): string | undefined {
  if (dryRun) return undefined;
  if (pending) return `it is prepared in transaction ${transaction}`;
  return changed ? `generation ${generation} is committed and durable` : undefined;
}

/** `transaction 7f3k2m9qa1 (nightly), begun 2026-11-27 04:10:02Z`: nobody is to be in one without knowing it. */
function sayJoined(id: string | null, { name, started }: NonNullable<Outcome["joined"]>): string {
  return `${withName(`transaction ${id}`, name)}, begun ${sayTime(started)}`;
}

export function drawAction(action: ActionReport, canvas: Canvas, tense: Tense): string[] {
  const { paint } = canvas;
  const head = action.device === null ? action.kind : action.device;
  const [what = "", ...move] = sayMove(action, tense);
  return [
    ...foldLabelled([`${head}: ${what}`, ...move], head, canvas, { spaces: 4, paintLabel: paint.bold }),
    ...action.notes.flatMap((note) => drawNote(`  note: ${note}`, pathsOf([action]), canvas)),
  ];
}

function drawNote(text: string, paths: readonly string[], canvas: Canvas): string[] {
  const how = { spaces: 4, paintLabel: canvas.paint.yellow };
  return foldLabelled(wordsOf(text, paths), "note:", canvas, how);
}

function pathsOf(actions: readonly ActionReport[]): string[] {
  return actions.flatMap(({ before, after, files }) => [
    ...[before, after].flatMap((path) => path ?? []),
    ...files.map(({ path }) => path),
  ]);
}

/**
 * Newest first, as they were undone. A device stays at what it was before its first action: what lay
 * between has gone, and so has what the notes said of it.
 */
function drawUndone(actions: readonly ActionReport[], canvas: Canvas, tense: "undone" | "undoing"): string[] {
  const lines = actions.map((action, index) => {
    const isFirst = actions.findIndex(({ device }) => device === action.device) === index;
    return drawAction({ ...action, before: isFirst ? action.before : null, notes: [] }, canvas, tense);
  });
  return lines.toReversed().flat();
}

/** A table without headings; what is to be known of each is told below. */
function drawMany({ actions }: Outcome, canvas: Canvas, tense: Tense): string[] {
  const { paint } = canvas;
  const isTakenBack = tense === "undone" || tense === "undoing";
  const rows = (isTakenBack ? actions.toReversed() : actions).map((action) => [
    action.device ?? action.kind,
    say(action.kind, tense),
    (isTakenBack ? action.before : (copyOf(action)?.path ?? action.after ?? action.before)) ?? "",
  ]);
  const widths = [0, 1].map((column) => Math.max(...rows.map((row) => widthOf(row[column] ?? ""))));
  const lines = rows.map(([name = "", what = "", path = ""]) => {
    const gaps = [name, what].map((cell, column) => " ".repeat((widths[column] ?? 0) - widthOf(cell) + 2));
    return `${paint.bold(name)}${gaps[0]}${what}${gaps[1]}${path}`.trimEnd();
  });
  const paths = pathsOf(actions);
  const notes = (isTakenBack ? [] : foldNotes(actions, tense)).flatMap((note) =>
    drawNote(`note: ${note}`, paths, canvas),
  );
  return notes.length === 0 ? lines : [...lines, "", ...notes];
}

/**
 * What is said of more devices than that, but for names, paths, times and sizes, is said of the first, and of how many more. A dry
 * run tells all.
 */
function foldNotes(actions: Outcome["actions"], tense: Tense): string[] {
  const alike = new Map<string, string[]>();
  for (const { device, kind, notes } of actions) {
    for (const note of notes) {
      const shape = note.replaceAll(/'[^']*'|\/\S+|\d[\d.]* (?:[KMGTPE]i?B|B|bytes)\b|\d\d:\d\d:\d\d/g, "_");
      const told = `${device ?? kind}: ${note}`;
      const others = alike.get(shape);
      if (others) others.push(told);
      else alike.set(shape, [told]);
    }
  }
  return [...alike.values()].flatMap((told) => {
    const [first = "", ...others] = told;
    return tense !== "planned" && told.length > DRAWN_WHOLE
      ? `${first} (and so of ${others.length} more; --json has all)`
      : told;
  });
}

/** `snapshot taken: /b, was /a`, in the parts between which it may be broken: a path stays whole, to be copied. */
function sayMove(action: ActionReport, tense: Tense): string[] {
  const said = say(action.kind, tense);
  const { before, after } = action;
  const isTakenBack = tense === "undone" || tense === "undoing";
  const copy = copyOf(action);
  if (copy && !isTakenBack) return [`${said}:`, `${after}`, `to ${copy.path}`];
  if (isTakenBack) return before === null ? [said] : [`${said},`, `stays ${before}`];
  if (after === null) return before === null ? [said] : [`${said},`, `was ${before}`];
  return before === null || before === after
    ? [`${said}:`, after]
    : [`${said}:`, `${after},`, `was ${before}`];
}

/** The file that gets the device's content, where the device itself stays what it is. What is moved is no copy of it. */
function copyOf({ kind, before, after, files }: ActionReport): ActionReport["files"][number] | undefined {
  if (before === null || before !== after) return undefined;
  // What only changes a mirror as it changes its device, such as a resize, copies nothing into it.
  if (traitsOf(kind).renewal?.isMove !== false) return undefined;
  if (files.some(({ change }) => change === "merge" || change === "remove")) return undefined;
  // Nor is what changes along with the device's own image: its data file, or its mirror, of another size.
  if (files.some(({ path, change }) => path === after && change === "change")) return undefined;
  return files.find(({ path, change }) => path !== after && (change === "create" || change === "change"));
}
