// Widths in columns of a terminal, against what measures any text.

import stringWidth from "string-width";
import { expect, test, vi } from "vitest";
import { widthOf } from "../../../src/cli/render/layout.ts";

test("each character is as wide as it is known to be, alone and beside others", () => {
  const letters = Array.from({ length: 0x300 - 0x20 }, (_, index) => String.fromCharCode(index + 0x20));
  const wrong = [...letters, ...Array.from("→…·×─├└│✗●○◇░▒▓█"), "\u0301", "雪"]
    .filter((each) => !/\p{Cc}/u.test(each))
    .flatMap((each) => [each, `a${each}`, `${each}${each}`])
    .filter((text) => widthOf(text) !== stringWidth(text));
  expect(wrong).toEqual([]);
});

test("what imgtx draws, and names in European languages, need nothing that measures", () => {
  const segment = vi.spyOn(Intl.Segmenter.prototype, "segment");
  expect(widthOf("├─ disk…  ● Größe × 2 → café")).toBe(28);
  expect(segment).not.toHaveBeenCalled();
  expect(widthOf("cafe\u0301")).toBe(4);
  expect(segment).toHaveBeenCalledOnce();
  segment.mockRestore();
});
