// Finds the verb on a command line without a parser, so that only that command is loaded, and help and
// version are answered before anything is. Full parsing comes afterwards and has the last word.

import { findGroup } from "./command-groups.ts";
import { type CommandRow, findRow, optionFlag } from "./definition.ts";
import { GLOBAL_OPTIONS } from "./global-options.ts";

export interface Located<Row extends CommandRow> {
  /** The words that lead to a command or a group; empty where the first one is unknown. */
  readonly path: readonly string[];
  /** Undefined where the words lead to a group only, or nowhere. */
  readonly row: Row | undefined;
  /** Whether nothing that could be a verb, or a verb of the group, was given. */
  readonly bare: boolean;
  readonly wantsHelp: boolean;
  readonly wantsVersion: boolean;
  /** Whether errors are to be printed as JSON, known before parsing so that usage errors are too. */
  readonly wantsJson: boolean;
  readonly wantsVerbose: boolean;
  readonly refusesColor: boolean;
}

export function locateCommand<Row extends CommandRow>(
  argv: readonly string[],
  rows: readonly Row[],
): Located<Row> {
  const options = beforeDoubleDash(argv);
  const path = findPath(argv, rows);
  return {
    path: path.words,
    row: path.words.length === 0 ? undefined : findRow(rows, path.words),
    bare: path.bare,
    wantsHelp: options.includes("--help") || options.includes("-h"),
    wantsVersion: options.includes("--version") || options.includes("-V"),
    wantsJson: lastOutput(options) === "json",
    wantsVerbose: options.includes("--verbose") || options.includes("-v"),
    refusesColor: options.includes("--no-color"),
  };
}

function beforeDoubleDash(argv: readonly string[]): readonly string[] {
  const end = argv.indexOf("--");
  return end === -1 ? argv : argv.slice(0, end);
}

function findPath(
  argv: readonly string[],
  rows: readonly CommandRow[],
): { words: readonly string[]; bare: boolean } {
  const words: string[] = [];
  for (let index = 0; index < argv.length; index += 1) {
    const token = argv[index] ?? "";
    if (token === "--") break;
    if (token.startsWith("-") && token.length > 1) {
      const option = GLOBAL_OPTIONS.find((each) => optionFlag(each) === token);
      if (option?.value !== undefined && option.value.optional === undefined) index += 1;
      // An option of a command stands after its verb: there is no verb to find any more.
      else if (!isGlobal(token)) return { words, bare: false };
      continue;
    }
    const extended = [...words, token];
    if (findRow(rows, extended)) return { words: extended, bare: false };
    if (words.length > 0 || !findGroup(token)) return { words, bare: false };
    words.push(token);
  }
  return { words, bare: true };
}

function isGlobal(token: string): boolean {
  if (!token.startsWith("--")) {
    const letters = token.slice(1).split("");
    return letters.every((letter) => GLOBAL_OPTIONS.some(({ short }) => short === letter));
  }
  const name = token.slice(2).split("=")[0];
  return GLOBAL_OPTIONS.some(({ long }) => long === name);
}

function lastOutput(options: readonly string[]): string | undefined {
  let output: string | undefined;
  for (const [index, token] of options.entries()) {
    if (token === "--json") output = "json";
    else if (token === "--output") output = options[index + 1];
    else if (token.startsWith("--output=")) output = token.slice("--output=".length);
  }
  return output;
}
