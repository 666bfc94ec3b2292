// Splits a line of a batch into words, as a shell would that expands nothing.

import { ImgtxError } from "../../errors/index.ts";

/**
 * Words in quotes or with backslashes as in a shell; `#` at the start of a word begins a comment.
 * E_USAGE for a quote that is not closed and for a backslash at the end.
 */
export function splitWords(line: string): string[] {
  const words: string[] = [];
  let word: string | undefined;
  let index = 0;
  while (index < line.length) {
    const character = line.charAt(index);
    if (/\s/.test(character)) {
      if (word !== undefined) words.push(word);
      word = undefined;
      index += 1;
    } else if (character === "#" && word === undefined) {
      break;
    } else {
      const piece = readPiece(line, index);
      word = (word ?? "") + piece.text;
      index = piece.next;
    }
  }
  if (word !== undefined) words.push(word);
  return words;
}

function readPiece(line: string, index: number): { text: string; next: number } {
  const character = line.charAt(index);
  if (character === "'") {
    const end = line.indexOf("'", index + 1);
    if (end === -1) throw unclosed("'");
    return { text: line.slice(index + 1, end), next: end + 1 };
  }
  if (character === '"') return readDoubleQuoted(line, index + 1);
  if (character !== "\\") return { text: character, next: index + 1 };
  if (index + 1 === line.length) throw new ImgtxError("E_USAGE", "a backslash ends the line");
  return { text: line.charAt(index + 1), next: index + 2 };
}

/** Inside double quotes a backslash stands for itself, but before `"`, `\`, `$` and a backquote. */
function readDoubleQuoted(line: string, start: number): { text: string; next: number } {
  let text = "";
  for (let index = start; index < line.length; index += 1) {
    const character = line.charAt(index);
    if (character === '"') return { text, next: index + 1 };
    const escaped = character === "\\" && /["\\$`]/.test(line.charAt(index + 1));
    if (escaped) index += 1;
    text += escaped ? line.charAt(index) : character;
  }
  throw unclosed('"');
}

function unclosed(quote: string): ImgtxError {
  return new ImgtxError("E_USAGE", `a ${quote} is not closed`);
}

export function hasNoActions(): ImgtxError {
  return new ImgtxError("E_USAGE", "the batch has no actions", { hint: "see `imgtx txn run --help`" });
}
