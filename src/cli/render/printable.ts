// Names come from disks and from other people. What reaches a terminal or a log has no control
// characters: a line break would forge a line of output, an escape sequence could do anything, and a
// mark that reorders text makes one name look like another.

// Controls, invisible and reordering marks, halves of surrogate pairs, line and paragraph separators.
const UNPRINTABLE = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/gu;

/** The text with such characters as visible escapes: `\u{a}`, `\u{1b}`, `\u{202e}`. */
export function printable(text: string): string {
  return text.replace(UNPRINTABLE, (character) => `\\u{${(character.codePointAt(0) ?? 0).toString(16)}}`);
}

/** Plain data in which every string is printable: a copy, where one was not. What is drawn for people goes through here. */
export function printableData<T>(data: T): T {
  return isPrintable(data) ? data : (copyPrintable(data) as T);
}

function isPrintable(data: unknown): boolean {
  if (typeof data === "string") return data.search(UNPRINTABLE) === -1;
  if (Array.isArray(data)) return data.every(isPrintable);
  if (typeof data !== "object" || data === null) return true;
  for (const key in data) if (!isPrintable(data[key as keyof typeof data])) return false;
  return true;
}

function copyPrintable(data: unknown): unknown {
  if (typeof data === "string") return printable(data);
  if (Array.isArray(data)) return data.map(copyPrintable);
  if (typeof data !== "object" || data === null) return data;
  const copy: Record<string, unknown> = { ...data };
  for (const key of Object.keys(copy)) copy[key] = copyPrintable(copy[key]);
  return copy;
}

/** JSON text without such characters either; it parses to the same. */
export function printableJson(value: unknown, indent?: number): string {
  return JSON.stringify(value, null, indent).replace(UNPRINTABLE, (character) =>
    // JSON.stringify has escaped those in strings: a raw line break is its own, between members.
    character === "\n" ? character : escapeUnits(character),
  );
}

function escapeUnits(character: string): string {
  return character
    .split("")
    .map((unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)
    .join("");
}
