// The JSON of a batch: what QEMU's monitor takes is taken, what two readers could take differently is not.

import { describe, expect, test } from "vitest";
import { drawJson, parseJsonStream } from "../../../../src/cli/batch/qmp/json.ts";
import { startEffort } from "../../../helpers/effort.ts";

function redraw(text: string): string {
  return parseJsonStream(text).map(drawJson).join(" ");
}

function failure(text: string): string {
  try {
    parseJsonStream(text);
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
  throw new Error(`${text.slice(0, 50)} was taken`);
}

test.each([
  ["", ""],
  [" \r\n\t", ""],
  ['{"a": [1, -2.5e3, true, false, null, "x"]}', '{"a": [1, -2500, true, false, null, "x"]}'],
  ["{}[]{ } [ ]", "{} [] {} []"],
  [`{'single': 'it\\'s "so"'}`, `{"single": "it's \\"so\\""}`],
  ['"\\u00e4\\ud83d\\ude00\\/\\b\\f\\n\\r\\t\\\\"', '"ä😀/\\b\\f\\n\\r\\t\\\\"'],
  ["12345678901234567890 -9223372036854775808", "12345678901234567890 -9223372036854775808"],
  ["1.0 0 -0", "1 0 0"],
  ['{"__proto__": 1, "constructor": 2}', '{"__proto__": 1, "constructor": 2}'],
  ['"\u{202e}\\u001b"', '"\\u202e\\u001b"'],
])("%j reads as %j", (text, drawn) => {
  expect(redraw(text)).toBe(drawn);
});

test.each([
  ["{", "line 1, column 2: the name of a member should be here"],
  ["[1", "line 1, column 3: it ends in the middle"],
  ["[1,]", "line 1, column 4: a value should be here"],
  ['{"a" 1}', "line 1, column 6: a colon should be here"],
  ['{"a": 1 "b": 2}', "line 1, column 9: ',' or '}' should be here"],
  ['\n\n {"a": 1, "a": 2}', "line 3, column 11: the member 'a' stands twice"],
  ['{"\\u0061": 1, "a": 2}', "the member 'a' stands twice"],
  ['["\\u0000"]', "line 1, column 2: the string holds an escape"],
  ['["\\ud800"]', "line 1, column 2: the string holds an escape"],
  ['["\\x41"]', "an escape is not known"],
  ['["\\u00g0"]', "an escape is not known"],
  ['["a\nb"]', "a control character in a string"],
  ['["a\0b"]', "a control character in a string"],
  ["[\0]", "line 1, column 2: a value should be here"],
  ['["a', "line 1, column 4: a string is not closed"],
  ["01", "a number is malformed"],
  ["1.", "a number is malformed"],
  ["-", "a number is malformed"],
  ["0x10", "a number is malformed"],
  ["1e999", "a number is too large"],
  ["123456789012345678901", "a number is too large"],
  ["nul", "a value should be here"],
  ["toString", "a value should be here"],
  ["NaN", "a value should be here"],
  ["[1]]", "line 1, column 4: a value should be here"],
  ['"a\u{FFFD}b"', "line 1, column 3: here is a byte that is not UTF-8"],
])("%j is refused: %s", (text, says) => {
  expect(failure(text)).toContain(says);
});

describe("a text of a megabyte", () => {
  test.each([
    ["digits", "9".repeat(1_000_000), "a number is too large"],
    ["lists in lists", "[".repeat(1_000_000), "line 1, column 129: it is nested deeper than 128 levels"],
    ["objects in objects", '{"a":'.repeat(200_000), "it is nested deeper than 128 levels"],
    ["one string", `"${"a".repeat(1_000_000)}`, "column 1000002: a string is not closed"],
    ["line breaks", "\n".repeat(1_000_000) + "x", "line 1000001, column 1: a value should be here"],
  ])("of %s is refused", (_what, text, says) => {
    expect(failure(text)).toContain(says);
  });

  test("of many values is read in a time that grows with its length alone", () => {
    const effort = startEffort();
    expect(parseJsonStream(`[${'{"a": "bcdefgh\\n", "c": 1},'.repeat(300_000)}0]`)).toHaveLength(1);
    expect(effort()).toBeLessThan(10_000);
  });
});
