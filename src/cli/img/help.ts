// Help in the form of qemu-img, of the version that is asked for: scripts look in it for a flag, or a format's name.
// The words are those of the definitions; `imgtx help img COMMAND` has more of them.

import { type CommandDefinition, type OptionDefinition, spellings } from "../grammar/definition.ts";
import { wrap, wrapWords } from "../render/layout.ts";
import { version } from "../version.ts";
import type { MessageForm } from "./grammar/messages.ts";
import { FORMAT_WORDS, HELP_OPTION, STANDARD_OPTIONS } from "./grammar/options.ts";
import { spokenVersion } from "./grammar/qemu-version.ts";
import { IMG_TABLE } from "./table.ts";

const WIDTH = 76;

type Speaker = Pick<MessageForm, "program" | "qemuVersion">;

/** All commands, or one. Older versions print the same page for both. */
export async function drawHelp(speaker: Speaker, verb: string | undefined): Promise<string> {
  const name = speaker.program === "qemu-img" ? speaker.program : "imgtx img";
  const row = verb === undefined ? undefined : IMG_TABLE.find((each) => each.verb === verb);
  const lines =
    speaker.qemuVersion < 10
      ? await drawOnOnePage(name)
      : row === undefined
        ? drawCommands(name, speaker)
        : drawCommand(name, row.verb, (await row.load()).definition);
  return `${lines.join("\n")}\n`;
}

function drawCommands(name: string, { program, qemuVersion }: Speaker): string[] {
  return [
    program === "qemu-img"
      ? `qemu-img version ${spokenVersion(qemuVersion)} (imgtx ${version})`
      : `imgtx ${version}`,
    "Disk images, in the grammar of QEMU's tool.  Usage:",
    "",
    `  ${name} [standard options] COMMAND [--help | command options]`,
    "",
    "Standard options:",
    ...STANDARD_OPTIONS.flatMap(drawOption),
    "",
    `Recognized commands (run ${name} COMMAND --help for command-specific help):`,
    "",
    ...IMG_TABLE.map(({ verb, summary }) => `  ${verb} - ${summary}`),
    "",
    "Supported image formats:",
    "",
    `  ${FORMAT_WORDS.join(" ")}`,
    "",
    `\`imgtx help img COMMAND\` has examples, \`man imgtx-img\` the rest.`,
  ];
}

function drawCommand(name: string, verb: string, definition: CommandDefinition): string[] {
  const options = definition.options.map(({ short, long, value }) => {
    const flag = short === undefined ? `--${long}` : `-${short}`;
    return value === undefined ? `[${flag}]` : `[${flag} ${value.name}]`;
  });
  const places = definition.arguments.map(({ name: place, optional, variadic }) => {
    const dots = `${place}${variadic ? "..." : ""}`;
    return optional ? `[${dots}]` : dots;
  });
  return [
    "Usage:",
    ...wrapWords([name, verb, ...options, ...places], WIDTH).map((line) => `  ${line}`),
    "",
    ...wrap(definition.about, WIDTH),
    "",
    "Arguments:",
    ...[HELP_OPTION, ...definition.options].flatMap(drawOption),
    ...definition.arguments.flatMap(({ name: place, about }) => drawTerm(place, about)),
    "",
  ];
}

function drawOption(option: OptionDefinition): string[] {
  const names = spellings(option).join(", ");
  return drawTerm(option.value === undefined ? names : `${names} ${option.value.name}`, option.about);
}

function drawTerm(term: string, about: string): string[] {
  return [`  ${term}`, ...wrap(about, WIDTH - 5).map((line) => `     ${line}`)];
}

async function drawOnOnePage(name: string): Promise<string[]> {
  const commands = await Promise.all(
    IMG_TABLE.map(async ({ verb, load }) => ({ verb, definition: (await load()).definition })),
  );
  return [
    `${name} of imgtx ${version}`,
    `usage: ${name} [standard options] command [command options]`,
    "Disk images, in the grammar of QEMU's tool",
    "",
    "    '-h', '--help'       display this help and exit",
    "    '-V', '--version'    output version information and exit",
    "",
    "Command syntax:",
    ...commands.map(({ verb, definition }) => `  ${syntaxOf(verb, definition)}`),
    "",
    "`imgtx help img COMMAND` and `man imgtx-img` explain them.",
    "",
    `Supported formats: ${FORMAT_WORDS.join(" ")}`,
  ];
}

/** `info [--image-opts] [-f fmt] filename`, on one line however long. */
function syntaxOf(verb: string, definition: CommandDefinition): string {
  const options = definition.options.map(({ short, long, value }) => {
    const name = value?.name.toLowerCase();
    if (short === undefined) return name === undefined ? `[--${long}]` : `[--${long}=${name}]`;
    return name === undefined ? `[-${short}]` : `[-${short} ${name}]`;
  });
  const places = definition.arguments.map(({ name, optional, variadic }) => {
    const place = `${name.toLowerCase()}${variadic ? " [...]" : ""}`;
    return optional ? `[${place}]` : place;
  });
  return [verb, ...options, ...places].join(" ");
}
