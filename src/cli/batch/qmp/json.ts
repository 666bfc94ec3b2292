// JSON as QEMU's monitor reads it: one value after another, strings in double or in single quotes.
// JSON.parse knows no stream, lets the second of two equal names win, and rounds an id.
//
// Invariants
// - What one reader could take for this and the next for that is refused: a name that stands twice in an
//   object, a number that a double can't hold, text that is not Unicode.
// - An object is a Map: no name in it, `__proto__` neither, means anything to JavaScript.

import { ImgtxError } from "../../../errors/index.ts";
import { printableJson } from "../../render/printable.ts";

export type JsonObject = ReadonlyMap<string, JsonValue>;
export type JsonValue = null | boolean | number | bigint | string | readonly JsonValue[] | JsonObject;

/** Far beyond any command, and far from what the stack of this process holds. */
const MOST_NESTING = 128;
/** What bytes that are no UTF-8 have become when the text was decoded. */
const REPLACEMENT = "\u{FFFD}";

const BLANKS = /[ \t\r\n]*/y;
const NUMBER = /-?(?:0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?/y;
const WORD = /[A-Za-z_]\w*/y;
const PLAIN = { '"': /[^"\\\p{Cc}]*/uy, "'": /[^'\\\p{Cc}]*/uy } as const;
const WORDS: Readonly<Record<string, null | boolean>> = { null: null, true: true, false: false };
const ESCAPES: Readonly<Record<string, string>> = {
  '"': '"',
  "'": "'",
  "\\": "\\",
  "/": "/",
  b: "\b",
  f: "\f",
  n: "\n",
  r: "\r",
  t: "\t",
};

/** Every value of the text. E_USAGE, with line and column, where it is no JSON. */
export function parseJsonStream(text: string): JsonValue[] {
  const foreign = text.indexOf(REPLACEMENT);
  if (foreign !== -1) throw syntaxError(text, foreign, "here is a byte that is not UTF-8");
  const parser = new Parser(text);
  const values: JsonValue[] = [];
  while (!parser.atEnd()) values.push(parser.value(0));
  return values;
}

class Parser {
  readonly #text: string;
  #at = 0;

  constructor(text: string) {
    this.#text = text;
  }

  /** Steps over blanks. */
  atEnd(): boolean {
    this.#take(BLANKS);
    return this.#at === this.#text.length;
  }

  value(depth: number): JsonValue {
    this.#take(BLANKS);
    const start = this.#at;
    const character = this.#text.charAt(start);
    if ((character === "{" || character === "[") && depth === MOST_NESTING) {
      throw this.#error(`it is nested deeper than ${MOST_NESTING} levels`);
    }
    if (character === "{") return this.#object(depth + 1);
    if (character === "[") return this.#list(depth + 1);
    if (character === '"' || character === "'") return this.#string(character);
    if (character === "-" || (character >= "0" && character <= "9")) return this.#number();
    const word = this.#take(WORD);
    const value = Object.hasOwn(WORDS, word) ? WORDS[word] : undefined;
    if (value !== undefined) return value;
    this.#at = start;
    throw this.#error(this.#at === this.#text.length ? "it ends in the middle" : "a value should be here");
  }

  #object(depth: number): JsonObject {
    const members = new Map<string, JsonValue>();
    this.#each("}", () => {
      const start = this.#at;
      const quote = this.#text.charAt(start);
      if (quote !== '"' && quote !== "'") throw this.#error("the name of a member should be here");
      const name = this.#string(quote);
      if (members.has(name)) {
        this.#at = start;
        throw this.#error(`the member '${name}' stands twice in one object`);
      }
      this.#take(BLANKS);
      if (this.#text.charAt(this.#at) !== ":") throw this.#error("a colon should be here");
      this.#at += 1;
      members.set(name, this.value(depth));
    });
    return members;
  }

  #list(depth: number): readonly JsonValue[] {
    const items: JsonValue[] = [];
    this.#each("]", () => {
      items.push(this.value(depth));
    });
    return items;
  }

  /** Reads from an opening bracket to the closing one, with commas between. */
  #each(closing: "}" | "]", read: () => void): void {
    this.#at += 1;
    this.#take(BLANKS);
    if (this.#text.charAt(this.#at) === closing) {
      this.#at += 1;
      return;
    }
    for (;;) {
      this.#take(BLANKS);
      read();
      this.#take(BLANKS);
      const character = this.#text.charAt(this.#at);
      if (character !== "," && character !== closing) {
        throw this.#error(character === "" ? "it ends in the middle" : `',' or '${closing}' should be here`);
      }
      this.#at += 1;
      if (character === closing) return;
    }
  }

  #string(quote: '"' | "'"): string {
    const start = this.#at;
    this.#at += 1;
    const parts: string[] = [];
    for (;;) {
      parts.push(this.#take(PLAIN[quote]));
      const character = this.#text.charAt(this.#at);
      if (character === quote) break;
      if (character === "") throw this.#error("a string is not closed");
      if (character !== "\\") throw this.#error("a control character in a string has to be escaped");
      parts.push(this.#escape());
    }
    this.#at += 1;
    const value = parts.join("");
    // Half of a surrogate pair is no character, and no file can be named with a NUL.
    if (/[\p{Cs}\0]/u.test(value)) {
      this.#at = start;
      throw this.#error("the string holds an escape that is no character of a text");
    }
    return value;
  }

  #escape(): string {
    const character = this.#text.charAt(this.#at + 1);
    const simple = Object.hasOwn(ESCAPES, character) ? ESCAPES[character] : undefined;
    if (simple !== undefined) {
      this.#at += 2;
      return simple;
    }
    const digits = this.#text.slice(this.#at + 2, this.#at + 6);
    if (character !== "u" || !/^[0-9A-Fa-f]{4}$/.test(digits)) throw this.#error("an escape is not known");
    this.#at += 6;
    return String.fromCharCode(Number.parseInt(digits, 16));
  }

  #number(): number | bigint {
    const start = this.#at;
    NUMBER.lastIndex = start;
    const match = NUMBER.exec(this.#text);
    const digits = match?.[0] ?? "";
    const value = Number(digits);
    const next = this.#text.charAt(start + digits.length);
    if (digits === "" || /[\w.]/.test(next)) throw this.#error("a number is malformed");
    const isWhole = match?.[1] === undefined && match?.[2] === undefined;
    // QEMU's own are 64 bits. Thousands of digits would cost time that grows with their square.
    if (!Number.isFinite(value) || (isWhole && digits.length > 20))
      throw this.#error("a number is too large");
    this.#at += digits.length;
    return isWhole && !Number.isSafeInteger(value) ? BigInt(digits) : value;
  }

  #take(pattern: RegExp): string {
    pattern.lastIndex = this.#at;
    const taken = pattern.exec(this.#text)?.[0] ?? "";
    this.#at += taken.length;
    return taken;
  }

  #error(what: string): ImgtxError {
    return syntaxError(this.#text, this.#at, what);
  }
}

function syntaxError(text: string, at: number, what: string): ImgtxError {
  const before = text.slice(0, at).split("\n");
  const column = (before.at(-1) ?? "").length + 1;
  return new ImgtxError("E_USAGE", `the batch is not JSON: line ${before.length}, column ${column}: ${what}`);
}

/** On one line, with blanks where QEMU's monitor has them, and without a character that a terminal obeys. */
export function drawJson(value: JsonValue): string {
  if (isList(value)) return `[${value.map((item) => drawJson(item)).join(", ")}]`;
  if (isObject(value)) {
    const members = [...value].map(([name, each]) => `${printableJson(name)}: ${drawJson(each)}`);
    return `{${members.join(", ")}}`;
  }
  return typeof value === "string" ? printableJson(value) : String(value);
}

export function isObject(value: JsonValue | undefined): value is JsonObject {
  return value instanceof Map;
}

/** Array.isArray does not know of read-only lists. */
export function isList(value: JsonValue | undefined): value is readonly JsonValue[] {
  return Array.isArray(value);
}
