// A slice of the model's runs. `npm run torture -- model` makes 2,000.

import { describe, expect } from "vitest";
import { oracle } from "../helpers/oracles.ts";
import { MOVES } from "./moves.ts";
import { tortureModel } from "./torture-model.ts";

/** Each is the same on each machine. */
const RUNS = 50;

const qemu = oracle("qemu-img");

describe("snapshots and the way back", () => {
  qemu.test("leave each device and each snapshot with what the model says, after every step", async () => {
    const { problems, totals } = await tortureModel({
      seed: 60,
      runs: RUNS,
      deadline: Number.POSITIVE_INFINITY,
      say: () => undefined,
    });
    expect(problems).toEqual([]);
    for (const kind of Object.keys(MOVES)) expect(totals[`${kind} done`], kind).toBeGreaterThan(0);
  });
});
