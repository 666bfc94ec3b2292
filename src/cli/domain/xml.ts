// Reads XML as elements with their attributes. Text between them is passed over: nothing that imgtx asks of it stands there.
//
// Invariants
// - What is read is hostile: its size, depth and number of elements are bounded, and no part is read twice.
// - There is no DOCTYPE, and so no entity but the five of XML itself and characters by number: nothing that is read leads
//   to a file, or grows.
// - What is not well-formed is refused, with its line, and never mended.

export interface XmlElement {
  readonly name: string;
  readonly attributes: ReadonlyMap<string, string>;
  readonly children: readonly XmlElement[];
}

/** Why a text is not taken, as a clause. */
export class XmlFault extends Error {
  override readonly name = "XmlFault";
}

const MOST_ELEMENTS = 100_000;
const MOST_DEPTH = 100;

const NAME = "[A-Za-z_:\\u{80}-\\u{10FFFF}][A-Za-z0-9_:.\\-\\u{80}-\\u{10FFFF}]*";
const OPENING = new RegExp(`<(${NAME})`, "uy");
const CLOSING = new RegExp(`</(${NAME})[ \\t\\r\\n]*>`, "uy");
const ATTRIBUTE = new RegExp(
  `[ \\t\\r\\n]+(${NAME})[ \\t\\r\\n]*=[ \\t\\r\\n]*(?:"([^"<]*)"|'([^'<]*)')`,
  "uy",
);
const END_OF_TAG = /[ \t\r\n]*(\/?)>/uy;

/** What is passed over, up to its end. */
const SKIPPED: readonly (readonly [start: string, end: string])[] = [
  ["<!--", "-->"],
  ["<![CDATA[", "]]>"],
  ["<?", "?>"],
];

interface OpenElement extends XmlElement {
  readonly children: XmlElement[];
}

/** The root element. */
export function readXml(text: string): XmlElement {
  const top: OpenElement = { name: "", attributes: new Map(), children: [] };
  const open: OpenElement[] = [top];
  let elements = 0;
  let at = text.startsWith("\u{FEFF}") ? 1 : 0;
  const fail = (why: string): never => {
    throw new XmlFault(`line ${text.slice(0, at).split("\n").length}: ${why}`);
  };
  for (;;) {
    const next = text.indexOf("<", at);
    const between = text.slice(at, next === -1 ? undefined : next);
    if (open.length === 1 && between.trim() !== "") fail("text stands outside of the root element");
    if (next === -1) break;
    at = next;
    const end = endOfSkipped(text, at);
    if (end === -1) fail("what begins there has no end");
    if (end !== undefined) {
      at = end;
      continue;
    }
    const closing = match(CLOSING, text, at);
    if (closing) {
      if (open.length === 1 || open.at(-1)?.name !== closing[1]) fail(`</${closing[1]}> closes nothing`);
      open.pop();
      at += closing[0].length;
      continue;
    }
    const tag = readTag(text, at);
    if (typeof tag === "string") return fail(tag);
    elements += 1;
    if (elements > MOST_ELEMENTS) fail(`it has more than ${MOST_ELEMENTS} elements`);
    if (open.length > MOST_DEPTH) fail(`its elements lie more than ${MOST_DEPTH} deep`);
    open.at(-1)?.children.push(tag.element);
    if (!tag.isEmpty) open.push(tag.element);
    at = tag.end;
  }
  if (open.length > 1) fail(`<${open.at(-1)?.name}> is not closed`);
  const [root, other] = top.children;
  if (!root || other) return fail(root ? "it has two root elements" : "it has no element");
  return root;
}

/** Undefined: nothing of that kind begins there; -1: it has no end. */
function endOfSkipped(text: string, at: number): number | undefined {
  const skipped = SKIPPED.find(([start]) => text.startsWith(start, at));
  if (!skipped) return undefined;
  const [start, end] = skipped;
  const found = text.indexOf(end, at + start.length);
  return found === -1 ? -1 : found + end.length;
}

/** A string says why it is none. */
function readTag(
  text: string,
  start: number,
): { readonly element: OpenElement; readonly isEmpty: boolean; readonly end: number } | string {
  const opening = match(OPENING, text, start);
  if (text.startsWith("<!DOCTYPE", start)) return "a DOCTYPE is refused";
  if (!opening?.[1]) return "'<' begins no tag";
  let at = start + opening[0].length;
  const attributes = new Map<string, string>();
  for (let found = match(ATTRIBUTE, text, at); found; found = match(ATTRIBUTE, text, at)) {
    const [all, name = "", double, single] = found;
    const value = decode(double ?? single ?? "");
    if (value === undefined) return `attribute '${name}' has a reference that stands for nothing`;
    if (attributes.has(name)) return `attribute '${name}' stands twice`;
    attributes.set(name, value);
    at += all.length;
  }
  const end = match(END_OF_TAG, text, at);
  if (!end) return `the tag <${opening[1]}> is not well-formed`;
  return {
    element: { name: opening[1], attributes, children: [] },
    isEmpty: end[1] === "/",
    end: at + end[0].length,
  };
}

function match(pattern: RegExp, text: string, at: number): RegExpExecArray | null {
  pattern.lastIndex = at;
  return pattern.exec(text);
}

const ENTITIES: Readonly<Record<string, string>> = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

/** The value of an attribute; undefined where it has a reference to nothing. */
function decode(raw: string): string | undefined {
  let isSound = true;
  const value = raw.replaceAll(/[\t\r\n]/g, " ").replaceAll(/&([^;&]{0,12});?/g, (all, name: string) => {
    const character = all.endsWith(";") ? (ENTITIES[name] ?? characterOf(name)) : undefined;
    isSound &&= character !== undefined;
    return character ?? "";
  });
  return isSound ? value : undefined;
}

function characterOf(name: string): string | undefined {
  const [, hex, decimal] = /^#(?:x([0-9a-fA-F]{1,6})|([0-9]{1,7}))$/.exec(name) ?? [];
  const code = Number.parseInt(hex ?? decimal ?? "", hex === undefined ? 10 : 16);
  const isCharacter = code > 0 && code <= 0x10ffff && !(code >= 0xd800 && code <= 0xdfff);
  return isCharacter ? String.fromCodePoint(code) : undefined;
}
