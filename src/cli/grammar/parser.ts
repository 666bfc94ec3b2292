// From the words of a command line to a CommandInput and Settings, with commander as the grammar.
//
// Invariant: commander prints nothing and ends nothing. What it objects to becomes an ImgtxError with
// E_USAGE, whose hint carries its suggestion.

import { Command as Commander, CommanderError, Option } from "commander";
import { ImgtxError } from "../../errors/index.ts";
import type { CliContext } from "../context.ts";
import { readSettings, type Settings, WAIT_FOR_GOOD } from "./settings.ts";
import { GROUPS } from "./command-groups.ts";
import { optionFlag, type CommandDefinition, type CommandRow, type OptionDefinition } from "./definition.ts";
import { GLOBAL_OPTIONS, globalOptionsBeside } from "./global-options.ts";
import { CommandInput, type ParsedValue } from "./input.ts";

export interface Parsed {
  readonly input: CommandInput;
  readonly settings: Settings;
}

/** Parses a whole command line for the command that locateCommand found. */
export function parseCommandLine(
  argv: readonly string[],
  row: CommandRow,
  definition: CommandDefinition,
  context: Pick<CliContext, "cwd" | "env">,
): Parsed {
  const { words, after } = splitAtDashes(argv, definition, row.path);
  const globals = globalOptionsBeside(definition.options);
  const named = optionsNamed(words, [...globals, ...definition.options]);
  const root = quietCommander("imgtx");
  addOptions(root, globals.filter(named));
  let parent = root;
  for (const word of row.path.slice(0, -1)) {
    const group = quietCommander(word);
    parent.addCommand(group);
    parent = group;
  }
  const leaf = makeLeaf(row.path.at(-1) ?? "", definition, definition.options.filter(named));
  parent.addCommand(leaf);
  parseWith(root, closeWait(words), row.path, looseWaitHint(argv));
  const settings = readSettings(readOptions(root, GLOBAL_OPTIONS), context);
  return { input: readInput(leaf, definition, context.cwd, settings.givenAllowPaths, after), settings };
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
  throw new ImgtxError("E_USAGE", `after '--' there is no ${place.name}`, { hint: helpHint(path) });
}

/** Parses options of every command alone: what stands before `img`. */
export function parseGlobalOptions(
  argv: readonly string[],
  context: Pick<CliContext, "cwd" | "env">,
): Settings {
  const root = quietCommander("imgtx").action(() => undefined);
  addOptions(root, GLOBAL_OPTIONS);
  parseWith(root, closeWait(argv), ["img"]);
  return readSettings(readOptions(root, GLOBAL_OPTIONS), context);
}

/** Parses the words after a verb, without global options: a line of a batch. */
export function parseLine(
  words: readonly string[],
  row: CommandRow,
  definition: CommandDefinition,
  cwd: string,
): CommandInput {
  const split = splitAtDashes(words, definition, row.path);
  const options = definition.options.filter(optionsNamed(split.words, definition.options));
  const leaf = makeLeaf(row.path.join(" "), definition, options);
  parseWith(leaf, split.words, row.path);
  return readInput(leaf, definition, cwd, [], split.after);
}

/** Throws the usage error for a command line whose verb is not known, with the nearest one as a hint. */
export function refuseUnknownCommand(
  argv: readonly string[],
  path: readonly string[],
  rows: readonly CommandRow[],
): never {
  const root = quietCommander("imgtx");
  addOptions(root, GLOBAL_OPTIONS);
  for (const group of GROUPS) root.addCommand(quietCommander(group.name));
  for (const row of rows) {
    const [first, second] = row.path;
    const parent = second === undefined ? root : root.commands.find((each) => each.name() === first);
    const stub = quietCommander(second ?? first ?? "");
    parent?.addCommand(stub, { hidden: row.section === "hidden" });
  }
  parseWith(root, closeWait(argv), path, looseWaitHint(argv) ?? otherWordHint(argv, path, rows));
  throw new ImgtxError("E_USAGE", "no command given", { hint: helpHint(path) });
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
  const root = quietCommander("imgtx");
  for (const verb of verbs) root.addCommand(quietCommander(verb));
  parseWith(root, [word], []);
  throw isNoAction(word);
}

export function isNoAction(words: string, hint?: string): ImgtxError {
  return new ImgtxError("E_USAGE", `'${words}' is no action`, hint === undefined ? {} : { hint });
}

function quietCommander(name: string): Commander {
  return new Commander(name)
    .exitOverride()
    .helpOption(false)
    .helpCommand(false)
    .configureOutput({ writeOut: () => undefined, writeErr: () => undefined });
}

/**
 * Which of the options the words may name: making one takes longer than all else here. All of them where a word names
 * none, since the nearest is suggested then, or several at once.
 */
function optionsNamed(
  words: readonly string[],
  options: readonly OptionDefinition[],
): (option: OptionDefinition) => boolean {
  const named = new Set<OptionDefinition>();
  for (const word of words) {
    if (!word.startsWith("-") || word === "-") continue;
    const name = word.startsWith("--") ? word.slice(2).split("=", 1)[0] : word.slice(1);
    const found = options.filter(({ long, short }) => name === (word.startsWith("--") ? long : short));
    if (found.length === 0) return () => true;
    for (const option of found) named.add(option);
  }
  return (option) => named.has(option);
}

