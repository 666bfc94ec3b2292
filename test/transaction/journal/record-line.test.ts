// A journal as bytes: what each kind of damage is taken for. A torn tail was never acknowledged and is
// dropped; anything else is refused with its place.

import { createHash } from "node:crypto";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { type ParsedJournal, parseJournal } from "../../../src/transaction/journal/record-line.ts";
import { seededRandom } from "../../helpers/random.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import {
  BEGIN,
  encodeJournal,
  encodeLines,
  planRecord,
  preparedRecord,
} from "../../helpers/transaction/journals.ts";

const RECORDS = [BEGIN, planRecord(0), preparedRecord(0), { type: "done", statement: 0 }] as const;
const LINES = encodeLines(RECORDS);
const WHOLE = encodeJournal(RECORDS);
const LAST_START = WHOLE.length - LINES[3]!.length;

/** Records that survive, or the error. */
function parse(bytes: Uint8Array): ParsedJournal | ImgtxError {
  try {
    return parseJournal(bytes, "t.journal");
  } catch (error) {
    if (error instanceof ImgtxError) return error;
    throw error;
  }
}

/** Where each record begins, and the end. */
const STARTS = [...LINES, new Uint8Array()].map((_, index) =>
  LINES.slice(0, index).reduce((sum, line) => sum + line.length, 0),
);

function recordAt(byte: number): number {
  return STARTS.findLastIndex((start) => start <= byte);
}

describe("a journal's bytes", () => {
  test("are lines of length, chained digest and JSON", () => {
    const begin = JSON.stringify(BEGIN);
    const beginDigest = createHash("sha256").update("0".repeat(64)).update(begin).digest("hex");
    const abort = '{"type":"abort"}';
    const abortDigest = createHash("sha256").update(beginDigest).update(abort).digest("hex");
    expect(Buffer.from(encodeJournal([BEGIN, { type: "abort" }])).toString()).toBe(
      `${begin.length} ${beginDigest} ${begin}\n16 ${abortDigest} ${abort}\n`,
    );
  });

  test("come back as the records that were written", () => {
    const records = [{ ...BEGIN, name: 'nächtlich\n\u2028 "x"' }, ...RECORDS.slice(1)];
    expect(parse(encodeJournal(records))).toMatchObject({ records, torn: false });
    expect(parse(new Uint8Array())).toMatchObject({ records: [], torn: false, endBytes: 0 });
  });

  test("cut off anywhere hold the records before the cut, and go on after them", () => {
    for (let cut = 0; cut <= WHOLE.length; cut += 1) {
      const whole = recordAt(cut);
      expect(parse(WHOLE.subarray(0, cut)), `cut at ${cut}`).toMatchObject({
        records: RECORDS.slice(0, whole),
        endBytes: STARTS[whole],
        torn: cut !== STARTS[whole],
      });
    }
  });

  test("whose last record lost any of its first bytes to a torn sector hold the records before it", () => {
    for (let lost = 1; lost <= LINES[3]!.length; lost += 1) {
      const torn = Uint8Array.from(WHOLE).fill(0, LAST_START, LAST_START + lost);
      expect(parse(torn), `${lost} bytes lost`).toMatchObject({ records: RECORDS.slice(0, 3), torn: true });
    }
  });

  test("whose long last record lost any of its sectors hold the records before it", () => {
    const long = { ...planRecord(0), devices: Array.from({ length: 300 }, (_, index) => `device${index}`) };
    const [begin, plan] = encodeLines([BEGIN, long]);
    const random = seededRandom(7);
    for (let round = 0; round < 200; round += 1) {
      // The record starts at any place in a sector.
      const shift = random.below(512);
      const torn = Buffer.concat([begin!, plan!]);
      for (let at = 512 - shift; at < plan!.length; at += 512) {
        if (random.below(2) === 1)
          torn.fill(0, begin!.length + at, begin!.length + Math.min(at + 512, plan!.length));
      }
      torn.fill(0, begin!.length, begin!.length + 512 - shift);
      expect(parse(torn)).toMatchObject({ records: [BEGIN], torn: true });
    }
  });

  test("with any byte changed are refused at that record, unless it is the last one and may be torn", () => {
    let wholeAndRefused = 0;
    for (let at = 0; at < WHOLE.length; at += 1) {
      const damaged = Uint8Array.from(WHOLE);
      damaged[at] = (damaged[at] ?? 0) ^ 0x04;
      const record = recordAt(at);
      const refused = { code: "E_JOURNAL", offset: STARTS[record], image: "t.journal" };
      const torn = { records: RECORDS.slice(0, 3), torn: true };
      const isWhole = record === 3 && parse(damaged) instanceof ImgtxError;
      expect(parse(damaged), `byte ${at}`).toMatchObject(record < 3 || isWhole ? refused : torn);
      wholeAndRefused += isWhole ? 1 : 0;
    }
    // A record from end to end with a wrong digest is none that a tear leaves.
    expect(wholeAndRefused).toBeGreaterThan(40);
  });

  test.each([
    ["a record left out", [LINES[0]!, LINES[2]!, LINES[3]!], 1],
    ["two records swapped", [LINES[0]!, LINES[2]!, LINES[1]!, LINES[3]!], 1],
    ["a record twice", [LINES[0]!, LINES[1]!, LINES[1]!, LINES[2]!], 2],
    ["the first record left out", LINES.slice(1), 0],
    ["a record of another journal", [...encodeLines([{ ...BEGIN, pid: 43 }]), ...LINES.slice(1)], 1],
  ])("with %s are refused where it shows", (_, lines, record) => {
    const offset = lines.slice(0, record).reduce((sum, line) => sum + line.length, 0);
    expect(parse(Buffer.concat(lines))).toMatchObject({ code: "E_JOURNAL", offset });
  });

  test("of an earlier imgtx do not say where the transaction was begun: nobody joins it unasked", () => {
    const { origin: _, ...begin } = BEGIN;
    const { records } = parseJournal(encodeJournal([begin]), "t.journal");
    expect(records).toEqual([{ ...begin, origin: null }]);
  });

  test("of another version are refused as that, whatever follows", async () => {
    const journal = encodeJournal([
      { ...BEGIN, version: 7 },
      { type: "merge", later: true },
    ]);
    const failure = await failureOf(() => parseJournal(journal, "t.journal"));
    expect(failure).toMatchObject({ code: "E_UNSUPPORTED", image: "t.journal" });
    expect(failure.message).toContain("version 7; this imgtx reads 1, 2, 3, 4, 5 and 6");
  });

  test.each([
    ["a type that does not exist", { type: "merge" }],
    ["no type", {}],
    ["a type of every object", { type: "constructor" }],
    ["a list", []],
    ["null", null],
    ["a field of another kind", { type: "done", statement: "0" }],
    ["a field missing", { type: "plan", statement: 1 }],
    ["a number below zero", { type: "undo", from: -1 }],
    ["an action that does not exist", { ...planRecord(1), kind: "defragment" }],
  ])("with right digests around %s are refused with the place", (_, value) => {
    expect(parse(encodeJournal([...RECORDS, value]))).toMatchObject({
      code: "E_JOURNAL",
      offset: WHOLE.length,
    });
  });
});
