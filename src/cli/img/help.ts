// The help under the name of qemu-img, in its shape: scripts look in it for a flag, or a format's name.

import type { CommandDefinition } from "../grammar/definition.ts";
import { version } from "../version.ts";
import { FORMAT_WORDS } from "./options.ts";
import { IMG_TABLE } from "./table.ts";

export async function drawQemuHelp(): Promise<string> {
  const commands = await Promise.all(
    IMG_TABLE.map(async ({ verb, load }) => ({ verb, definition: (await load()).definition })),
  );
  const lines = [
    `qemu-img of imgtx ${version}`,
    "usage: qemu-img [standard options] command [command options]",
    "Disk images, in the grammar of QEMU's tool of this name",
    "",
    "    '-h', '--help'       display this help and exit",
    "    '-V', '--version'    output version information and exit",
    "",
    "Command syntax:",
    ...commands.map(({ verb, definition }) => `  ${syntaxOf(verb, definition)}`),
    "",
    "`imgtx img COMMAND --help` and `man imgtx-img` explain them.",
    "",
    `Supported formats: ${FORMAT_WORDS.join(" ")}`,
  ];
  return `${lines.join("\n")}\n`;
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
