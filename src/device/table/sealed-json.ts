// JSON with its checksum, one line of it: how the table, the history and the snapshots are written. The checksum shows
// that a file is whole; what it holds is judged by its shape afterwards.

import { hash } from "node:crypto";
import { isObject, parseJson } from "./data-shape.ts";

const UTF8 = new TextDecoder("utf-8", { ignoreBOM: true });

/** Ready to be written. The label says what it is. */
export function sealJson(label: string, content: string): Uint8Array {
  return new TextEncoder().encode(`{"sha256":"${digestOf(content)}","${label}":${content}}\n`);
}

/** The object in it; a text says why there is none, as a clause. */
export function openSealed(
  label: string,
  what: string,
  bytes: Uint8Array,
): Readonly<Record<string, unknown>> | string {
  const text = UTF8.decode(bytes);
  const start = `","${label}":`;
  const head = /^\{"sha256":"([0-9a-f]{64})/.exec(text);
  const begin = (head?.[0].length ?? 0) + start.length;
  if (!head || text.slice(head[0].length, begin) !== start || !text.endsWith("}\n"))
    return `it is not ${what}`;
  const content = text.slice(begin, -2);
  if (digestOf(content) !== head[1]) return "its checksum does not match";
  const value = parseJson(content);
  return isObject(value) ? value : "it holds something else";
}

function digestOf(content: string): string {
  return hash("sha256", content, "hex");
}
