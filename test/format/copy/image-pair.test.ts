import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { guestOffset, hostOffset } from "../../../src/units/index.ts";
import { compareImages } from "../../../src/format/copy/compare.ts";
import { findDifferences } from "../../../src/format/copy/find-differences.ts";
import type { Image } from "../../../src/format/image.ts";
import { errorFrom } from "../../helpers/expect-error.ts";

const SIZE_BYTES = 65_536;

/** All data, and read as the test says. */
function imageOf(read: () => Promise<void>): Image {
  const place = { depth: 0, present: true, hostOffset: hostOffset(0), isData: true };
  return {
    path: "/images/one.raw",
    format: "raw",
    virtualSizeBytes: SIZE_BYTES,
    layers: [],
    findExtents: async ({ start, lengthBytes }) => [
      { start: guestOffset(start), lengthBytes, kind: "data", ...place },
    ],
    read,
    close: async () => undefined,
  };
}

describe("a pair of images of which one can't be read", () => {
  test.each([
    ["compared", (one: Image, other: Image) => compareImages(one, other, { strict: false })],
    ["searched", (one: Image, other: Image) => findDifferences(one, other, { unitBytes: SIZE_BYTES })],
  ])("is not done being %s before the other read has ended, whose buffer it lends", async (_, work) => {
    const events: string[] = [];
    const failing = imageOf(() => Promise.reject(new ImgtxError("E_INTERNAL", "unreadable")));
    const slow = imageOf(async () => {
      for (let turn = 0; turn < 20; turn += 1) await new Promise((resume) => setImmediate(resume));
      events.push("read");
    });
    const error = await errorFrom(work(failing, slow));
    events.push(error.message);
    expect(events).toEqual(["read", "unreadable"]);
  });
});