function makeLeaf(
  name: string,
  definition: CommandDefinition,
  options: readonly OptionDefinition[],
): Commander {
  const leaf = quietCommander(name).action(() => undefined);
  for (const argument of definition.arguments) {
    if (argument.afterDashes) continue;
    const dots = argument.variadic ? "..." : "";
    leaf.argument(
      argument.optional ? `[${argument.name}${dots}]` : `<${argument.name}${dots}>`,
      argument.about,
    );
  }
  addOptions(leaf, options);
  return leaf;
}

function addOptions(command: Commander, definitions: readonly OptionDefinition[]): void {
  for (const definition of definitions) {
    const option = made.get(definition) ?? makeOption(definition);
    made.set(definition, option);
    command.addOption(option);
  }
}

/** What a command line says is kept by its commands, and never by an option: a batch makes each once for all of its lines. */
const made = new WeakMap<OptionDefinition, Option>();

function makeOption(definition: OptionDefinition): Option {
  const names = [
    ...(definition.short === undefined ? [] : [`-${definition.short}`]),
    ...(definition.long === undefined ? [] : [`--${definition.long}`]),
  ].join(", ");
  const { value } = definition;
  if (value === undefined) return new Option(names, definition.about);
  const option = new Option(
    `${names} ${value.optional ? `[${value.name}]` : `<${value.name}>`}`,
    definition.about,
  );
  if (value.choices) option.choices(value.choices);
  if (definition.repeatable) {
    option.argParser((text: string, before: readonly string[] | undefined) => [...(before ?? []), text]);
  }
  return option;
}

function parseWith(
  command: Commander,
  argv: readonly string[],
  path: readonly string[],
  excessHint?: string,
): void {
  try {
    command.parse(argv, { from: "user" });
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    const isOneTooMany = EXCESS_CODES.has(error.code);
    throw usageError(error, path, isOneTooMany ? excessHint : undefined);
  }
}

/** Before the verb the word after `--wait` is taken for it. */
const EXCESS_CODES: ReadonlySet<string> = new Set(["commander.excessArguments", "commander.unknownCommand"]);

function usageError(
  error: CommanderError,
  path: readonly string[],
  knownHint: string | undefined,
): ImgtxError {
  // A command line that ends where a command should come: commander asks for the help, and has no words for it.
  const text = error.code === "commander.help" ? "no command given" : error.message.replace(/^error: /, "");
  const suggestion = /\n\(Did you mean (.+)\?\)$/s.exec(text);
  const message = suggestion ? text.slice(0, suggestion.index) : text;
  // A verb of a group is suggested with the group in front, ready to be typed.
  const words = error.code === "commander.unknownCommand" ? [...path, suggestion?.[1]] : [suggestion?.[1]];
  const hint = knownHint ?? (suggestion ? `did you mean ${words.join(" ")}?` : helpHint(path));
  return new ImgtxError("E_USAGE", message, { hint, cause: error });
}

function helpHint(path: readonly string[]): string {
  return `see \`${["imgtx", ...path, "--help"].join(" ")}\``;
}

function closeWait(argv: readonly string[]): readonly string[] {
  const end = argv.includes("--") ? argv.indexOf("--") : argv.length;
  return argv.map((word, index) => (word === "--wait" && index < end ? `--wait=${WAIT_FOR_GOOD}` : word));
}

/** For `--wait 10`, where 10 is no value but one argument too many. */
function looseWaitHint(argv: readonly string[]): string | undefined {
  const seconds = argv[argv.indexOf("--wait") + 1] ?? "";
  const isLoose = argv.includes("--wait") && /^\d+(\.\d+)?$/.test(seconds);
  return isLoose ? `say --wait=${seconds}` : undefined;
}

function readInput(
  leaf: Commander,
  definition: CommandDefinition,
  cwd: string,
  allowPaths: readonly string[],
  after: ReadonlyMap<string, ParsedValue>,
): CommandInput {
  const values = new Map([...readOptions(leaf, definition.options), ...after]);
  for (const [index, argument] of definition.arguments.entries()) {
    const value: unknown = leaf.processedArgs[index];
    if (isParsedValue(value)) values.set(argument.name, value);
  }
  return new CommandInput(values, cwd, allowPaths);
}

function readOptions(
  command: Commander,
  definitions: readonly OptionDefinition[],
): ReadonlyMap<string, ParsedValue> {
  const values = new Map<string, ParsedValue>();
  for (const definition of definitions) {
    const option = command.options.find(
      ({ long, short }) =>
        (definition.long !== undefined && long === `--${definition.long}`) ||
        (definition.short !== undefined && short === `-${definition.short}`),
    );
    if (option === undefined) continue;
    const value: unknown = command.getOptionValue(option.attributeName());
    if (option.negate) values.set(optionFlag(definition), value === false);
    else if (isParsedValue(value)) values.set(optionFlag(definition), value);
  }
  return values;
}

function isParsedValue(value: unknown): value is ParsedValue {
  return typeof value === "string" || typeof value === "boolean" || Array.isArray(value);
}
