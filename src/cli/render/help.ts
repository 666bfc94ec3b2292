// Help, drawn from the definitions: what a command does, its arguments and options, examples, and its
// exit statuses. At most 80 columns, and fewer on a narrow terminal.

import { type GroupRow, SECTIONS } from "../grammar/command-groups.ts";
import {
  type CommandDefinition,
  type CommandRow,
  type Example,
  type OptionDefinition,
  spellings,
} from "../grammar/definition.ts";
import { EXIT_MEANINGS } from "../grammar/exit-status.ts";
import { GLOBAL_OPTIONS } from "../grammar/global-options.ts";
import type { Canvas } from "./canvas.ts";
import { definitionList, indent, wrap, wrapWords, type Entry } from "./layout.ts";

const WIDEST = 80;
const NARROWEST = 24;

const ABOUT =
  "imgtx changes disk images (qcow2, raw, backing chains) directly on disk, several disks at a time, " +
  "all or nothing: after a crash or a power cut every disk is wholly before or wholly after.";

const FIRST_STEPS: readonly Example[] = [
  { command: "imgtx device add vda disk.qcow2", about: "give an image a name; makes a workspace here" },
  { command: "imgtx snapshot-group --all --name before-upgrade", about: "keep what all devices are now" },
  { command: "imgtx tree", about: "draw the chains" },
  { command: "imgtx rollback --to before-upgrade", about: "go back" },
];

/** `short` leaves out what is not about commands: for a command line without one. */
export function drawRootHelp(rows: readonly CommandRow[], canvas: Canvas, short: boolean): string[] {
  const width = widthOf(canvas);
  const sections = SECTIONS.map((section) => ({
    heading: section,
    body: commandList(
      rows.filter((row) => row.section === section),
      width - 2,
    ),
  }));
  return [
    ...wrap(ABOUT, width),
    "",
    ...wrapUsage("imgtx COMMAND [ARGUMENTS] [OPTIONS]", width),
    ...sections.flatMap(({ heading, body }) => block(heading, body, canvas)),
    ...(short
      ? []
      : [
          ...block("Options of every command", optionList(GLOBAL_OPTIONS, width - 2), canvas),
          ...block("First steps", exampleList(FIRST_STEPS, width - 2), canvas),
        ]),
    "",
    ...wrap(
      short
        ? "`imgtx --help` explains more, `imgtx help COMMAND` a command."
        : "`imgtx help COMMAND` explains a command, `man imgtx` the rest.",
      width,
    ),
  ];
}

export function drawGroupHelp(group: GroupRow, all: readonly CommandRow[], canvas: Canvas): string[] {
  const width = widthOf(canvas);
  const rows = all.filter(({ path, section }) => path[0] === group.name && section !== "hidden");
  return [
    ...wrapUsage(`imgtx ${group.name} COMMAND [ARGUMENTS] [OPTIONS]`, width),
    "",
    ...wrap(group.about, width),
    ...block("Commands", commandList(rows, width - 2), canvas),
    "",
    ...wrap(`\`imgtx help ${group.name} COMMAND\` explains a command.`, width),
  ];
}

export function drawCommandHelp(row: CommandRow, definition: CommandDefinition, canvas: Canvas): string[] {
  const width = widthOf(canvas);
  const inner = width - 2;
  const globals = GLOBAL_OPTIONS.map(({ long }) => `--${long}`).join(", ");
  return [
    ...wrapUsage(usageOf(row, definition), width),
    "",
    ...wrap(definition.about, width),
    ...block(
      "Arguments",
      definitionList(
        definition.arguments.map(({ name, about }) => ({ term: name, about })),
        inner,
      ),
      canvas,
    ),
    ...block("Options", optionList(definition.options, inner), canvas),
    ...block("Examples", exampleList(definition.examples, inner), canvas),
    ...block("Exit status", exitList(definition, inner), canvas),
    // After `img` the grammar is qemu-img's, which has none of them.
    ...(row.path[0] === "img"
      ? []
      : ["", ...wrap(`Options of every command (see \`imgtx --help\`): ${globals}.`, width)]),
  ];
}

function usageOf(row: CommandRow, definition: CommandDefinition): string {
  const last = definition.arguments.filter(({ afterDashes }) => afterDashes);
  const after = last.map(({ name }) => `[-- ${name} ...]`);
  const plain = definition.arguments.filter((argument) => !last.includes(argument));
  const places = plain.map(({ name, optional, variadic }) => {
    const dots = variadic ? " ..." : "";
    return optional ? `[${name}${dots}]` : `${name}${dots}`;
  });
  const options = definition.options.length > 0 ? ["[OPTIONS]"] : [];
  const order =
    row.path.join(" ") === "txn exec" ? [...options, "--", ...places] : [...places, ...options, ...after];
  return ["imgtx", ...row.path, ...order].join(" ");
}

/** `-q, --quiet`, `--format FORMAT`, `--wait[=SECONDS]` */
export function optionTerm(option: OptionDefinition): string {
  const { value } = option;
  const names = spellings(option).join(", ");
  if (value === undefined) return names;
  return value.optional ? `${names}[=${value.name}]` : `${names} ${value.name}`;
}

function widthOf({ columns }: Canvas): number {
  return Math.max(NARROWEST, Math.min(WIDEST, columns ?? WIDEST));
}

function wrapUsage(usage: string, width: number): string[] {
  const [first = "", ...rest] = wrap(`Usage: ${usage}`, width);
  return [first, ...indent(rest, 2)];
}

function block(heading: string, body: readonly string[], { paint }: Canvas): string[] {
  return body.length === 0 ? [] : ["", paint.bold(heading), ...indent(body, 2)];
}

function commandList(rows: readonly CommandRow[], width: number): string[] {
  const entries: Entry[] = rows.map(({ path, summary }) => ({ term: path.join(" "), about: summary }));
  return definitionList(entries, width);
}

function optionList(options: readonly OptionDefinition[], width: number): string[] {
  return definitionList(
    options.map((option) => ({ term: optionTerm(option), about: option.about })),
    width,
  );
}

function exampleList(examples: readonly Example[], width: number): string[] {
  return examples.flatMap(({ command, about }) => [
    ...wrapCommand(command, width),
    ...indent(wrap(about, width - 4), 4),
  ]);
}

/** A command that goes over the line is continued with a backslash, so that it can be pasted. */
function wrapCommand(command: string, width: number): string[] {
  return command.split("\n").flatMap((line) => {
    const parts = wrapWords(line.match(/(?:'[^']*'|"[^"]*"|\S)+/g) ?? [], width - 4);
    return parts.map((part, index) => {
      const start = index === 0 ? part : `  ${part}`;
      return index === parts.length - 1 ? start : `${start} \\`;
    });
  });
}

function exitList(definition: CommandDefinition, width: number): string[] {
  const entries = definition.exits.map((status) => ({
    term: String(status),
    about: definition.exitMeanings?.[status] ?? EXIT_MEANINGS[status] ?? "",
  }));
  const note = definition.exitNote === undefined ? [] : wrap(definition.exitNote, width);
  return [...definitionList(entries, width), ...note];
}
