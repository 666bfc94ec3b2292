// Reads TypeScript by its letters, without a compiler: what a file imports, and how long its blocks are.
//
// Invariants
// - blankSource keeps every character's place: same length, same line breaks. Offsets in the blanked text are
//   offsets in the source.
// - What is in comments, strings and regular expressions is never taken for code.
// - An import whose name is not a plain string is reported with specifier undefined, never passed over.

export interface SourceImport {
  /** As it is written; undefined where it is computed, and can't be read. */
  readonly specifier: string | undefined;
  /** `import type`, `export type … from`: gone at run time. `import { type A }` is not, under verbatimModuleSyntax. */
  readonly typeOnly: boolean;
  readonly line: number;
}

export interface LongBlock {
  readonly line: number;
  readonly lengthLines: number;
}

/** The source with comments, regular expressions and the insides of strings made blank. Quotes stay. */
export function blankSource(source: string): string {
  return new Blanker(source).run();
}

/** Every import, export from, import(), require() and createRequire()() of a file, in order. */
export function findImports(source: string): SourceImport[] {
  const blank = blankSource(source);
  const found = new Map<number, SourceImport>();
  const note = (quoteAt: number, typeOnly: boolean): void => {
    const specifier = readString(source, blank, quoteAt);
    found.set(quoteAt, { specifier, typeOnly, line: lineAt(source, quoteAt) });
  };
  for (const match of blank.matchAll(/\b(?:import|export)\b([^;"'`()=]*?)\bfrom\s*(?=["'])/g)) {
    note(match.index + match[0].length, /^\s*type\b(?!\s*,)/.test(match[1] ?? ""));
  }
  for (const match of blank.matchAll(/\bimport\s*(?=["'])/g)) note(match.index + match[0].length, false);
  for (const match of blank.matchAll(callsThatLoad(blank))) {
    const isType = /\btypeof\s+$/.test(blank.slice(0, match.index));
    note(match.index + match[0].length, isType);
  }
  return [...found].sort(([a], [b]) => a - b).map(([, each]) => each);
}

/** import(, require(, createRequire(…)(, getBuiltinModule( and whatever name createRequire's answer was given. */
function callsThatLoad(blank: string): RegExp {
  const names = [...blank.matchAll(/\b(\w+)\s*=\s*createRequire\s*\(/g)].map((match) => match[1] ?? "");
  const direct = ["import", "require", "require\\s*\\.\\s*resolve", "getBuiltinModule", ...names].join("|");
  return new RegExp(`\\b(?:(?:${direct})|createRequire\\s*\\([^)]*\\))\\s*\\(\\s*`, "g");
}

/** Blocks of code, from brace to brace, longer than most lines. Class bodies, types and object literals don't count. */
export function findLongBlocks(source: string, maxLines: number): LongBlock[] {
  const blank = blankSource(source);
  const open: number[] = [];
  const long: LongBlock[] = [];
  for (let at = 0; at < blank.length; at += 1) {
    if (blank[at] === "{") open.push(at);
    if (blank[at] !== "}") continue;
    const start = open.pop();
    if (start === undefined || !opensCode(blank, start)) continue;
    const line = lineAt(blank, start);
    const lengthLines = lineAt(blank, at) - line + 1;
    if (lengthLines > maxLines) long.push({ line, lengthLines });
  }
  return long.sort((a, b) => a.line - b.line);
}

const NOT_CODE_BEFORE = /(?:[=([,:?&|{]|\b(?:return|satisfies|extends|import|export|type))$/;
const DECLARES_TYPE =
  /(?:^|[;{}])\s*(?:export\s+)?(?:default\s+)?(?:declare\s+)?(?:abstract\s+)?(?:class|interface|namespace)\b[^;{}]*$/;

function opensCode(blank: string, brace: number): boolean {
  const before = blank.slice(Math.max(0, brace - 500), brace).trimEnd();
  if (before.endsWith("=>")) return true;
  return !NOT_CODE_BEFORE.test(before) && !DECLARES_TYPE.test(before);
}

export function lineAt(source: string, offset: number): number {
  let line = 1;
  for (let at = source.indexOf("\n"); at !== -1 && at < offset; at = source.indexOf("\n", at + 1)) line += 1;
  return line;
}

/** The string that starts with the quote at this place, undefined where none does or where it is computed. */
function readString(source: string, blank: string, quoteAt: number): string | undefined {
  const quote = source[quoteAt];
  if (quote !== '"' && quote !== "'" && quote !== "`") return undefined;
  const end = blank.indexOf(quote, quoteAt + 1);
  const text = source.slice(quoteAt + 1, end);
  const isWhole = /^\s*[,);]/.test(blank.slice(end + 1)) || /^\s*(?:with\b|$)/m.test(blank.slice(end + 1));
  return isWhole && !text.includes("${") && !text.includes("\\") ? text : undefined;
}

const REGEX_MAY_FOLLOW =
  /(?:^|[([{,;:=!&|?+\-*%<>~^}]|\b(?:return|typeof|case|in|of|do|else|void|await|yield))$/;

class Blanker {
  readonly #source: string;
  readonly #out: string[] = [];
  /** Depth of braces inside each template placeholder that is open. */
  readonly #templates: number[] = [];
  #at = 0;

  constructor(source: string) {
    this.#source = source;
  }

  run(): string {
    while (this.#at < this.#source.length) this.#step();
    return this.#out.join("");
  }

  #step(): void {
    const [character = "", next] = [this.#source[this.#at], this.#source[this.#at + 1]];
    if (character === "/" && next === "/") return this.#blankTo(this.#find("\n", 2));
    if (character === "/" && next === "*") return this.#blankTo(this.#find("*/", 2) + 2);
    if (character === "/" && this.#regexMayStart()) return this.#blankTo(this.#endOfRegex());
    if (character === '"' || character === "'") return this.#string(character);
    if (character === "`") return this.#template();
    const depth = this.#templates.at(-1);
    if (depth !== undefined && character === "{") this.#templates[this.#templates.length - 1] = depth + 1;
    if (depth !== undefined && character === "}") {
      this.#templates[this.#templates.length - 1] = depth - 1;
      if (depth === 1) {
        this.#templates.pop();
        this.#keep();
        return this.#templateText();
      }
    }
    this.#keep();
  }

  #keep(): void {
    this.#out.push(this.#source[this.#at] ?? "");
    this.#at += 1;
  }

  #blankTo(end: number): void {
    this.#out.push(this.#source.slice(this.#at, end).replace(/[^\n]/g, " "));
    this.#at = end;
  }

  /** Where text starts next, or the end of the source. */
  #find(text: string, skip: number): number {
    const found = this.#source.indexOf(text, this.#at + skip);
    return found === -1 ? this.#source.length : found;
  }

  #regexMayStart(): boolean {
    return REGEX_MAY_FOLLOW.test(this.#out.slice(-40).join("").trimEnd());
  }

  #endOfRegex(): number {
    let inClass = false;
    for (let at = this.#at + 1; at < this.#source.length; at += 1) {
      const character = this.#source[at];
      if (character === "\n") return at;
      if (character === "\\") at += 1;
      else if (character === "[") inClass = true;
      else if (character === "]") inClass = false;
      else if (character === "/" && !inClass) return at + 1;
    }
    return this.#source.length;
  }

  #string(quote: string): void {
    this.#keep();
    let end = this.#at;
    while (end < this.#source.length && this.#source[end] !== quote && this.#source[end] !== "\n") {
      end += this.#source[end] === "\\" ? 2 : 1;
    }
    this.#blankTo(end);
    if (this.#source[this.#at] === quote) this.#keep();
  }

  #template(): void {
    this.#keep();
    this.#templateText();
  }

  /** The text of a template up to its end, or to the next placeholder, whose code is read as code. */
  #templateText(): void {
    let end = this.#at;
    while (end < this.#source.length && this.#source[end] !== "`") {
      if (this.#source[end] === "$" && this.#source[end + 1] === "{") {
        this.#blankTo(end + 1);
        this.#keep();
        this.#templates.push(1);
        return;
      }
      end += this.#source[end] === "\\" ? 2 : 1;
    }
    this.#blankTo(end);
    if (this.#source[this.#at] === "`") this.#keep();
  }
}
