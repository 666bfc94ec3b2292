// A journal as bytes: one line a record, `LENGTH SHA256 JSON\n`. LENGTH counts the bytes of the JSON, and
// the digest covers the digest of the record before it and the JSON, so that no record can be dropped,
// swapped or changed unseen.
//
// A record is written with one call and flushed before the next one begins. So a crash can tear the last
// record only: a bad record with nothing that looks like a record after it is a torn tail, and was never
// acknowledged. A bad record anywhere else is damage.

import { hash } from "node:crypto";
import { parseJson } from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import { assertVersion, readRecords } from "./record-shape.ts";
import type { JournalRecord } from "./records.ts";
import type { StoredValue } from "./upgrade.ts";

/** Stands for the digest of the record before the first one. */
export const FIRST_DIGEST = "0".repeat(64);

export interface ParsedJournal {
  readonly records: readonly JournalRecord[];
  /** Digest of the last good record. */
  readonly digest: string;
  /** Where the next record goes: the end of the last good one. */
  readonly endBytes: number;
  /** Whether a torn record stands after the end. */
  readonly torn: boolean;
}

export function encodeRecord(json: string, previousDigest: string): { line: Uint8Array; digest: string } {
  const digest = digestOf(previousDigest, json);
  return { line: Buffer.from(`${Buffer.byteLength(json)} ${digest} ${json}\n`), digest };
}

const DECODER = new TextDecoder();
const NEWLINE = 0x0a;
const HEADER = /^(\d{1,9}) ([0-9a-f]{64}) /;
const LONGEST_LENGTH = 9;
const LONGEST_HEADER = LONGEST_LENGTH + 1 + 64 + 1;
/** What the beginning of a record looks like anywhere in a damaged rest. */
const LOOKS_LIKE_RECORD = /\d [0-9a-f]{64} \{"type":/;

/**
 * E_JOURNAL with the offset where a record is damaged and more records follow, or where one is whole and no
 * record of imgtx; E_UNSUPPORTED for another version.
 */
export function parseJournal(bytes: Uint8Array, file: string): ParsedJournal {
  const values: StoredValue[] = [];
  let digest = FIRST_DIGEST;
  let at = 0;
  while (at < bytes.length) {
    const parsed = parseRecord(bytes, at, digest);
    if (!parsed) {
      assertTornTail(bytes, at, file);
      return { records: readRecords(values, file), digest, endBytes: at, torn: true };
    }
    if (at === 0) assertVersion(parsed.value, file);
    values.push({ value: parsed.value, offset: at });
    digest = parsed.digest;
    at = parsed.endBytes;
  }
  return { records: readRecords(values, file), digest, endBytes: at, torn: false };
}

/**
 * The devices that a damaged journal still names; null where a record that may be a plan does not tell them any more,
 * or has gone. What it names too many of is held a little longer than it need be.
 */
export function findDevicesInDamage(bytes: Uint8Array): string[] | null {
  const lines = new TextDecoder().decode(bytes).split("\n");
  if (!lines[0]?.includes(' {"type":"begin"')) return null;
  const found = new Set<string>();
  let plans = 0;
  for (const line of lines) {
    if (line.includes(' {"type":"plan"')) {
      // Named several times: what spoiled one of them has left another.
      const names = [...line.matchAll(DEVICE_LISTS)].flatMap(([list]) => [...list.matchAll(NAMES)]);
      if (names.length === 0) return null;
      for (const [, name = ""] of names) found.add(name);
      plans += 1;
    } else if (line !== "" && !PLANS_NOTHING.test(line)) return null;
    const statement = STATEMENT.exec(line)?.[1];
    if (statement !== undefined && Number(statement) >= plans) return null;
  }
  return [...found].sort();
}

/** A record of another type, by the beginning that each has. */
const PLANS_NOTHING = / \{"type":"(?!plan")[a-z]+"/;
const DEVICE_LISTS = /"devices":\[[^\]]*\]|"device":"[^"]*"/g;
const NAMES = /"([A-Za-z0-9_][A-Za-z0-9_.+-]*)"(?!:)/g;
const STATEMENT = /"statement":(\d+)/;

function parseRecord(
  bytes: Uint8Array,
  at: number,
  previousDigest: string,
): { value: unknown; digest: string; endBytes: number } | undefined {
  const header = HEADER.exec(latin1(bytes.subarray(at, at + LONGEST_HEADER)));
  if (!header) return undefined;
  const start = at + header[0].length;
  const end = start + Number(header[1]);
  if (bytes[end] !== NEWLINE) return undefined;
  const json = DECODER.decode(bytes.subarray(start, end));
  const digest = digestOf(previousDigest, json);
  return digest === header[2] ? { value: parseJson(json), digest, endBytes: end + 1 } : undefined;
}

function assertTornTail(bytes: Uint8Array, at: number, file: string): void {
  const rest = latin1(bytes.subarray(at));
  // Its own header is no further record, whole or with its first sector lost: the digit before the digest
  // is one of the first.
  const ownHeader = HEADER.exec(rest);
  const hasMore = LOOKS_LIKE_RECORD.test(rest.slice(ownHeader ? ownHeader[0].length : LONGEST_LENGTH));
  if (!hasMore && !isWholeRecord(rest, ownHeader)) return;
  throw new ImgtxError("E_JOURNAL", "the journal is damaged", {
    image: file,
    offset: at,
    hint: "put back a copy of the journal, or of the disk that it is on; imgtx touches nothing of this transaction until then",
  });
}

/** Whether the rest is a record from end to end, but for its digest: a tear leaves no such thing. */
function isWholeRecord(rest: string, header: RegExpExecArray | null): boolean {
  if (!header) return false;
  const json = rest.slice(header[0].length);
  return json.length === Number(header[1]) + 1 && json.endsWith("\n") && parseJson(json) !== undefined;
}

function digestOf(previousDigest: string, json: string): string {
  return hash("sha256", `${previousDigest}${json}`, "hex");
}

function latin1(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("latin1");
}
