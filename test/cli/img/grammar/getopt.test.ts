import { describe, expect, test } from "vitest";
import { parseWords } from "../../../../src/cli/img/grammar/getopt.ts";
import { parseImageName } from "../../../../src/cli/img/grammar/image-name.ts";
import { asksForHelp, parseOptionLists } from "../../../../src/cli/img/grammar/option-list.ts";
import { readSize } from "../../../../src/cli/img/grammar/size.ts";

const OPTIONS = [
  { short: "f", long: "format", value: { name: "FMT", completes: "nothing" }, about: "" },
  { short: "q", about: "" },
  { short: "p", about: "" },
  { long: "output", value: { name: "OFMT", completes: "nothing" }, about: "" },
  { long: "object", value: { name: "DEF", completes: "nothing" }, about: "" },
  { long: "backing-chain", about: "" },
] as const;

function parse(...words: string[]): { options: string[]; operands: readonly string[] } {
  const { options, operands } = parseWords(words, OPTIONS, {
    program: "qemu-img",
    verb: "info",
    qemuVersion: 7.2,
  });
  return { options: options.map(({ flag, value }) => `${flag}${value ?? ""}`), operands };
}

describe("the grammar of getopt_long", () => {
  test("takes values in the word, after it, and after an equals sign", () => {
    expect(parse("-fraw", "-f", "qcow2", "--format=x", "--format", "y").options).toEqual([
      "--formatraw",
      "--formatqcow2",
      "--formatx",
      "--formaty",
    ]);
  });

  test("takes clusters, options after operands, and all after -- as operands", () => {
    expect(parse("a", "-qpfraw", "-", "--", "-q")).toEqual({
      options: ["-q", "-p", "--formatraw"],
      operands: ["a", "-", "-q"],
    });
  });

  test("takes a long name abbreviated as far as it is unique", () => {
    expect(parse("--b", "--ou=json").options).toEqual(["--backing-chain", "--outputjson"]);
    expect(() => parse("--o=json")).toThrow("unrecognized option '--o=json'");
  });

  test.each([
    [["--frob"], "unrecognized option '--frob'"],
    [["-x"], "unrecognized option '-x'"],
    [["-qx"], "unrecognized option '-qx'"],
    [["-xq"], "unrecognized option 'info'"],
    [["--backing-chain=1"], "unrecognized option '--backing-chain=1'"],
    [["-f"], "missing argument for option '-f'"],
    [["--object"], "missing argument for option '--object'"],
  ])("%j is refused: %s", (words, message) => {
    expect(() => parse(...words)).toThrow(message);
  });
});

describe("a list of options", () => {
  test("has doubled commas in values, and switches", () => {
    expect(parseOptionLists(["backing_file=a,,b", "lazy_refcounts,size=1G"])).toEqual([
      { name: "backing_file", value: "a,b" },
      { name: "lazy_refcounts", value: undefined },
      { name: "size", value: "1G" },
    ]);
  });

  test.each([[","], [",a=b"], ["a=b,"], [""]])("'%s' is no list", (list) => {
    expect(() => parseOptionLists([list])).toThrow(`Invalid option list: ${list}`);
  });

  test("asks for help with a bare word only", () => {
    expect(asksForHelp(parseOptionLists(["size=1G,help"]))).toBe(true);
    expect(asksForHelp(parseOptionLists(["backing_file=help"]))).toBe(false);
  });
});

describe("a size", () => {
  test.each([
    ["512", 512],
    ["1.5G", 1610612736],
    [" +2k", 2048],
    ["1.M", 1048576],
    ["0x400", 1024],
  ])("%s is %i", (text, bytes) => {
    expect(readSize("image size", text, 7.2)).toBe(bytes);
  });

  test.each([["1X"], ["1e3"], ["-5"], [""], ["0x"], ["1.5"], ["10GiB"]])("'%s' is none", (text) => {
    expect(() => readSize("image size", text, 7.2)).toThrow(
      /^Invalid image size specified\. You may use k, M/,
    );
  });

  test("beyond the limits is told with them", () => {
    expect(() => readSize("image size", "8192P", 7.2)).toThrow("Must be between 0 and 9223372036854775807.");
    expect(() => readSize("bs", "0", 7.2, { least: 1, most: 2147483647n })).toThrow(
      "Invalid bs specified. Must be between 1 and 2147483647.",
    );
  });
});

describe("an image's name", () => {
  const plain = { format: undefined, backing: undefined, forceShare: false };

  test("may be a file's, with and without file: in front", () => {
    expect(parseImageName("d/a:b", false)).toEqual({ ...plain, file: "d/a:b" });
    expect(parseImageName("file:a", false)).toEqual({ ...plain, file: "a" });
    expect(parseImageName("./a:b", false)).toEqual({ ...plain, file: "./a:b" });
  });
});

test("options and JSON name the file, its format and its backing image", () => {
  const expected = {
    file: "a,b",
    format: "qcow2",
    forceShare: true,
    backing: { file: "c", format: "raw", backing: undefined, forceShare: false },
  };
  const list =
    "driver=qcow2,file.driver=file,file.filename=a,,b,force-share=on,backing.driver=raw,backing.file.filename=c";
  expect(parseImageName(list, true)).toEqual(expected);
  const tree = {
    driver: "qcow2",
    file: { driver: "file", filename: "a,b" },
    "force-share": "on",
    backing: { driver: "raw", file: { filename: "c" } },
  };
  expect(parseImageName(`json:${JSON.stringify(tree)}`, false)).toEqual(expected);
});

test.each([
  ["a.qcow2", "Could not open 'a.qcow2': Cannot find device='a.qcow2' nor node-name='a.qcow2'"],
  ["driver=qcow2", `Could not open 'driver=qcow2': A block device must be specified for "file"`],
  [
    "driver=qcow2,foo=1,file.filename=a",
    "Could not open 'driver=qcow2,foo=1,file.filename=a': Block format 'qcow2' does not support the option 'foo'",
  ],
])("--image-opts %s is refused in qemu-img's words", (operand, message) => {
  expect(() => parseImageName(operand, true)).toThrow(message);
});

test("a protocol's name is refused before anything is opened", () => {
  expect(() => parseImageName("nbd://host/x", false)).toThrow(/imgtx opens files only, not 'nbd:'/);
});
