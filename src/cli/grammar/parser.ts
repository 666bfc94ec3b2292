// From the words of a command line to a CommandInput and Settings, by the definitions of the commands.
//
// Invariant: what is wrong with the words is an ImgtxError with E_USAGE, whose hint has the nearest that is right.

import { ImgtxError } from "../../errors/index.ts";
import type { CliContext } from "../context.ts";
import { readSettings, type Settings } from "./settings.ts";
import { GROUPS } from "./command-groups.ts";
import type { CommandDefinition, CommandRow, OptionDefinition } from "./definition.ts";
import { GLOBAL_OPTIONS, globalOptionsBeside } from "./global-options.ts";
import { CommandInput, type ParsedValue } from "./input.ts";
import { suggestNearest } from "./nearest.ts";
import { sortWords, usageError } from "./words.ts";

export interface Parsed {
  readonly input: CommandInput;
  readonly settings: Settings;
}

/** Parses a whole command line for the command that locateCommand found. */
export function parseCommandLine(
  argv: readonly string[],
  { path }: CommandRow,
  definition: CommandDefinition,
  context: Pick<CliContext, "cwd" | "env">,
): Parsed {
  const { words, after } = splitAtDashes(argv, definition, path);
  const globals = globalOptionsBeside(definition.options);
  const outer = sortWords(words, { options: globals, path, isLast: false });
  // An option of the command's own before its verb.
  if (outer.operands.length < path.length) refuseOptions(outer.rest, globals, path);
  const own = sortWords(outer.rest, { options: definition.options, path, isLast: true });
  refuseOptions(own.rest, [...definition.options, ...globals], path);
  const operands = [...outer.operands.slice(path.length), ...own.operands];
  const places = placeArguments(operands, definition, path, {
    whose: ` for '${path.at(-1)}'`,
    hint: looseWaitHint(argv),
  });
  const settings = readSettings(outer.values, context);
  const values = new Map([...own.values, ...places, ...after]);
  return { input: new CommandInput(values, context.cwd, settings.givenAllowPaths), settings };
}

/** What stands after `--` goes to the argument that is made for it, and never through the grammar. */
function splitAtDashes(
  argv: readonly string[],
  { arguments: places }: CommandDefinition,
  path: readonly string[],
): { words: readonly string[]; after: ReadonlyMap<string, ParsedValue> } {
  const place = places.find(({ afterDashes }) => afterDashes);
  const at = argv.indexOf("--");
  if (place === undefined || at === -1) return { words: argv, after: new Map() };
  const words = argv.slice(at + 1);
  if (words.length > 0) return { words: argv.slice(0, at), after: new Map([[place.name, words]]) };
  throw usageError(`after '--' there is no ${place.name}`, path);
}

/** Parses options of every command alone: what stands before `img`. */
export function parseGlobalOptions(
  argv: readonly string[],
  context: Pick<CliContext, "cwd" | "env">,
): Settings {
  const path = ["img"];
  const { operands, rest, values } = sortWords(argv, { options: GLOBAL_OPTIONS, path, isLast: true });
  refuseOptions(rest, GLOBAL_OPTIONS, path);
  if (operands.length > 0) throw tooMany(0, operands.length, path, {});
  return readSettings(values, context);
}

/** Parses the words after a verb, without global options: a line of a batch. */
export function parseLine(
  words: readonly string[],
  { path }: CommandRow,
  definition: CommandDefinition,
  cwd: string,
): CommandInput {
  const split = splitAtDashes(words, definition, path);
  const { options } = definition;
  const { operands, rest, values } = sortWords(split.words, { options, path, isLast: true });
  refuseOptions(rest, options, path);
  const places = placeArguments(operands, definition, path, {});
  return new CommandInput(new Map([...values, ...places, ...split.after]), cwd, []);
}

/** Throws the usage error for a command line whose verb is not known, with the nearest one as a hint. */
export function refuseUnknownCommand(
  argv: readonly string[],
  path: readonly string[],
  rows: readonly CommandRow[],
): never {
  const { operands, rest } = sortWords(argv, { options: GLOBAL_OPTIONS, path, isLast: false });
  const word = operands[path.length];
  if (word === undefined) refuseOptions(rest, GLOBAL_OPTIONS, path);
  const shown = rows.filter(({ section }) => section !== "hidden").map((row) => row.path);
  const verbs =
    path.length > 0
      ? shown.flatMap(([group, verb]) => (group === path[0] && verb !== undefined ? [verb] : []))
      : [...GROUPS.map(({ name }) => name), ...shown.flatMap(([verb = "", next]) => (next ? [] : [verb]))];
  if (word === undefined || verbs.includes(word)) throw usageError("no command given", path);
  throw unknownCommand(word, verbs, path, looseWaitHint(argv) ?? otherWordHint(argv, path, rows));
}

