// Sequences of other programs on volumes: one of them with each command killed at one call here, and with
// IMGTX_TEST_EVERY_CALL all of them, killed and failed at each call in turn.

import { expect } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { loseVolume, runSequence, SEQUENCES } from "./volume-sequences.ts";

const loops = oracle("root", "loops", "strace", "qemu-img", "qemu-io");
const ONE_CUT = 5;
const isWhole = process.env["IMGTX_TEST_EVERY_CALL"] !== undefined;
const TRIED = SEQUENCES.filter(({ inSlice }) => isWhole || inSlice === true);

loops.test.each(TRIED.map((sequence) => [sequence.name, sequence] as const))("%s", (_, sequence) => {
  if (!isWhole) {
    expect(runSequence(sequence, ONE_CUT, "signal=SIGKILL")).toBeGreaterThan(0);
    return;
  }
  for (let cutAt = 1; runSequence(sequence, cutAt, "signal=SIGKILL") > 0; cutAt += 1) {
    runSequence(sequence, cutAt, "error=EIO");
    runSequence(sequence, cutAt, "error=ENOSPC");
  }
});

loops.test("a volume that is away at recovery is waited for, and known under another number", () => {
  loseVolume(false);
});

if (isWhole) {
  loops.test("one that a provisioner makes is had back from that", () => {
    loseVolume(true);
  });
}
