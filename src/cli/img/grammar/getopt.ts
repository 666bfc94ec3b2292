// qemu-img's own grammar, which is that of getopt_long: short options in clusters and with their value in
// the same word or the next, long ones with `=` or the next word and abbreviated as far as they stay unique,
// options after operands, and `--` to end them.
//
// Invariant: the words of a complaint are qemu-img's, its quirk included of naming the word before a cluster
// whose inner letter it does not know. Scripts match them.

import type { OptionDefinition } from "../../grammar/definition.ts";
import { optionFlag } from "../../grammar/definition.ts";
import { allowDevicesOption } from "../../grammar/allow-devices.ts";
import { allowPathOption } from "../../grammar/allow-path.ts";
import { grammarError, type MessageForm, usageError } from "./messages.ts";
import { qemuVersionOption } from "./qemu-version.ts";

/** imgtx's alone. */
export const OWN_OPTIONS: readonly OptionDefinition[] = [
  allowPathOption,
  allowDevicesOption,
  qemuVersionOption,
];

/** An option as it was given, in order. */
interface GivenOption {
  /** As optionFlag has it: `--output`, or `-f` for one without a long name. */
  readonly flag: string;
  readonly value: string | undefined;
}

export interface ParsedWords {
  readonly options: readonly GivenOption[];
  readonly operands: readonly string[];
}

interface Reading {
  readonly words: readonly string[];
  readonly speaker: Speaker;
  readonly definitions: readonly OptionDefinition[];
  readonly options: GivenOption[];
}

/** What stands before the first word, as qemu-img's own `argv[0]`, and whose complaints are made. */
type Speaker = Pick<MessageForm, "program" | "verb" | "qemuVersion">;

interface Rules {
  /** As `+` does, for options before a verb. */
  readonly stopsAtOperand?: boolean;
  /** The last word is one, where it does not ask for help. */
  readonly endsInOperand?: boolean;
}

/** E_USAGE for what getopt_long refuses. */
export function parseWords(
  words: readonly string[],
  definitions: readonly OptionDefinition[],
  speaker: Speaker,
  { stopsAtOperand = false, endsInOperand = false }: Rules = {},
): ParsedWords {
  if (endsInOperand) {
    const last = words.at(-1);
    // Its place was taken before any option was read.
    if (speaker.qemuVersion < 10 && words.length < 2 && last !== "--help" && last !== "-h") {
      throw usageError("Not enough arguments");
    }
    // Newer versions take options after the size, too.
    if (last !== undefined && isNoOption(last, speaker)) {
      const { options, operands } = parseWords(words.slice(0, -1), definitions, speaker);
      return { options, operands: [...operands, last] };
    }
  }
  const reading: Reading = { words, speaker, definitions, options: [] };
  const operands: string[] = [];
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] ?? "";
    if (word === "--")
      return { options: reading.options, operands: [...operands, ...words.slice(index + 1)] };
    if (word === "-" || !word.startsWith("-") || (endsInOperand && /^-\d/.test(word))) {
      if (stopsAtOperand) return { options: reading.options, operands: words.slice(index) };
      operands.push(word);
      continue;
    }
    index += word.startsWith("--") ? readLong(reading, index) : readCluster(reading, index);
  }
  return { options: reading.options, operands };
}

function isNoOption(word: string, { qemuVersion }: Speaker): boolean {
  if (qemuVersion < 10) return !word.startsWith("--") && word !== "-h";
  return /^-\d/.test(word);
}

/** Returns how many words after this one it took. */
function readLong(reading: Reading, index: number): number {
  const { words, options } = reading;
  const word = words[index] ?? "";
  const equals = word.indexOf("=");
  const { definition, name } = findLong(reading, word, equals === -1 ? undefined : equals);
  const flag = optionFlag(definition);
  if (definition.value === undefined) {
    if (equals !== -1) throw refuse(reading, word, `option '--${name}' doesn't allow an argument`);
    options.push({ flag, value: undefined });
    return 0;
  }
  const value = equals === -1 ? words[index + 1] : word.slice(equals + 1);
  if (value === undefined) throw missingValue(reading, word, `option '--${name}' requires an argument`);
  options.push({ flag, value });
  return equals === -1 ? 1 : 0;
}

/**
 * A name, or the beginning of exactly one: of those that have always been there, then of all. Options that qemu-img
 * does not have are not shortened: they must not make a name ambiguous.
 */
function findLong(
  reading: Reading,
  word: string,
  end: number | undefined,
): { readonly definition: OptionDefinition; readonly name: string } {
  const given = word.slice(2, end);
  const all = reading.definitions.flatMap((definition) =>
    [definition.long ?? "", ...(definition.newer ?? [])].flatMap((name, place) =>
      name.length > 1 ? [{ definition, name, isOld: place === 0 }] : [],
    ),
  );
  const exact = all.find(({ name }) => name === given);
  if (exact !== undefined) return exact;
  const begun = all.filter(
    ({ name, definition }) => name.startsWith(given) && !OWN_OPTIONS.includes(definition),
  );
  for (const some of [begun.filter(({ isOld }) => isOld), begun]) {
    const [only] = some;
    if (only !== undefined && some.every(({ definition }) => definition === only.definition)) return only;
  }
  const possible = begun.map(({ name }) => `'--${name}'`).join(" ");
  throw refuse(
    reading,
    word,
    begun.length === 0
      ? `unrecognized option '${word}'`
      : `option '${word}' is ambiguous; possibilities: ${possible}`,
  );
}

function readCluster(reading: Reading, index: number): number {
  const { words, options, speaker } = reading;
  const word = words[index] ?? "";
  for (let at = 1; at < word.length; at += 1) {
    const letter = word[at] ?? "";
    const definition = reading.definitions.find(
      ({ short, newer }) => short === letter || newer?.includes(letter),
    );
    const isLast = at === word.length - 1;
    if (definition === undefined) {
      const named = isLast ? word : (words[index - 1] ?? speaker.verb ?? speaker.program);
      throw refuse(reading, named, `invalid option -- '${letter}'`);
    }
    const flag = optionFlag(definition);
    if (definition.value === undefined) {
      options.push({ flag, value: undefined });
      continue;
    }
    if (!isLast) {
      options.push({ flag, value: word.slice(at + 1) });
      return 0;
    }
    const value = words[index + 1];
    if (value === undefined) throw missingValue(reading, word, `option requires an argument -- '${letter}'`);
    options.push({ flag, value });
    return 1;
  }
  return 0;
}

/** Newer versions leave the words to getopt_long. */
function refuse({ speaker }: Reading, word: string, newer: string): Error {
  return grammarError(speaker.qemuVersion < 10 ? `unrecognized option '${word}'` : newer);
}

function missingValue({ speaker }: Reading, word: string, newer: string): Error {
  return grammarError(speaker.qemuVersion < 10 ? `missing argument for option '${word}'` : newer);
}
