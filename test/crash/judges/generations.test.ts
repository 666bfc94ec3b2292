import { expect, test } from "vitest";
import { isAlikeButForMirror } from "./generations.ts";

const END = [
  "`mirror vda` ends with 0",
  "generation 2",
  "history 2: snapshot vda: vda /a1",
  "history 1: device-add vda: vda /a",
];

function withMore(...more: readonly string[]): string {
  const summaries = [...more, "snapshot vda: vda /a1", "device-add vda: vda /a"];
  const history = summaries.map((line, index) => `history ${summaries.length - index}: ${line}`);
  return [END[0], `generation ${summaries.length}`, ...history].join("\n");
}

const WANTED = END.join("\n");

test("one further generation of a mirror is allowed, wherever it stands", () => {
  expect(isAlikeButForMirror(withMore(), WANTED)).toBe(true);
  expect(isAlikeButForMirror(withMore("mirror vda: vda /a1"), WANTED)).toBe(true);
});

test("nothing else is: no second one, none of another action, none that is missing, no other number, no other disk", () => {
  expect(isAlikeButForMirror(withMore("mirror vda: vda /a1", "mirror vda: vda /a1"), WANTED)).toBe(false);
  expect(isAlikeButForMirror(withMore("reopen vda: vda /a1"), WANTED)).toBe(false);
  expect(isAlikeButForMirror(withMore("mirror-cancel vda: vda /a1"), WANTED)).toBe(false);
  expect(isAlikeButForMirror(WANTED, withMore("mirror vda: vda /a1"))).toBe(false);
  expect(isAlikeButForMirror(WANTED.replace("generation 2", "generation 3"), WANTED)).toBe(false);
  expect(isAlikeButForMirror(WANTED.replace("ends with 0", "ends with 14"), WANTED)).toBe(false);
});
