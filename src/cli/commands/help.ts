// imgtx help [COMMAND …]

import { findGroup } from "../grammar/command-groups.ts";
import { type CommandRow, findRow } from "../grammar/definition.ts";
import type { PlainCommand } from "../running/command.ts";
import { PRINTING_EXITS } from "../grammar/exit-status.ts";
import type { Canvas } from "../render/canvas.ts";
import { drawCommandHelp, drawGroupHelp, drawRootHelp } from "../render/help.ts";

export const help: PlainCommand = {
  kind: "plain",
  definition: {
    arguments: [
      {
        name: "COMMAND",
        about: "the command to explain",
        optional: true,
        variadic: true,
        completes: "command",
      },
    ],
    options: [],
    about: "Explains a command, or lists all of them.",
    examples: [{ command: "imgtx help txn begin", about: "the same as `imgtx txn begin --help`" }],
    exits: PRINTING_EXITS,
  },
  async execute({ commands, input, report }) {
    const words = input.texts("COMMAND");
    report.print(await helpFor(words, commands, report.canvas));
    return 0;
  },
};

/** Lines of help for a command, for a group, or for no words at all. E_USAGE where the words mean nothing. */
export async function helpFor(
  words: readonly string[],
  rows: readonly CommandRow[],
  canvas: Canvas,
  short = false,
): Promise<readonly string[]> {
  if (words.length === 0) return drawRootHelp(rows, canvas, short);
  const row = findRow(rows, words);
  if (row) return drawCommandHelp(row, (await row.load()).definition, canvas);
  const group = words.length === 1 ? findGroup(words[0]) : undefined;
  if (group) return drawGroupHelp(group, rows, canvas);
  const { refuseUnknownCommand } = await import("../grammar/parser.ts");
  return refuseUnknownCommand(words, [], rows);
}
