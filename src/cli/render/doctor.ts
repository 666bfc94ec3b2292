// What doctor found, worst first: of each the file, what is wrong, and the command that mends it on a line of its own, never
// broken, so that it can be pasted.

import { posix } from "node:path";
import { shellQuote } from "../../format/index.ts";
import type { Examination, Finding, Weight } from "../../transaction/index.ts";
import type { Canvas } from "./canvas.ts";
import { withSchema } from "./json.ts";
import { indent, wrap } from "./layout.ts";

export interface Fixed extends Pick<Finding, "code" | "path" | "text"> {
  /** Null: it was fixed, or would be. */
  readonly why: string | null;
}

type Told = Omit<Finding, "mend"> & { readonly isFixable: boolean };

export interface Diagnosis extends Omit<Examination, "findings"> {
  readonly findings: readonly Told[];
  readonly fixed: readonly Fixed[];
  readonly isDryRun: boolean;
  readonly currentFolder: string;
  /** Disks of a domain that were not looked at, a clause each. */
  readonly elsewhere: readonly string[];
  /** As they were given. */
  readonly words: readonly string[];
  /** The findings alone. */
  readonly isBrief: boolean;
}

/** Worst first. */
export const LEVELS: readonly Weight[] = ["error", "warning", "note"];

export function drawDiagnosis(diagnosis: Diagnosis, canvas: Canvas): string[] {
  const { findings, isBrief } = diagnosis;
  const weights = [...new Set(findings.map(({ weight }) => weight))];
  const groups = weights.map((weight) => drawGroup(weight, diagnosis, canvas));
  const parts = [drawFixed(diagnosis, canvas), ...groups, ...(isBrief ? [] : [drawEnd(diagnosis, canvas)])];
  return parts
    .filter((part) => part.length > 0)
    .flatMap((part, index) => (index === 0 ? part : ["", ...part]));
}

function drawGroup(weight: Weight, { findings, currentFolder }: Diagnosis, canvas: Canvas): string[] {
  const { paint } = canvas;
  const group = findings.filter((one) => one.weight === weight);
  const colour = ({ error: "red", warning: "yellow", note: "cyan" } as const)[weight];
  return [
    paint.bold(paint[colour](say(group.length, weight))),
    ...group.flatMap(({ path, code, text, command }) => [
      `${paint.bold(near(path, currentFolder))}  ${paint.dim(code)}`,
      ...paragraph(text, canvas),
      ...(command === null ? [] : [`  ${paint.green(`$ ${command}`)}`]),
    ]),
  ];
}

function drawFixed({ fixed, isDryRun, currentFolder }: Diagnosis, canvas: Canvas): string[] {
  const done = isDryRun ? "would fix" : "fixed";
  return fixed.flatMap(({ path, code, why }) => {
    const head = `${why === null ? done : "not fixed"}: ${near(path, currentFolder)} (${code})`;
    return why === null ? [head] : [head, ...paragraph(why, canvas)];
  });
}

function drawEnd(
  { findings, opened, judged, left, elsewhere, checked, fixed, words }: Diagnosis,
  canvas: Canvas,
): string[] {
  const fixable = findings.filter(({ isFixable }) => isFixable).length;
  const counts = LEVELS.flatMap((weight) => {
    const count = findings.filter((one) => one.weight === weight).length;
    return count === 0 ? [] : [say(count, weight)];
  });
  const what = `${judged} ${judged === 1 ? "image" : "images"}, of ${opened} ${opened === 1 ? "file" : "files"}`;
  const read = checked ? "all metadata was read" : "headers were read, and no refcounts: --check reads those";
  const lines = [`${counts.length === 0 ? "Sound" : counts.join(", ")}: ${what}; ${read}.`];
  for (const line of elsewhere) lines.push(`Not looked at: ${line}.`);
  for (const line of left) lines.push(`Not looked at: ${line}; --max-files N looks at more.`);
  const body = lines.flatMap((line) => wrap(line, canvas.columns ?? Infinity));
  if (fixable === 0 || fixed.length > 0) return body;
  const targets = words.map((word) => ` ${shellQuote(word)}`).join("");
  return [
    ...body,
    `${fixable} of these can be fixed at once:`,
    `  $ imgtx doctor${checked ? " --check" : ""} --fix${targets}`,
  ];
}

function say(count: number, weight: Weight): string {
  return `${count} ${weight}${count === 1 ? "" : "s"}`;
}

function paragraph(text: string, { columns }: Canvas): string[] {
  return indent(wrap(text, Math.max(12, (columns ?? Infinity) - 2)), 2);
}

/** The shorter one. */
function near(path: string, currentFolder: string): string {
  const relative = posix.relative(currentFolder, path) || ".";
  return relative.length < path.length ? relative : path;
}

export function diagnosisJson({
  root,
  findings,
  opened,
  judged,
  left,
  elsewhere,
  checked,
  fixed,
  isDryRun,
}: Diagnosis): object {
  return withSchema({
    workspace: root,
    findings: findings.map(({ code, weight, path, device, text, offset, sizeBytes, command, isFixable }) => ({
      code,
      level: weight,
      path,
      device,
      text,
      offset,
      "allocated-size": sizeBytes,
      command,
      fixable: isFixable,
    })),
    "dry-run": isDryRun,
    fixed: fixed.filter(({ why }) => why === null).map(({ code, path, text }) => ({ code, path, text })),
    "not-fixed": fixed.flatMap(({ code, path, text, why }) =>
      why === null ? [] : [{ code, path, text, why }],
    ),
    files: opened,
    images: judged,
    checked,
    left: [...left, ...elsewhere],
  });
}
