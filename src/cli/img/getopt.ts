// qemu-img's own grammar, which is that of getopt_long: short options in clusters and with their value in
// the same word or the next, long ones with `=` or the next word and abbreviated as far as they stay unique,
// options after operands, and `--` to end them.
//
// Invariant: the words of a complaint are qemu-img's, its quirk included of naming the word before a cluster
// whose inner letter it does not know. Scripts match them.

import type { OptionDefinition } from "../grammar/definition.ts";
import { optionFlag } from "../grammar/definition.ts";
import { usageError } from "./messages.ts";

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
  /** What stands before the first word: qemu-img's own `argv[0]`. */
  readonly name: string;
  readonly definitions: readonly OptionDefinition[];
  readonly options: GivenOption[];
}

interface Rules {
  /** As `+` does, for options before a verb. */
  readonly stopsAtOperand?: boolean;
  /** The last word is one, where it does not ask for help. */
  readonly endsInOperand?: boolean;
}

/** E_USAGE for what getopt_long refuses. */
export function parseWords(
  given: readonly string[],
  definitions: readonly OptionDefinition[],
  name: string,
  { stopsAtOperand = false, endsInOperand = false }: Rules = {},
): ParsedWords {
  const last = given.at(-1);
  // Its place is taken before any option is read.
  if (endsInOperand && given.length < 2 && last !== "--help" && last !== "-h") {
    throw usageError("Not enough arguments");
  }
  // Newer versions take options after the size, too.
  if (endsInOperand && last !== undefined && !last.startsWith("--") && last !== "-h") {
    const { options, operands } = parseWords(given.slice(0, -1), definitions, name);
    return { options, operands: [...operands, last] };
  }
  const words = given;
  const reading: Reading = { words, name, definitions, options: [] };
  const operands: string[] = [];
  for (let index = 0; index < words.length; index += 1) {
    const word = words[index] ?? "";
    if (word === "--")
      return { options: reading.options, operands: [...operands, ...words.slice(index + 1)] };
    if (word === "-" || !word.startsWith("-")) {
      if (stopsAtOperand) return { options: reading.options, operands: words.slice(index) };
      operands.push(word);
      continue;
    }
    index += word.startsWith("--") ? readLong(reading, index) : readCluster(reading, index);
  }
  return { options: reading.options, operands };
}

/** Returns how many words after this one it took. */
function readLong(reading: Reading, index: number): number {
  const word = reading.words[index] ?? "";
  const equals = word.indexOf("=");
  const name = word.slice(2, equals === -1 ? undefined : equals);
  const definition = findLong(reading.definitions, name);
  if (definition === undefined) throw unrecognized(word);
  if (definition.value === undefined) {
    if (equals !== -1) throw unrecognized(word);
    reading.options.push({ flag: optionFlag(definition), value: undefined });
    return 0;
  }
  const value = equals === -1 ? reading.words[index + 1] : word.slice(equals + 1);
  if (value === undefined) throw missingValue(word);
  reading.options.push({ flag: optionFlag(definition), value });
  return equals === -1 ? 1 : 0;
}

/** A name, or the beginning of exactly one: of those that have always been there, then of all. */
function findLong(definitions: readonly OptionDefinition[], name: string): OptionDefinition | undefined {
  const namesOf = ({ long, newer = [] }: OptionDefinition): string[] =>
    [long ?? "", ...newer].filter((each) => each.length > 1);
  const exact = definitions.find((definition) => namesOf(definition).includes(name));
  if (exact !== undefined) return exact;
  const old = definitions.filter(({ long }) => long?.startsWith(name));
  const all = definitions.filter((definition) => namesOf(definition).some((each) => each.startsWith(name)));
  return [old, all].find(({ length }) => length === 1)?.[0];
}

function readCluster(reading: Reading, index: number): number {
  const word = reading.words[index] ?? "";
  for (let at = 1; at < word.length; at += 1) {
    const letter = word[at] ?? "";
    const definition = reading.definitions.find(
      ({ short, newer }) => short === letter || newer?.includes(letter),
    );
    const isLast = at === word.length - 1;
    if (definition === undefined) {
      throw unrecognized(isLast ? word : (reading.words[index - 1] ?? reading.name));
    }
    const flag = optionFlag(definition);
    if (definition.value === undefined) {
      reading.options.push({ flag, value: undefined });
      continue;
    }
    if (!isLast) {
      reading.options.push({ flag, value: word.slice(at + 1) });
      return 0;
    }
    const value = reading.words[index + 1];
    if (value === undefined) throw missingValue(word);
    reading.options.push({ flag, value });
    return 1;
  }
  return 0;
}

function unrecognized(word: string): Error {
  return usageError(`unrecognized option '${word}'`);
}

function missingValue(word: string): Error {
  return usageError(`missing argument for option '${word}'`);
}
