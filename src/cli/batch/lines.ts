// A batch of imgtx lines: each an action, in the grammar of the command line, without global options.

import { ImgtxError } from "../../errors/index.ts";
import type { ActionRequest } from "../../transaction/index.ts";
import { type ActionWords, type CommandRow, findRow } from "../grammar/definition.ts";
import { isNoAction, parseLine, refuseUnknownVerb } from "../grammar/parser.ts";
import { splitWords } from "./words.ts";

/** What a line asks for. */
export interface BatchLine {
  /** Counted from 1, as editors do. */
  readonly number: number;
  readonly request: ActionRequest;
  /** Whether this action by itself would make the workspace here, where there is none. */
  readonly createsWorkspace: boolean;
}

/** Reads the whole batch before anything of it runs. E_USAGE with the line's number and text. */
export async function readLines(
  text: string,
  rows: readonly CommandRow[],
  cwd: string,
): Promise<BatchLine[]> {
  const lines: BatchLine[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    const number = index + 1;
    try {
      const read = await readLine(line, rows, cwd);
      if (read) lines.push({ ...read, number });
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      throw error.reworded(`line ${number}: ${error.message} (${quote(line)}); no line was run`, {
        line: number,
      });
    }
  }
  return lines;
}

const LONGEST_QUOTE = 80;

function quote(line: string): string {
  const text = line.trim();
  return text.length > LONGEST_QUOTE ? `${text.slice(0, LONGEST_QUOTE)}…` : text;
}

async function readLine(
  line: string,
  rows: readonly CommandRow[],
  cwd: string,
): Promise<Omit<BatchLine, "number"> | undefined> {
  const words = splitWords(line);
  if (words[0] === "imgtx") words.shift();
  const [first, second] = words;
  if (first === undefined) return undefined;
  const row = findRow(rows, [first]) ?? (second === undefined ? undefined : findRow(rows, [first, second]));
  const command = row && (await loadAction(row));
  if (row === undefined || command === undefined) return refuseVerb(first, words, rows);
  const input = parseLine(words.slice(row.path.length), row, command.definition, cwd);
  if (input.text("--rate-limit") !== undefined) {
    throw new ImgtxError("E_USAGE", "--rate-limit is for all that a batch copies", {
      hint: "say it to `imgtx txn run`",
    });
  }
  const request = command.request(input);
  return { request, createsWorkspace: command.createsWorkspace === true };
}

/** Undefined for a command that is no action. Those of `img` are none, and are not loaded: they are bundled apart. */
async function loadAction(row: CommandRow): Promise<ActionWords | undefined> {
  if (row.path[0] === "img") return undefined;
  const command = await row.load();
  return command.kind === "action" ? command : undefined;
}

async function refuseVerb(
  first: string,
  words: readonly string[],
  rows: readonly CommandRow[],
): Promise<never> {
  const actions = await listActions(rows);
  const known = rows.some(({ path }) => path[0] === first);
  if (known) {
    const hint =
      first === "txn"
        ? "a batch is one transaction, which is committed where all of its actions succeed"
        : `a batch takes ${actions.join(", ")}`;
    throw isNoAction(words.slice(0, 2).join(" "), hint);
  }
  return refuseUnknownVerb(first, actions);
}

async function listActions(rows: readonly CommandRow[]): Promise<string[]> {
  const names: string[] = [];
  for (const row of rows) {
    if (row.section !== "hidden" && (await loadAction(row))) names.push(row.path.join(" "));
  }
  return names;
}
