// Sorts the words of a command line into arguments and options, one level of the grammar after the other: the options of
// every command, wherever they stand, and then in what is left the command's own.
//
// - `--name VALUE`, `--name=VALUE`, `-n VALUE`, `-nVALUE`, and letters without a value together: `-qv`.
// - After an option that a level does not have all that is not its own is left to the next.
// - After `--` there are arguments alone.

import { ImgtxError } from "../../errors/index.ts";
import { optionFlag, type OptionDefinition } from "./definition.ts";
import type { ParsedValue } from "./input.ts";

export interface SortedWords {
  readonly operands: readonly string[];
  /** From the first option on that this level does not have. */
  readonly rest: readonly string[];
  /** By each option's flag; of one that was given without its value, true. */
  readonly values: ReadonlyMap<string, ParsedValue>;
}

/** A level of the grammar. */
export interface Level {
  readonly options: readonly OptionDefinition[];
  /** Of the command, for hints. */
  readonly path: readonly string[];
  /** Where no other one follows, a negative number is an argument. */
  readonly isLast: boolean;
}

const NEGATIVE_NUMBER = /^-(\d+|\d*\.\d+)(e[+-]?\d+)?$/;

export function sortWords(words: readonly string[], level: Level): SortedWords {
  const operands: string[] = [];
  const rest: string[] = [];
  const values = new Map<string, ParsedValue>();
  const left = [...words];
  for (let word = left.shift(); word !== undefined; word = left.shift()) {
    if (word === "--") {
      if (rest.length > 0) rest.push("--", ...left);
      else operands.push(...left);
      break;
    }
    const found = isOption(word) ? findOption(word, level.options) : undefined;
    if (found) {
      if (found.letters !== undefined) left.unshift(found.letters);
      keep(values, found.option, readValue(found, left, level.path));
    } else if (rest.length > 0 || (isOption(word) && !(level.isLast && NEGATIVE_NUMBER.test(word)))) {
      rest.push(word);
    } else {
      operands.push(word);
    }
  }
  return { operands, rest, values };
}

export function usageError(
  message: string,
  path: readonly string[],
  hint = `see \`${["imgtx", ...path, "--help"].join(" ")}\``,
): ImgtxError {
  return new ImgtxError("E_USAGE", message, { hint });
}

function isOption(word: string): boolean {
  return word.length > 1 && word.startsWith("-");
}

interface FoundOption {
  readonly option: OptionDefinition;
  /** The value that stands in the same word. */
  readonly value?: string;
  /** The other letters of the same word, as one of their own. */
  readonly letters?: string;
}

function findOption(word: string, options: readonly OptionDefinition[]): FoundOption | undefined {
  if (!word.startsWith("--")) {
    const option = options.find(({ short }) => short === word[1]);
    if (option === undefined || word.length === 2) return option && { option };
    return option.value ? { option, value: word.slice(2) } : { option, letters: `-${word.slice(2)}` };
  }
  const at = word.indexOf("=");
  const name = at === -1 ? word.slice(2) : word.slice(2, at);
  const option = options.find(({ long }) => long === name);
  if (option === undefined || at === -1) return option && { option };
  return option.value && { option, value: word.slice(at + 1) };
}

function readValue(
  { option, value: given }: FoundOption,
  left: string[],
  path: readonly string[],
): string | true {
  const { value } = option;
  if (value === undefined) return true;
  const text = given ?? (value.optional ? true : left.shift());
  if (text === undefined) throw usageError(`option '${formOf(option)}' argument missing`, path);
  if (value.choices && text !== true && !value.choices.includes(text)) {
    const allowed = `Allowed choices are ${value.choices.join(", ")}.`;
    throw usageError(`option '${formOf(option)}' argument '${text}' is invalid. ${allowed}`, path);
  }
  return text;
}

/** As errors name it: `-n, --name <NAME>`. */
function formOf({ short, long, value }: OptionDefinition): string {
  const names = [...(short === undefined ? [] : [`-${short}`]), ...(long === undefined ? [] : [`--${long}`])];
  return `${names.join(", ")}${value ? ` <${value.name}>` : ""}`;
}

function keep(values: Map<string, ParsedValue>, option: OptionDefinition, value: string | true): void {
  const flag = optionFlag(option);
  const before = values.get(flag);
  if (!option.repeatable || value === true) values.set(flag, value);
  else values.set(flag, [...(typeof before === "object" ? before : []), value]);
}
