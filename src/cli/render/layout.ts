// Paragraphs and tables for terminals of any width. Texts come in plain and are painted afterwards, or
// cell by cell: the width of a painted text can't be told from its length.

import stringWidth from "string-width";
import type { Canvas } from "./canvas.ts";

/**
 * Most texts are, of ASCII, letters of Latin-1 and its extensions, and the marks that imgtx draws itself: what measures others
 * is loaded for the first of those (see build.ts), which takes 15 to 25 ms.
 */
const PLAIN = /^[ -~\u00A1-\u00AC\u00AE-\u02FF→…·×─├└│✗●○◇░▒▓█]*$/;

/** In columns of a terminal: wide characters take two, and marks that combine none. */
export function widthOf(text: string): number {
  return PLAIN.test(text) ? text.length : stringWidth(text);
}

/** `7f3k2m9qa1 (nightly)`: by what imgtx calls it, and what somebody has named it. */
export function withName(id: string | number, name: string | null): string {
  return name === null ? String(id) : `${id} (${name})`;
}

function pad(text: string, width: number): string {
  return text + " ".repeat(Math.max(0, width - widthOf(text)));
}

/** Breaks at spaces. A word longer than the width stands alone and sticks out: cutting it would lie. */
export function wrap(text: string, width: number): string[] {
  return wrapWords(text.split(" "), width);
}

/** The same for words that are split already, and may have spaces in them. */
export function wrapWords(words: readonly string[], width: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of words) {
    if (line !== "" && widthOf(line) + 1 + widthOf(word) > width) {
      lines.push(line);
      line = word;
    } else {
      line = line === "" ? word : `${line} ${word}`;
    }
  }
  return [...lines, line];
}

/** One line where it fits; else broken between words, and what goes on below is indented. */
export function fold(
  words: readonly string[],
  { columns }: Pick<Canvas, "columns">,
  spaces: number,
): string[] {
  const whole = words.join(" ");
  if (columns === undefined || widthOf(whole) <= columns) return [whole];
  const [first = "", ...rest] = wrapWords(words, columns - spaces);
  return [first, ...indent(rest, spaces)];
}

/** The same of words that begin with a label, indented or not, which is painted; and so is what follows it, where that is said. */
export function foldLabelled(
  words: readonly string[],
  label: string,
  canvas: Pick<Canvas, "columns">,
  how: {
    readonly spaces: number;
    readonly paintLabel: (label: string) => string;
    readonly paint?: (text: string) => string;
  },
): string[] {
  const { spaces, paintLabel, paint = (text) => text } = how;
  const [first = "", ...rest] = fold(words, canvas, spaces);
  const start = first.indexOf(label);
  const after = first.slice(start + label.length);
  const gap = after.length - after.trimStart().length;
  const head = `${first.slice(0, start)}${paintLabel(label)}${after.slice(0, gap)}`;
  return [`${head}${paint(after.slice(gap))}`, ...rest.map((line) => paint(line))];
}

/**
 * Words of prose, which joined are what it was. What stands in backticks or quotes stays whole, to be copied, and so do
 * these paths, which may have spaces in them and stand there without quotes.
 */
export function wordsOf(prose: string, paths: readonly string[] = []): string[] {
  const spaced = paths.filter((path) => path.includes(" ")).toSorted((a, b) => b.length - a.length);
  const whole = spaced.map((path) => `${path.replaceAll(/[.*+?^${}()|[\]\\/]/g, String.raw`\$&`)}|`).join("");
  const word = new RegExp(` *(?:${whole}\`[^\`]*\`|(?<=^|[ (])'[^']*'(?=$|[ ,.:;)])|[^ ])+`, "gu");
  const words = prose.match(word) ?? [];
  return words.map((one, index) => (index === 0 ? one : one.slice(1)));
}

export function indent(lines: readonly string[], spaces: number): string[] {
  return lines.map((line) => (line === "" ? "" : " ".repeat(spaces) + line));
}

export interface Entry {
  readonly term: string;
  readonly about: string;
}

/** Terms on the left and what they mean on the right, or below where the terminal is narrow. */
export function definitionList(entries: readonly Entry[], width: number): string[] {
  const longest = Math.max(0, ...entries.map(({ term }) => term.length));
  const beside = longest + 2 <= width / 2;
  const column = beside ? longest + 2 : Math.min(6, Math.floor(width / 4));
  return entries.flatMap(({ term, about }) => {
    const body = wrap(about, Math.max(12, width - column));
    if (!beside) return [...wrap(term, width), ...indent(body, column)];
    const [first = "", ...rest] = body;
    return [term.padEnd(column) + first, ...indent(rest, column)];
  });
}

/** Columns under headings; one record a paragraph where the terminal is too narrow for the table. */
export function table(
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  canvas: Canvas,
): string[] {
  const widths = headings.map((heading, column) =>
    Math.max(heading.length, ...rows.map((row) => widthOf(row[column] ?? ""))),
  );
  const total = widths.reduce((sum, width) => sum + width + 2, -2);
  if (canvas.columns !== undefined && total > canvas.columns) return records(headings, rows, canvas);
  const line = (cells: readonly string[]): string =>
    cells
      .map((cell, column) => pad(cell, widths[column] ?? 0))
      .join("  ")
      .trimEnd();
  return [canvas.paint.dim(line(headings)), ...rows.map(line)];
}

function records(
  headings: readonly string[],
  rows: readonly (readonly string[])[],
  { paint }: Canvas,
): string[] {
  return rows.flatMap(([first = "", ...rest], row) => [
    ...(row === 0 ? [] : [""]),
    paint.bold(first),
    ...rest.flatMap((cell, index) =>
      cell === "" ? [] : [`  ${paint.dim(`${(headings[index + 1] ?? "").toLowerCase()}:`)} ${cell}`],
    ),
  ]);
}

/** `3 days`, `5 h`, `12 min` */
export function drawAge(milliseconds: number): string {
  const minutes = Math.max(0, Math.floor(milliseconds / 60_000));
  if (minutes < 60) return `${minutes} min`;
  return minutes < 48 * 60 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 60 / 24)} days`;
}
