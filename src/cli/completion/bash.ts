// Completion for bash (4.1 or newer), without the bash-completion package.
//
// Names of devices come from outside. They are compared and offered, never expanded: `compgen -W` would
// run a `$(…)` in them.

import {
  type ArgumentDefinition,
  type Completes,
  type OptionDefinition,
  spellings,
} from "../grammar/definition.ts";
import { isWordList, listHelpWords, takesNextWord, type CompletionModel } from "./model.ts";

const FUNCTIONS = `
_imgtx_offer() {
  local line
  while IFS= read -r line; do
    if [[ $line == "$1"* ]]; then
      printf -v line '%q' "$line"
      COMPREPLY+=("$line$2")
    fi
  done
}

_imgtx_ask() {
  local -a where=()
  if [[ -n $_imgtx_workspace ]]; then where=(--workspace "$_imgtx_workspace"); fi
  command imgtx "\${where[@]}" "$@" --quiet 2>/dev/null
}

_imgtx_complete() {
  local kind=$1 cur=$2
  case $kind in
    device) _imgtx_offer "$cur" "" < <(_imgtx_ask device list) ;;
    device-file)
      _imgtx_offer "$cur" "=" < <(_imgtx_ask device list)
      compopt -o nospace 2>/dev/null
      ;;
    transaction) _imgtx_offer "$cur" "" < <(_imgtx_ask txn list) ;;
    snapshot) _imgtx_offer "$cur" "" < <(_imgtx_ask snapshot-list -n 100) ;;
    command) _imgtx_command "\${COMP_WORDS[COMP_CWORD - 1]}" "$cur" ;;
    file)
      mapfile -t COMPREPLY < <(compgen -f -- "$cur")
      compopt -o filenames 2>/dev/null
      ;;
    folder)
      mapfile -t COMPREPLY < <(compgen -d -- "$cur")
      compopt -o filenames 2>/dev/null
      ;;
    words) _imgtx_offer "$cur" "" < <(printf '%s\\n' "\${@:3}") ;;
  esac
}
`;

const MAIN = `
_imgtx() {
  local cur=\${COMP_WORDS[COMP_CWORD]} path="" option="" _imgtx_workspace="" word
  local -i index place=0 closed=0
  COMPREPLY=()
  for ((index = 1; index < COMP_CWORD; index++)); do
    word=\${COMP_WORDS[index]}
    if [[ $word == "=" ]]; then
      # bash splits at "=": what follows belongs to the word before.
      if [[ $option == "" && $path != "" && place -gt 0 ]]; then option="="; fi
      continue
    fi
    if [[ $option != "" ]]; then
      if [[ $option == --workspace ]]; then _imgtx_workspace=$word; fi
      option=""
      continue
    fi
    if [[ $closed == 0 && $word == "--" ]]; then closed=1
    elif [[ $closed == 0 && $word == -?* ]]; then
      if _imgtx_takes_word "$path" "$word" || [[ \${COMP_WORDS[index + 1]} == "=" ]]; then option=$word; fi
    elif _imgtx_has_verb "$path" "$word"; then path=\${path:+$path }$word
    else place+=1
    fi
  done
  if [[ $cur == "=" ]]; then
    cur=""
    if [[ $option == "" ]]; then option="="; fi
  fi
  if [[ $option == "=" ]]; then _imgtx_complete file "$cur"
  elif [[ $option != "" ]]; then _imgtx_value "$path" "$option" "$cur"
  elif [[ $closed == 0 && $cur == -* ]]; then _imgtx_options "$path" "$cur"
  else _imgtx_place "$path" "$place" "$cur"
  fi
}

complete -F _imgtx imgtx
`;

export function writeBash(model: CompletionModel): string {
  return [
    "# Completion of imgtx for bash. Written by `imgtx completion bash`.",
    FUNCTIONS.trimEnd(),
    "",
    writeTakesWord(model),
    "",
    writeHasVerb(model),
    "",
    writeCommandWords(model),
    "",
    writeOptions(model),
    "",
    writeValues(model),
    "",
    writePlaces(model),
    MAIN,
  ].join("\n");
}

