// A journal that can't be read: what it holds, and that nobody else is kept from anything.

import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { snapshotTree } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

describe("a damaged journal", () => {
  /** Flips a bit of the journal of a transaction that has snapshotted vda. */
  async function damage(bench: Workbench, where: (bytes: Buffer) => number) {
    const id = await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    const path = bench.at(`.imgtx/journal/${id}.journal`);
    const bytes = readFileSync(path);
    const at = where(bytes);
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    writeFileSync(path, bytes);
    return { id, path };
  }

  test("holds its devices, is left alone with its files, and nothing is guessed", async () => {
    const bench = await makeWorkbench();
    const { id, path } = await damage(bench, () => 100);
    const before = snapshotTree(bench.root);
    for (const [call, code] of [
      [async () => await bench.snapshot({ vda: "a2.qcow2" }), "E_TRANSACTION"],
      [async () => await bench.remove("vda"), "E_TRANSACTION"],
      [async () => await bench.commit(), "E_JOURNAL"],
      [async () => await bench.abort(id), "E_JOURNAL"],
    ] as const) {
      expect(await failureOf(call)).toMatchObject({ code });
      expect(snapshotTree(bench.root)).toEqual(before);
    }
    const { recovered } = await bench.session();
    expect(recovered).toMatchObject([{ did: "waiting", transaction: id, obstacle: { devices: ["vda"] } }]);
    expect(recovered[0]?.obstacle?.why).toContain(path);
    expect(await bench.open()).toMatchObject([{ id, state: "damaged", devices: ["vda"] }]);
    expect(snapshotTree(bench.root)).toEqual(before);
  });

  test("larger than any that imgtx writes stops what would change a device, and no reading command", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    truncateSync(bench.at(`.imgtx/journal/${id}.journal`), 2 ** 40);
    const { recovered } = await bench.session();
    expect(recovered).toMatchObject([{ did: "waiting", transaction: id }]);
    expect(await bench.open()).toMatchObject([{ id, state: "damaged" }]);
    expect(await failureOf(async () => await bench.snapshot({ vdc: "c1.qcow2" }))).toMatchObject({
      code: "E_TRANSACTION",
    });
  });

  test("keeps nobody from other devices", async () => {
    const bench = await makeWorkbench();
    await damage(bench, () => 100);
    await bench.snapshot({ vdb: "b1.qcow2" });
    await bench.begin();
    await bench.remove("vdc");
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b1.qcow2" });
  });

  test("that does not tell its devices any more stops what would change any, and nothing else", async () => {
    const bench = await makeWorkbench();
    await damage(bench, (bytes) => bytes.indexOf('{"type":"plan"') + 3);
    expect(await failureOf(async () => await bench.snapshot({ vdb: "b1.qcow2" }))).toMatchObject({
      code: "E_TRANSACTION",
      message: expect.stringContaining("does not tell which devices it holds") as string,
    });
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
    expect(await bench.generation()).toBe(3);
  });
});
