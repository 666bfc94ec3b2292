// Completion for fish: a `complete` line for each verb, option and place.

import { type Completes, type OptionDefinition, spellings } from "../grammar/definition.ts";
import { isWordList, listHelpWords, optionsWithNextWord, type CompletionModel } from "./model.ts";

export function writeFish(model: CompletionModel): string {
  return [
    "# Completion of imgtx for fish. Written by `imgtx completion fish`.",
    "",
    writeWordsFunction(model),
    FUNCTIONS,
    writeCommandWords(model),
    "",
    "complete -c imgtx -f",
    "",
    ...model.verbs.map(({ name, summary }) => verbLine("", name, summary)),
    ...model.groups.flatMap((group) =>
      group.verbs.map(({ name, summary }) => verbLine(group.name, name, summary)),
    ),
    "",
    ...model.globals.map((option) => optionLine(undefined, option)),
    ...model.commands.flatMap((command) => [
      ...command.options.map((option) => optionLine(command.name, option)),
      ...command.arguments.flatMap((argument, index) => {
        const range = argument.variadic ? `${index} many` : String(index);
        return placeLine(command.name, range, argument.completes, argument.name);
      }),
    ]),
    "",
  ].join("\n");
}

/** Words of the command line that are no options and no values of options. */
function writeWordsFunction(model: CompletionModel): string {
  return `function __imgtx_words
    set -l words (commandline -opc)
    set -e words[1]
    set -l skip 0
    for word in $words
        if test $skip = 1
            set skip 0
            continue
        end
        switch $word
            case ${optionsWithNextWord(model).join(" ")}
                set skip 1
            case '-?*'
                continue
            case '*'
                echo -- $word
        end
    end
end`;
}

function writeCommandWords(model: CompletionModel): string {
  return [
    "function __imgtx_commands",
    "    set -l words (__imgtx_words)",
    "    switch $words[-1]",
    ...listHelpWords(model).flatMap(([after, names]) => [
      `        case ${after}`,
      `            string split ' ' -- ${quote(names.join(" "))}`,
    ]),
    "    end",
    "end",
  ].join("\n");
}

const FUNCTIONS = `
# Whether the words are exactly these.
function __imgtx_at
    set -l words (__imgtx_words)
    test "$words" = "$argv"
end

# Whether the words begin with a command's path.
function __imgtx_in
    set -l words (__imgtx_words)
    test "$words" = "$argv[1]"; or string match -q -- "$argv[1] *" "$words"
end

# Whether argument number $argv[2] of the command comes next, or with "many" one from there on.
function __imgtx_place
    __imgtx_in $argv[1]; or return 1
    set -l path (string split ' ' -- $argv[1])
    set -l given (math (count (__imgtx_words)) - (count $path))
    if test "$argv[3]" = many
        test $given -ge $argv[2]
    else
        test $given -eq $argv[2]
    end
end

function __imgtx_ask
    set -l words (commandline -opc)
    set -l place
    if set -l index (contains -i -- --workspace $words)
        set place --workspace $words[(math $index + 1)]
    end
    command imgtx $place $argv --quiet 2>/dev/null
end

function __imgtx_device_files
    set -l parts (string split -m 1 = -- (commandline -ct))
    if test (count $parts) = 2
        for file in (__fish_complete_path $parts[2])
            echo -- $parts[1]=$file
        end
    else
        for name in (__imgtx_ask device list)
            echo -- $name=
        end
    end
end
`;

function verbLine(group: string, name: string, summary: string): string {
  const condition = group === "" ? "__imgtx_at" : `__imgtx_at ${group}`;
  return `complete -c imgtx -n ${quote(condition)} -a ${name} -d ${quote(summary)}`;
}

function optionLine(path: string | undefined, option: OptionDefinition): string {
  return [
    "complete -c imgtx",
    ...(path === undefined ? [] : [`-n ${quote(`__imgtx_in "${path}"`)}`]),
    ...spellings(option).map((spelling) =>
      spelling.replace(/^--?/, spelling.startsWith("--") ? "-l " : "-s "),
    ),
    ...(option.value === undefined || option.value.optional ? [] : valueFlags(option.value.completes)),
    `-d ${quote(option.about)}`,
  ].join(" ");
}

function placeLine(path: string, range: string, completes: Completes, name: string): string[] {
  if (completes === "nothing") return [];
  const condition = `-n ${quote(`__imgtx_place "${path}" ${range}`)}`;
  return [
    `complete -c imgtx ${condition} ${valueFlags(completes).join(" ")} -d ${quote(name)}`.replace(
      " -r ",
      " ",
    ),
  ];
}

function valueFlags(completes: Completes): string[] {
  if (isWordList(completes)) return ["-x", `-a ${quote(completes.join(" "))}`];
  return [...VALUE_FLAGS[completes]];
}

const VALUE_FLAGS = {
  device: ["-x", "-a '(__imgtx_ask device list)'"],
  "device-file": ["-x", "-a '(__imgtx_device_files)'"],
  transaction: ["-x", "-a '(__imgtx_ask txn list)'"],
  snapshot: ["-x", "-a '(__imgtx_ask snapshot-list -n 100)'"],
  command: ["-x", "-a '(__imgtx_commands)'"],
  file: ["-r", "-F"],
  folder: ["-x", "-a '(__fish_complete_directories)'"],
  nothing: ["-x"],
} as const;

function quote(text: string): string {
  return `'${text.replaceAll("\\", "\\\\").replaceAll("'", "\\'")}'`;
}