/** A verb of a group is suggested with the group in front, ready to be typed. */
function unknownCommand(
  word: string,
  verbs: readonly string[],
  path: readonly string[],
  hint?: string,
): ImgtxError {
  const nearest = suggestNearest(word, verbs);
  const words = nearest === undefined ? undefined : `did you mean ${[...path, nearest].join(" ")}?`;
  return usageError(`unknown command '${word}'`, path, hint ?? words);
}

/** For a first word that other tools have, or that is the verb of groups: those commands. */
function otherWordHint(
  argv: readonly string[],
  path: readonly string[],
  all: readonly CommandRow[],
): string | undefined {
  const word = argv.find((one) => !one.startsWith("-")) ?? "";
  if (path.length > 0 || word === "") return undefined;
  const known = OTHER_WORDS.get(word);
  const rows = all.filter(({ path: words, section }) => section !== "hidden" && isVerb(word, words));
  const names =
    known ?? rows.map(({ path: words }) => words.join(" ")).toSorted((a, b) => a.length - b.length);
  return names.length === 0 ? undefined : `did you mean ${names.join(", or ")}?`;
}

/** `list` of `device list` and of `snapshot-list`. */
function isVerb(word: string, [first = "", second]: readonly string[]): boolean {
  return second === undefined ? first.endsWith(`-${word}`) : second === word;
}

const OTHER_WORDS: ReadonlyMap<string, readonly string[]> = new Map([
  ["restore", ["rollback"]],
  ["revert", ["rollback"]],
  ["ls", ["device list", "snapshot-list"]],
  ["snapshots", ["snapshot-list"]],
  ["rm", ["device remove", "snapshot-delete"]],
  ["clone", ["mirror", "img convert"]],
  ["copy", ["mirror", "img convert"]],
  ["backup", ["mirror", "snapshot-group"]],
  ["verify", ["status --check", "mirror --verify", "doctor"]],
  ["log", ["history"]],
]);

/** As above for the first word of a batch's line. */
export function refuseUnknownVerb(word: string, verbs: readonly string[]): never {
  throw verbs.includes(word) ? isNoAction(word) : unknownCommand(word, verbs, []);
}

export function isNoAction(words: string, hint?: string): ImgtxError {
  return new ImgtxError("E_USAGE", `'${words}' is no action`, hint === undefined ? {} : { hint });
}

/** Throws the usage error for the first of the words, which is an option that is not known. */
function refuseOptions(
  [word]: readonly string[],
  options: readonly OptionDefinition[],
  path: readonly string[],
): void {
  if (word === undefined) return;
  const flags = options.flatMap(({ long }) => (long === undefined ? [] : [`--${long}`]));
  const nearest = word.startsWith("--") ? suggestNearest(word, flags) : undefined;
  const hint = nearest === undefined ? undefined : `did you mean ${nearest}?`;
  throw usageError(`unknown option '${word}'`, path, hint);
}

interface TooManyWords {
  readonly whose?: string;
  readonly hint?: string | undefined;
}

function tooMany(
  expected: number,
  got: number,
  path: readonly string[],
  { whose = "", hint }: TooManyWords,
): ImgtxError {
  const words = `Expected ${expected} argument${expected === 1 ? "" : "s"} but got ${got}.`;
  return usageError(`too many arguments${whose}. ${words}`, path, hint);
}

/** Each argument by its name. */
function placeArguments(
  operands: readonly string[],
  definition: CommandDefinition,
  path: readonly string[],
  words: TooManyWords,
): ReadonlyMap<string, ParsedValue> {
  const places = definition.arguments.filter(({ afterDashes }) => !afterDashes);
  const missing = places.find(({ optional }, index) => !optional && operands[index] === undefined);
  if (missing) throw usageError(`missing required argument '${missing.name}'`, path);
  const isOpen = places.at(-1)?.variadic === true;
  if (!isOpen && operands.length > places.length) {
    throw tooMany(places.length, operands.length, path, words);
  }
  return new Map(
    places.flatMap(({ name, variadic }, index): [string, ParsedValue][] => {
      if (variadic) return [[name, operands.slice(index)]];
      const value = operands[index];
      return value === undefined ? [] : [[name, value]];
    }),
  );
}

/** For `--wait 10`, where 10 is no value but one argument too many. */
function looseWaitHint(argv: readonly string[]): string | undefined {
  const seconds = argv[argv.indexOf("--wait") + 1] ?? "";
  const isLoose = argv.includes("--wait") && /^\d+(\.\d+)?$/.test(seconds);
  return isLoose ? `say --wait=${seconds}` : undefined;
}
