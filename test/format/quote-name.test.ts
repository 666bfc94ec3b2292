import { expect, test } from "vitest";
import { quoteName } from "../../src/format/index.ts";
import { shellQuote, withWorkspaceNamed } from "../../src/format/quote-name.ts";

test("a plain name is quoted as it is, umlauts and all", () => {
  expect(quoteName("Bücher/a b.qcow2")).toBe('"Bücher/a b.qcow2"');
});

test.each([
  ["an escape sequence", "\u001b[2J", '"\\u{1b}[2J"'],
  ["a line break", "a\nb", '"a\\u{a}b"'],
  ["a bidirectional override", "a\u202egpj", '"a\\u{202e}gpj"'],
  ["an invisible tag", "a\u{e0041}", '"a\\u{e0041}"'],
  ["a quotation mark", 'a"b', '"a\\"b"'],
  ["a backslash", "a\\b", '"a\\\\b"'],
])("%s is written as an escape", (_, name, quoted) => {
  expect(quoteName(name)).toBe(quoted);
});

test.each([
  ["/images/a-b_1.qcow2", "/images/a-b_1.qcow2"],
  ["a b", "'a b'"],
  ["$(rm -rf ~)'; x", "'$(rm -rf ~)'\\''; x'"],
])("%s is one word of a shell command", (name, word) => {
  expect(shellQuote(name)).toBe(word);
});

test.each([
  [
    "`imgtx recover`; `imgtx txn abort 7` ends it",
    "`imgtx --workspace /w recover`; `imgtx --workspace /w txn abort 7` ends it",
  ],
  ["`imgtx img check a`, `imgtx init`, `imgtx help undo`", undefined],
  ["`imgtx --workspace /v recover`, or `sudo -u a imgtx recover`", undefined],
  ["`imgtx recover` in the workspace of that transaction ends it", undefined],
])("the commands of %s name the workspace that they are for", (text, named = text) => {
  expect(withWorkspaceNamed(text, "/w")).toBe(named);
});

test("a workspace's name is one word of each command", () => {
  expect(withWorkspaceNamed("`imgtx recover`, `imgtx undo`", "/a $& b")).toBe(
    "`imgtx --workspace '/a $& b' recover`, `imgtx --workspace '/a $& b' undo`",
  );
});
