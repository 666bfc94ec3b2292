// Two decimals, against what C's printf gives.

import { expect, test } from "vitest";
import { toTwoDecimals } from "../../src/units/index.ts";

test.each([
  [0, "0.00"],
  [3.125, "3.12"],
  [3.375, "3.38"],
  [15.625, "15.62"],
  [0.005, "0.01"],
  [1.005, "1.00"],
  [99.999, "100.00"],
  [100, "100.00"],
])("%d is %s", (value, printed) => {
  expect(toTwoDecimals(value)).toBe(printed);
});
