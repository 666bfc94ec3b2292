import * as fc from "fast-check";
import { describe, expect, test } from "vitest";
import { KNOWN_FEATURES } from "../../../../src/format/qcow2/codec/features.ts";
import { decodeExtensions, encodeExtensions } from "../../../../src/format/qcow2/codec/header-extension.ts";
import { errorOf } from "../../../helpers/expect-error.ts";
import { fromHex, headerExtensions } from "../../../helpers/format/header-samples.ts";

function decode(hex: string) {
  const area = fromHex(hex);
  return decodeExtensions(area, 0, { end: area.length, endedBy: "cluster" }).extensions;
}

describe("qcow2 header extensions", () => {
  test("decode the backing format that qemu-img writes", () => {
    expect(decode("e2792aca 00000003 7261770000000000 0000000000000000")).toEqual([
      { kind: "backingFormat", format: "raw" },
    ]);
  });

  test("decode each known type, and keep an unknown one byte for byte, in order", () => {
    const bitmaps = "23852875 00000018 00000002 00000000 0000000000000040 0000000000090000";
    const encryption = "0537be77 00000010 0000000000040000 00000000000003ff";
    const dataFile = "44415441 00000006 642e62696e32 0000";
    const unknown = "12345678 00000003 c0ffee 0000000000";
    expect(decode(`${unknown} ${bitmaps} ${encryption} ${dataFile} 0000000000000000`)).toEqual([
      { kind: "unknown", type: 0x12345678, data: fromHex("c0ffee") },
      { kind: "bitmaps", nbBitmaps: 2, bitmapDirectorySize: 64, bitmapDirectoryOffset: 0x90000 },
      { kind: "fullDiskEncryption", offset: 0x40000, length: 1023 },
      { kind: "dataFile", name: "d.bin2" },
    ]);
  });

  test("decode a feature name table of qemu-img", () => {
    const entry = `0004${Buffer.from("extended L2 entries").toString("hex").padEnd(92, "0")}`;
    expect(decode(`6803f857 00000030 ${entry} 0000000000000000`)).toEqual([
      { kind: "featureNames", names: [KNOWN_FEATURES[4]] },
    ]);
  });

  test("give back any list byte for byte", () => {
    fc.assert(
      fc.property(headerExtensions, (extensions) => {
        const area = encodeExtensions(extensions);
        const decoded = decodeExtensions(area, 0, { end: area.length, endedBy: "cluster" });
        expect(decoded).toEqual({ extensions, end: area.length });
        expect(encodeExtensions(decoded.extensions)).toEqual(area);
      }),
    );
  });

  test("may go without an end mark only before a backing file name", () => {
    const area = fromHex("e2792aca 00000003 7261770000000000");
    const limit = { end: area.length, endedBy: "backing file name" } as const;
    expect(decodeExtensions(area, 0, limit).extensions).toHaveLength(1);
    expect(errorOf(() => decodeExtensions(area, 0, { ...limit, endedBy: "cluster" })).code).toBe("E_CORRUPT");
  });

  test.each([
    ["one that runs out of the area", "e2792aca 00000009 7261770000000000"],
    ["a length of 4 GiB", "12345678 ffffffff 7261770000000000"],
    ["an area that ends inside an extension's header", "12345678 00000000 12345678"],
    ["the same type twice", "e2792aca00000000 e2792aca00000000 0000000000000000"],
    ["a backing format of 16 bytes", "e2792aca 00000010 61616161616161616161616161616161 0000000000000000"],
    ["a bitmaps extension of another length", "23852875 00000008 0000000100000000 0000000000000000"],
    [
      "a reserved field that is set",
      "23852875 00000018 00000001 00000001 0000000000000020 0000000000090000 0000000000000000",
    ],
    ["an encryption pointer of another length", "0537be77 00000008 0000000000040000 0000000000000000"],
    ["a feature name table that ends inside an entry", "6803f857 00000008 0000616161616161 0000000000000000"],
    ["a data file name with a NUL byte", "44415441 00000008 612e0062696e3232 0000000000000000"],
    ["an end mark with a length", "00000000 00000008 0000000000000000"],
  ])("are refused with %s", (_, hex) => {
    const error = errorOf(() => decode(hex));
    expect(error.code).toBe("E_CORRUPT");
    expect(error.field).toBeTypeOf("string");
    expect(error.offset).toBeTypeOf("number");
  });

  test("are refused with a name that is not UTF-8, since it could not be opened unchanged", () => {
    expect(errorOf(() => decode("44415441 00000001 ff 00000000000000 0000000000000000")).code).toBe(
      "E_UNSUPPORTED",
    );
  });

  test.each([
    ["a bit of 64", "0040"],
    ["a mask that does not exist", "0300"],
  ])("are refused with a feature name for %s", (_, head) => {
    const entry = `${head}${"61".padEnd(92, "0")}`;
    expect(errorOf(() => decode(`6803f857 00000030 ${entry} 0000000000000000`)).code).toBe("E_CORRUPT");
  });
});
