// A batch of imgtx lines: each an action, in the grammar of the command line, without global options.

import { ImgtxError } from "../../errors/index.ts";
import type { ActionRequest } from "../../transaction/index.ts";
import { COMMAND_TABLE, findRow } from "../grammar/command-table.ts";
import type { ActionCommand } from "../grammar/definition.ts";
import { parseLine, refuseUnknownVerb } from "../grammar/parser.ts";
import { splitWords } from "./words.ts";

export async function readLines(text: string, cwd: string): Promise<ActionRequest[]> {
  const requests: ActionRequest[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    try {
      const request = await readLine(line, cwd);
      if (request) requests.push(request);
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      throw new ImgtxError(error.code, `line ${index + 1}: ${error.message}`, {
        ...(error.hint === undefined ? {} : { hint: error.hint }),
        cause: error,
      });
    }
  }
  return requests;
}

async function readLine(line: string, cwd: string): Promise<ActionRequest | undefined> {
  const words = splitWords(line);
  if (words[0] === "imgtx") words.shift();
  const [first, second] = words;
  if (first === undefined) return undefined;
  const row = findRow([first]) ?? (second === undefined ? undefined : findRow([first, second]));
  const command = await row?.load();
  if (row === undefined || command?.kind !== "action") return refuseVerb(first, words);
  return command.request(parseLine(words.slice(row.path.length), row, command.definition, cwd));
}

async function refuseVerb(first: string, words: readonly string[]): Promise<never> {
  const actions = await listActions();
  const known = COMMAND_TABLE.some(({ path }) => path[0] === first);
  if (known) {
    throw new ImgtxError("E_USAGE", `'${words.slice(0, 2).join(" ")}' is no action`, {
      hint: `a batch takes ${actions.join(", ")}`,
    });
  }
  return refuseUnknownVerb(first, actions);
}

async function listActions(): Promise<string[]> {
  const names: string[] = [];
  for (const row of COMMAND_TABLE) {
    if (row.section === "hidden") continue;
    const command: ActionCommand | { kind: "plain" | "img" } = await row.load();
    if (command.kind === "action") names.push(row.path.join(" "));
  }
  return names;
}
