// What no text file of the tree may hold: marks of a merge that was left half way, and the faults of whitespace
// that `git diff --check` tells. Told by line, so that an editor can go there.

import type { SourceFile } from "./layers.ts";

// Git's own marks: seven of one sign at the start of a line, with nothing or a blank after them.
const CONFLICT_MARK = /^(<{7}|={7}|>{7}|\|{7})( |$)/;
const TRAILING_BLANK = /[ \t\r]$/;
const BLANK_BEFORE_TAB = /^\t* +\t/;

/** One sentence for each fault of a file. */
export function findTextFaults({ path, text }: SourceFile): string[] {
  const lines = text.split("\n");
  const found = lines.flatMap((line, index) => {
    const place = `${path}:${index + 1}`;
    if (CONFLICT_MARK.test(line)) return [`${place}: a conflict mark; join the two sides`];
    if (TRAILING_BLANK.test(line)) return [`${place}: blanks at the end of the line`];
    if (BLANK_BEFORE_TAB.test(line)) return [`${place}: a blank in front of a tab`];
    return [];
  });
  if (text !== "" && !text.endsWith("\n")) found.push(`${path}: no line feed at the end`);
  if (text.endsWith("\n\n")) found.push(`${path}: empty lines at the end`);
  return found;
}
