// Several commands at the same time, each with a session of its own: open files and locks are per open file
// description, so that one process can play them all.

import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { listGenerations, type Outcome } from "../../../src/transaction/index.ts";
import { snapshotTree } from "../../helpers/tree.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const WAIT = { waitMs: 20_000, onWait: () => undefined };
const TOLD = ["E_BUSY", "E_TRANSACTION", "E_LOCKED", "E_EXISTS", "E_NO_TRANSACTION"];

async function race(
  commands: readonly (() => Promise<Outcome>)[],
): Promise<{ won: number; told: ImgtxError[] }> {
  const results = await Promise.allSettled(commands.map(async (command) => await command()));
  const told = results.flatMap((result) => {
    if (result.status === "fulfilled") return [];
    if (!(result.reason instanceof ImgtxError)) throw result.reason;
    return [result.reason];
  });
  return { won: results.length - told.length, told };
}

/** The table is that of as many commits as have won, the chains open, and nothing is left over. */
async function expectSound(bench: Workbench, generation: number): Promise<void> {
  expect(await bench.generation()).toBe(generation);
  expect((await bench.devices()).map(({ problem }) => problem)).toEqual([null, null, null]);
  expect((await listGenerations(await bench.session(), {})).generations.map((one) => one.generation)).toEqual(
    Array.from({ length: generation + 1 }, (_, index) => generation - index),
  );
  const names = snapshotTree(bench.root, [".imgtx/view", ".imgtx/history"]).map((line) => line.split(" ")[0]);
  expect(names.filter((name) => name?.includes(".imgtx-") || name?.includes("journal/"))).toEqual([]);
}

describe("of several commands at the same time", () => {
  test("on one device at least one wins, and the others are told or come after it", async () => {
    const bench = await makeWorkbench();
    const before = await bench.content();
    const { won, told } = await race(
      Array.from({ length: 4 }, (_, index) => async () => await bench.snapshot({ vda: `a${index}.qcow2` })),
    );
    expect(won).toBeGreaterThanOrEqual(1);
    for (const { code, changed } of told) {
      expect(TOLD).toContain(code);
      expect(changed).toBe(false);
    }
    await expectSound(bench, 3 + won);
    expect(await bench.content()).toEqual(before);
  });

  test("on one device all win when they wait, one on top of the other", async () => {
    const bench = await makeWorkbench();
    const before = await bench.content();
    const names = ["1", "2", "3"];
    const { told } = await race(
      names.map((name) => async () => await bench.snapshot({ vda: `a${name}.qcow2` }, {}, WAIT)),
    );
    expect(told).toEqual([]);
    await expectSound(bench, 6);
    expect((await bench.devices())[0]?.chain).toHaveLength(5);
    expect(await bench.content()).toEqual(before);
  });

  test("for one target one wins, and the file is the winner's", async () => {
    const bench = await makeWorkbench();
    const { won, told } = await race(
      ["vda", "vdb", "vdc"].map(
        (device) => async () => await bench.snapshot({ [device]: "x.qcow2" }, {}, WAIT),
      ),
    );
    expect(won).toBe(1);
    for (const { code } of told) expect(["E_EXISTS", "E_IN_USE"]).toContain(code);
    await expectSound(bench, 4);
    expect(Object.values(await bench.images()).filter((image) => image === "x.qcow2")).toHaveLength(1);
  });

  test("on different devices all win when they wait", async () => {
    const bench = await makeWorkbench();
    const { told } = await race(
      ["vda", "vdb", "vdc"].map(
        (device) => async () => await bench.snapshot({ [device]: `${device}.qcow2` }, {}, WAIT),
      ),
    );
    expect(told).toEqual([]);
    await expectSound(bench, 6);
  });

  test("in one open transaction all statements are in it when they wait", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    const { told } = await race(
      ["vda", "vdb", "vdc"].map(
        (device) => async () => await bench.snapshot({ [device]: `${device}.qcow2` }, {}, WAIT),
      ),
    );
    expect(told).toEqual([]);
    await bench.commit();
    await expectSound(bench, 4);
  });

  test("one commit of a transaction wins, and the other is told that there is none", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    const { won, told } = await race([
      async () => await bench.commit(id, WAIT),
      async () => await bench.commit(id, WAIT),
      async () => await bench.abort(id),
    ]);
    expect(won).toBe(1);
    for (const { code } of told) expect(TOLD).toContain(code);
    expect([3, 4]).toContain(await bench.generation());
    await expectSound(bench, await bench.generation());
  });
});
