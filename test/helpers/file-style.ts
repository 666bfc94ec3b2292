// The rules of the house for single files: their names, their length, how they open, and what they leave unfinished.
//
// Invariant: as the rules of layers.ts, these know a file by its path and its text alone.

import { posix as path } from "node:path";
import type { SourceFile } from "./layers.ts";
import { blankSource, findLongBlocks, lineAt } from "./source-text.ts";

const MAX_FILE_LINES = 400;
const MAX_FUNCTION_LINES = 60;

/** Names, length, opening comment, and words that say a thing is unfinished. */
export function findStyleViolations(file: SourceFile): string[] {
  const problems: string[] = [];
  const lines = file.text.split("\n").length - 1;
  if (!/^(?:[a-z0-9]+-)*[a-z0-9]+(?:\.test)?\.ts$/.test(path.basename(file.path))) {
    problems.push(`${file.path} is not in kebab-case`);
  }
  if (/\/utils?(?:\.ts|\/)/.test(file.path)) {
    problems.push(`${file.path}: no utils; name it by what it is about`);
  }
  if (lines > MAX_FILE_LINES) {
    problems.push(`${file.path} has ${lines} lines, more than ${MAX_FILE_LINES}: split it by topic`);
  }
  // The titles of a test file are claims, and say its purpose.
  const needsOpening = !file.path.endsWith(".test.ts") && !onlyExports(file.text);
  if (needsOpening && !/^(?:#!.*\n)?\/[/*]/.test(file.text)) {
    problems.push(`${file.path}:1 opens without a comment that says its purpose and its invariants`);
  }
  return [...problems, ...findUnfinished(file), ...findClocks(file)];
}

export function findLongFunctions(file: SourceFile): string[] {
  return findLongBlocks(file.text, MAX_FUNCTION_LINES).map(
    ({ line, lengthLines }) =>
      `${file.path}:${line} a function of ${lengthLines} lines, more than ${MAX_FUNCTION_LINES}: split it`,
  );
}

/** An index that passes on what others define: its layer's README says its purpose. */
function onlyExports(text: string): boolean {
  return (
    blankSource(text)
      .replace(/\bexport\b[^;]*\bfrom\s*"[^"]*";/g, "")
      .trim() === ""
  );
}

// Each with a letter in brackets, so that this file does not name itself.
const UNFINISHED_WORD = /\b(?:TOD[O]|FIXM[E]|XX[X])\b/g;
const UNFINISHED_TEST = /\.\s*(?:skip|only|todo|fails)\b(?=\s*[.(`])/g;
/** What lists the tests that a missing tool skips, and makes a skip in CI a failure. */
const MAY_SKIP = "test/helpers/oracles.ts";

function findUnfinished(file: SourceFile): string[] {
  const words = [...file.text.matchAll(UNFINISHED_WORD)];
  const isTest = file.path.startsWith("test/") && file.path !== MAY_SKIP;
  const tests = isTest ? [...blankSource(file.text).matchAll(UNFINISHED_TEST)] : [];
  return [...words, ...tests].map(
    (match) =>
      `${file.path}:${lineAt(file.text, match.index)} ${match[0].trim()}: finish it, or take it out with its reason in an issue`,
  );
}

/** A clock in an expectation of little time, or a limit of a test's own: both fail on a machine that is busy. */
const BY_THE_CLOCK = /\b(?:Date|performance)\s*\.\s*now\(\)[^;]*\.toBeLess\w*|\btest\b[^;{}]*\{\s*timeout:/g;

function findClocks(file: SourceFile): string[] {
  if (!file.path.startsWith("test/")) return [];
  return [...blankSource(file.text).matchAll(BY_THE_CLOCK)].map(
    (match) =>
      `${file.path}:${lineAt(file.text, match.index)} fails by the clock: bound the work, by counts or by helpers/effort.ts`,
  );
}
