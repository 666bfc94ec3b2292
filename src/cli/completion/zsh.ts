// Completion for zsh: an `_arguments` specification for each command.

import { type Completes, type OptionDefinition, spellings } from "../grammar/definition.ts";
import {
  isWordList,
  listHelpWords,
  type CommandModel,
  type CompletionModel,
  type GroupModel,
} from "./model.ts";

const FUNCTIONS = `
_imgtx_devices() {
  local -a names
  names=(\${(f)"$(command imgtx \${opt_args[--workspace]:+--workspace=\${opt_args[--workspace]}} device list --quiet 2>/dev/null)"})
  compadd "$@" -a names
}

_imgtx_device_files() {
  if compset -P '*='; then _files; else _imgtx_devices -S =; fi
}

_imgtx_transactions() {
  local -a ids
  ids=(\${(f)"$(command imgtx \${opt_args[--workspace]:+--workspace=\${opt_args[--workspace]}} txn list --quiet 2>/dev/null)"})
  compadd "$@" -a ids
}

_imgtx_snapshots() {
  local -a names
  names=(\${(f)"$(command imgtx \${opt_args[--workspace]:+--workspace=\${opt_args[--workspace]}} snapshot-list -n 100 --quiet 2>/dev/null)"})
  compadd "$@" -V snapshots -a names
}
`;

export function writeZsh(model: CompletionModel): string {
  return [
    "#compdef imgtx",
    "# Completion of imgtx for zsh. Written by `imgtx completion zsh`.",
    FUNCTIONS.trimEnd(),
    "",
    ...writeCommandWords(model),
    "",
    "_imgtx_globals=(",
    ...model.globals.flatMap(optionSpecs).map((spec) => `  ${spec}`),
    ")",
    ...model.commands.flatMap(writeCommand),
    ...model.groups.flatMap((group) => writeDispatch(functionName(group.name), group)),
    ...writeDispatch("_imgtx", { name: "", summary: "", verbs: model.verbs }),
    "",
    // Sourced it only defines; as an autoloaded function file it is to complete as well.
    'if [[ $zsh_eval_context[-1] == loadautofunc ]]; then _imgtx "$@"; else compdef _imgtx imgtx; fi',
    "",
  ].join("\n");
}

function writeCommandWords(model: CompletionModel): string[] {
  return [
    "_imgtx_commands() {",
    "  local -a names",
    "  case $words[CURRENT-1] in",
    ...listHelpWords(model).map(([after, names]) => `    ${after}) names=(${names.join(" ")}) ;;`),
    "  esac",
    '  compadd "$@" -a names',
    "}",
  ];
}

function writeCommand(command: CommandModel): string[] {
  const places = command.arguments.map((argument, index) => {
    const position = argument.variadic ? "*" : `${index + 1}`;
    const optional = argument.optional && !argument.variadic ? ":" : "";
    const message = escapeSpec(argument.name);
    return quote(`${position}:${optional}${message}:${action(argument.completes)}`);
  });
  const specs = [...command.options.flatMap(optionSpecs), ...places];
  const globals = command.takesGlobals ? " $_imgtx_globals" : "";
  return [
    "",
    `${functionName(command.name)}() {`,
    `  _arguments -s :${globals}${specs.map((spec) => ` \\\n    ${spec}`).join("")}`,
    "}",
  ];
}

function writeDispatch(name: string, group: GroupModel): string[] {
  return [
    "",
    `${name}() {`,
    "  local state line",
    "  local -a verbs",
    "  typeset -A opt_args",
    "  _arguments -C -s : $_imgtx_globals '1:command:->verb' '*::argument:->rest'",
    "  case $state in",
    "    verb)",
    "      verbs=(",
    ...group.verbs.map((verb) => `        ${quote(`${verb.name}:${verb.summary}`)}`),
    "      )",
    "      _describe -t commands command verbs",
    "      ;;",
    "    rest)",
    "      case $line[1] in",
    ...group.verbs.map((verb) => {
      const path = group.name === "" ? verb.name : `${group.name} ${verb.name}`;
      return `        ${verb.name}) ${functionName(path)} ;;`;
    }),
    "      esac",
    "      ;;",
    "  esac",
    "}",
  ];
}

function optionSpecs(option: OptionDefinition): string[] {
  const names = spellings(option);
  const { value } = option;
  return names.map((name) => {
    const exclusion = option.repeatable ? "*" : names.length > 1 ? `(${names.join(" ")})` : "";
    const about = `[${escapeSpec(option.about)}]`;
    if (value === undefined) return quote(`${exclusion}${name}${about}`);
    const sign = valueSign(name, value.optional === true);
    const message = `${value.optional ? ":" : ""}:${escapeSpec(value.name)}:${action(value.completes)}`;
    return quote(`${exclusion}${name}${sign}${about}${message}`);
  });
}

/** `=` is a value after an equals sign or as the next word, `=-` after an equals sign only. */
function valueSign(name: string, optional: boolean): string {
  if (!name.startsWith("--")) return "+";
  return optional ? "=-" : "=";
}

function action(completes: Completes): string {
  if (isWordList(completes)) return `(${completes.map(escapeSpec).join(" ")})`;
  const actions = {
    device: "_imgtx_devices",
    "device-file": "_imgtx_device_files",
    transaction: "_imgtx_transactions",
    snapshot: "_imgtx_snapshots",
    command: "_imgtx_commands",
    file: "_files",
    folder: "_files -/",
    nothing: " ",
  } as const;
  return actions[completes];
}

function functionName(path: string): string {
  return `_imgtx_cmd_${path.replaceAll(/[ -]/g, "_")}`;
}

function escapeSpec(text: string): string {
  return text.replaceAll(/[\\:[\]]/g, String.raw`\$&`);
}

function quote(text: string): string {
  return `'${text.replaceAll("'", String.raw`'\''`)}'`;
}
