import { describe, expect } from "vitest";
import { oracle } from "../helpers/oracles.ts";
import { trySequence } from "./differential.ts";

const SEQUENCES = 6;

const qemu = oracle("qemu-img", "qemu-io");

describe("QEMU and imgtx in turn", () => {
  qemu.test("leave images that both read alike and find clean", async () => {
    let byImgtx = 0;
    for (let seed = 1; seed <= SEQUENCES; seed += 1) {
      const problem = await trySequence(seed, (commands) => {
        byImgtx += commands.filter((line) => line.startsWith("imgtx")).length;
      });
      expect(problem).toBeUndefined();
    }
    expect(byImgtx).toBeGreaterThan(SEQUENCES * 4);
  });
});