function writeTakesWord(model: CompletionModel): string {
  const names = (options: readonly OptionDefinition[]): string[] =>
    options.filter(takesNextWord).flatMap(spellings);
  const rows = model.commands
    .filter(({ options }) => options.some(takesNextWord))
    .map(({ name, options }): [string, string] => [
      names(options)
        .map((option) => `${quote(name)}:${option}`)
        .join(" | "),
      "return 0",
    ]);
  return caseFunction("_imgtx_takes_word", "$1:$2", [
    ...rows,
    ['"img "*', "return 1"],
    [
      names(model.globals)
        .map((option) => `*:${option}`)
        .join(" | "),
      "return 0",
    ],
    ["*", "return 1"],
  ]);
}

function writeHasVerb({ verbs, groups }: CompletionModel): string {
  const words = (names: readonly { name: string }[], path: string): string =>
    names.map(({ name }) => quote(`${path}:${name}`)).join(" | ");
  return caseFunction("_imgtx_has_verb", "$1:$2", [
    [words(verbs, ""), "return 0"],
    ...groups.map((group): [string, string] => [words(group.verbs, group.name), "return 0"]),
    ["*", "return 1"],
  ]);
}

function writeCommandWords(model: CompletionModel): string {
  const rows = listHelpWords(model).map(([after, names]) => [after, offer(names, "$2")] as const);
  return caseFunction("_imgtx_command", "$1", rows);
}

function writeOptions({ commands, globals }: CompletionModel): string {
  const rows = commands
    .filter(({ options }) => options.length > 0)
    .map(({ name, options }): [string, string] => [
      quote(name),
      `_imgtx_complete words "$2" ${options.flatMap(spellings).map(quote).join(" ")}`,
    ]);
  const lines = caseFunction("_imgtx_options", "$1", rows).split("\n");
  const words = globals.flatMap(spellings).join(" ");
  lines.splice(-1, 0, `  if [[ $1 != "img "* ]]; then _imgtx_complete words "$2" ${words}; fi`);
  return lines.join("\n");
}

function writeValues({ commands, globals }: CompletionModel): string {
  // Those of a command first: `--output` of `img info` is not the one of every command.
  const rows = [
    ...commands.flatMap(({ name, options }) => options.map((option) => ({ path: quote(name), option }))),
    ...globals.map((option) => ({ path: "*", option })),
  ].flatMap(({ path, option }): [string, string][] =>
    option.value === undefined || !takesNextWord(option)
      ? []
      : spellings(option).map((spelling) => [`${path}:${spelling}`, offer(option.value?.completes, "$3")]),
  );
  return caseFunction("_imgtx_value", "$1:$2", rows);
}

function writePlaces({ verbs, groups, commands }: CompletionModel): string {
  const names = (all: readonly { name: string }[]): string =>
    offer(
      all.map(({ name }) => name),
      "$3",
    );
  const rows: [string, string][] = [
    ['":"*', names(verbs)],
    ...groups.map((group): [string, string] => [`${quote(group.name)}:0`, names(group.verbs)]),
    ...commands.flatMap((command) =>
      untilVariadic(command.arguments).map((argument, index): [string, string] => [
        `${quote(command.name)}:${argument.variadic ? "*" : index}`,
        offer(argument.completes, "$3"),
      ]),
    ),
  ];
  return caseFunction("_imgtx_place", "$1:$2", rows);
}

/** What stands after the argument of any number can't be told from it by its place. */
function untilVariadic(places: readonly ArgumentDefinition[]): readonly ArgumentDefinition[] {
  const variadic = places.findIndex((argument) => argument.variadic === true);
  return variadic === -1 ? places : places.slice(0, variadic + 1);
}

function offer(completes: Completes | undefined, current: string): string {
  if (completes === undefined || completes === "nothing") return ":";
  return isWordList(completes)
    ? `_imgtx_complete words "${current}" ${completes.map(quote).join(" ")}`
    : `_imgtx_complete ${completes} "${current}"`;
}

function caseFunction(name: string, subject: string, rows: readonly (readonly [string, string])[]): string {
  return [
    `${name}() {`,
    `  case "${subject}" in`,
    ...rows.map(([pattern, body]) => `    ${pattern}) ${body} ;;`),
    "  esac",
    "}",
  ].join("\n");
}

function quote(word: string): string {
  return /^[\w.-]+$/.test(word) ? word : `"${word}"`;
}
