// Sequences of other programs on volumes: two of them with each command killed at one call here, and with
// IMGTX_TEST_EVERY_CALL all of them, at each call in turn.

import { expect } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { runSequence, SEQUENCES } from "./volume-sequences.ts";

const loops = oracle("root", "loops", "strace", "qemu-img", "qemu-io");
const ONE_CUT = 5;
const isWhole = process.env["IMGTX_TEST_EVERY_CALL"] !== undefined;
const TRIED = SEQUENCES.filter(({ inSlice }) => isWhole || inSlice === true);

loops.test.each(TRIED.map((sequence) => [sequence.name, sequence] as const))("%s", (_, sequence) => {
  if (!isWhole) {
    expect(runSequence(sequence, ONE_CUT)).toBeGreaterThan(0);
    return;
  }
  let cutAt = 1;
  while (runSequence(sequence, cutAt) > 0) cutAt += 1;
});
