// What a command is, as data: the parser, the help, the completions and the test of the man pages all
// read the same definitions. How a command runs is a function beside its definition
// (running/command.ts).

import type { ActionRequest } from "../../transaction/index.ts";
import type { Section } from "./command-groups.ts";
import type { CommandInput } from "./input.ts";

/** What a shell offers at this place; a list is the words themselves. */
export type Completes =
  | "device"
  | "device-file"
  | "file"
  | "folder"
  | "transaction"
  | "snapshot"
  | "command"
  | "nothing"
  | readonly string[];

export interface ArgumentDefinition {
  /** In capitals, as it is printed: `FILE`. */
  readonly name: string;
  readonly about: string;
  readonly optional?: true;
  readonly variadic?: true;
  /** All that stands after `--`, and nothing else. The last argument, and variadic. */
  readonly afterDashes?: true;
  readonly completes: Completes;
}

export interface OptionDefinition {
  /** Without dashes. One of long and short is there. */
  readonly long?: string;
  readonly short?: string;
  readonly value?: {
    readonly name: string;
    readonly completes: Completes;
    /** Only these; others are usage errors. */
    readonly choices?: readonly string[];
    /** Given as `--name=VALUE` or left out. */
    readonly optional?: true;
  };
  readonly repeatable?: true;
  /** Of `imgtx img`: how newer versions of qemu-img spell it as well, without dashes; a letter is a short one. */
  readonly newer?: readonly string[];
  readonly about: string;
}

export interface Example {
  readonly command: string;
  readonly about: string;
}

export interface CommandDefinition {
  readonly arguments: readonly ArgumentDefinition[];
  readonly options: readonly OptionDefinition[];
  /** One paragraph: what it does. */
  readonly about: string;
  readonly examples: readonly Example[];
  /** Exit statuses that this command ends with, of the table in exit-status.ts. */
  readonly exits: readonly number[];
  /** What is special about this command's exit status, after the table. */
  readonly exitNote?: string;
  /** What statuses mean where that table does not say it: those of `imgtx img` are qemu-img's. */
  readonly exitMeanings?: Readonly<Record<number, string>>;
}

/** An action's words: those of a command line, and of a line of `txn run`. */
export interface ActionWords {
  readonly kind: "action";
  readonly definition: CommandDefinition;
  /** Makes the workspace here when there is none. Default: false. */
  readonly createsWorkspace?: boolean;
  /** Throws E_USAGE for values that the grammar alone can't refuse. */
  request(input: CommandInput): ActionRequest;
}

/** A command, as far as its words go. */
type CommandWords = ActionWords | { readonly kind: "plain" | "img"; readonly definition: CommandDefinition };

/** A command, as it is found and listed, before it is loaded. */
export interface CommandRow {
  /** `["txn", "begin"]` */
  readonly path: readonly string[];
  readonly summary: string;
  /** Under which heading `imgtx --help` lists it; hidden commands have none. */
  readonly section: Section | "hidden";
  readonly load: () => Promise<CommandWords>;
}

export function findRow<Row extends CommandRow>(
  rows: readonly Row[],
  path: readonly string[],
): Row | undefined {
  const wanted = path.join(" ");
  return rows.find((row) => row.path.join(" ") === wanted);
}

/** Every spelling of an option: `-q`, `--quiet`. */
export function spellings({ short, long, newer = [] }: OptionDefinition): string[] {
  const dashed = (name: string): string => (name.length === 1 ? `-${name}` : `--${name}`);
  return [short, long, ...newer].flatMap((name) => (name === undefined ? [] : [dashed(name)]));
}

export function optionFlag(option: OptionDefinition): string {
  return option.long === undefined ? `-${option.short}` : `--${option.long}`;
}
