// The definitions of all commands, gathered for a shell: what is offered where.

import { GROUPS } from "../grammar/command-groups.ts";
import {
  type ArgumentDefinition,
  type CommandRow,
  type Completes,
  type OptionDefinition,
  spellings,
} from "../grammar/definition.ts";
import { GLOBAL_OPTIONS } from "../grammar/global-options.ts";

export interface CommandModel {
  /** The words of its path: `txn begin`. */
  readonly name: string;
  readonly summary: string;
  readonly arguments: readonly ArgumentDefinition[];
  readonly options: readonly OptionDefinition[];
  /** Whether the options of every command are its own too: after `img` the grammar is qemu-img's. */
  readonly takesGlobals: boolean;
}

export interface GroupModel {
  readonly name: string;
  readonly summary: string;
  readonly verbs: readonly { readonly name: string; readonly summary: string }[];
}

export interface CompletionModel {
  /** Verbs of the top level: commands and groups. */
  readonly verbs: readonly { readonly name: string; readonly summary: string }[];
  readonly groups: readonly GroupModel[];
  readonly commands: readonly CommandModel[];
  readonly globals: readonly OptionDefinition[];
}

export async function buildModel(table: readonly CommandRow[]): Promise<CompletionModel> {
  const rows = table.filter(({ section }) => section !== "hidden");
  const commands = await Promise.all(
    rows.map(async (row) => {
      const { definition } = await row.load();
      return {
        name: row.path.join(" "),
        summary: row.summary,
        arguments: definition.arguments,
        options: definition.options,
        takesGlobals: row.path[0] !== "img",
      };
    }),
  );
  const groups = GROUPS.map(({ name }) => ({
    name,
    summary: rows
      .filter(({ path }) => path[0] === name)
      .map(({ path }) => path[1])
      .join(", "),
    verbs: rows
      .filter(({ path }) => path[0] === name)
      .map(({ path, summary }) => ({ name: path[1] ?? "", summary })),
  }));
  const single = rows
    .filter(({ path }) => path.length === 1)
    .map(({ path, summary }) => ({ name: path[0] ?? "", summary }));
  return {
    verbs: [...single, ...groups.map(({ name, summary }) => ({ name, summary }))],
    groups,
    commands,
    globals: GLOBAL_OPTIONS,
  };
}

/** What may come after `help`, and after each word there that more can come after. */
export function listHelpWords({
  verbs,
  groups,
}: CompletionModel): [after: string, names: readonly string[]][] {
  return [{ name: "help", verbs }, ...groups].map(({ name, verbs: all }) => [
    name,
    all.map((verb) => verb.name),
  ]);
}

/** Whether the word after the option is its value. */
export function takesNextWord({ value }: OptionDefinition): boolean {
  return value !== undefined && value.optional === undefined;
}

/** Spellings of options, of all commands, whose value is the word after them, and which never stand alone. */
export function optionsWithNextWord({ commands, globals }: CompletionModel): string[] {
  const options = [...globals, ...commands.flatMap((command) => command.options)];
  const alone = new Set(options.filter((option) => !takesNextWord(option)).flatMap(spellings));
  const taking = new Set(options.filter(takesNextWord).flatMap(spellings));
  return [...taking].filter((name) => !alone.has(name));
}

export function isWordList(completes: Completes): completes is readonly string[] {
  return typeof completes !== "string";
}
