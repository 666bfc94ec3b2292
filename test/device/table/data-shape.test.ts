// Shapes of stored data: what they let through, and that the compiler refuses one that does not fit its type.

import { describe, expect, test } from "vitest";
import {
  isCount,
  isText,
  listOf,
  objectOf,
  oneOf,
  orAbsent,
  orNull,
  type Shape,
} from "../../../src/device/table/data-shape.ts";

interface Disk {
  readonly name: string;
  readonly format: "qcow2" | "raw";
  readonly sizes: readonly number[];
  readonly note: string | null;
  readonly login?: string;
}

const isDisk = objectOf<Disk>({
  name: isText,
  format: oneOf("qcow2", "raw"),
  sizes: listOf(isCount),
  note: orNull(isText),
  login: orAbsent(isText),
});

const DISK: Disk = { name: "vda", format: "raw", sizes: [0, 2 ** 53 - 1], note: null };

describe("a shape", () => {
  test("lets through what its type says, fields that may be absent and fields it does not know", () => {
    for (const disk of [DISK, { ...DISK, note: "" }, { ...DISK, login: "root" }, { ...DISK, more: [] }]) {
      expect(isDisk(disk), JSON.stringify(disk)).toBe(true);
    }
  });

  test.each([
    ["a field missing", { ...DISK, note: undefined }],
    ["a field of another kind", { ...DISK, name: 1 }],
    ["an absent field of another kind", { ...DISK, login: null }],
    ["a text that is none of those", { ...DISK, format: "vmdk" }],
    ["a number below zero", { ...DISK, sizes: [-1] }],
    ["a number that is not exact", { ...DISK, sizes: [2 ** 53] }],
    ["an object for a list", { ...DISK, sizes: { length: 0 } }],
    ["null", null],
    ["a text", "vda"],
  ])("refuses %s", (_, value) => {
    expect(isDisk(value)).toBe(false);
  });

  test("that does not fit its type does not compile", () => {
    interface Named {
      readonly name: string;
      readonly format?: "qcow2" | "raw";
    }
    // @ts-expect-error A field is forgotten.
    objectOf<Named>({ name: isText });
    // @ts-expect-error A field of another kind.
    objectOf<Named>({ name: isCount, format: orAbsent(oneOf("qcow2", "raw")) });
    // @ts-expect-error It would let null through.
    objectOf<Named>({ name: orNull(isText), format: orAbsent(oneOf("qcow2", "raw")) });
    // @ts-expect-error It would refuse "raw".
    objectOf<Named>({ name: isText, format: orAbsent(oneOf("qcow2")) });
    // @ts-expect-error A field that is always there may not be absent.
    objectOf<Disk>({ ...FIELDS, name: orAbsent(isText) });
    // @ts-expect-error It would refuse null, which the type allows.
    const narrow: Shape<string | null> = isText;
    expect(narrow(null)).toBe(false);
  });
});

const FIELDS = {
  name: isText,
  format: oneOf("qcow2", "raw"),
  sizes: listOf(isCount),
  note: orNull(isText),
  login: orAbsent(isText),
};
