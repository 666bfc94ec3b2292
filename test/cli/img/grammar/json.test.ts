import { expect, test } from "vitest";
import { drawJson, quoteJson } from "../../../../src/cli/img/grammar/json.ts";

test("members are in the order of QEMU's dictionaries", () => {
  const info = {
    "actual-size": 1,
    "cluster-size": 2,
    "dirty-flag": false,
    filename: "a.qcow2",
    format: "qcow2",
    "format-specific": { data: { compat: "1.1", corrupt: false, "extended-l2": false }, type: "qcow2" },
    "virtual-size": 3,
  };
  expect(drawJson(info)).toBe(`{
    "virtual-size": 3,
    "filename": "a.qcow2",
    "cluster-size": 2,
    "format": "qcow2",
    "actual-size": 1,
    "format-specific": {
        "type": "qcow2",
        "data": {
            "compat": "1.1",
            "corrupt": false,
            "extended-l2": false
        }
    },
    "dirty-flag": false
}`);
});

test("what is undefined is left out, and an empty list takes two lines", () => {
  expect(drawJson({ a: undefined, b: [] })).toBe('{\n    "b": [\n    ]\n}');
});

test("text beyond ASCII is escaped by units", () => {
  expect(quoteJson('ü"\u{1f4be}\n\u007f')).toBe('"\\u00FC\\"\\uD83D\\uDCBE\\n\\u007F"');
  expect(quoteJson("\u001b \\u001b")).toBe('"\\u001B \\\\u001b"');
});
