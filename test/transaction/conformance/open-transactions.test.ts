// Transactions that stay open between commands: which one a command joins, savepoints, and what others see.

import { readFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { beginTransaction } from "../../../src/transaction/index.ts";
import { makeWorkbench, NO_WAIT, type Workbench } from "../../helpers/transaction/workbench.ts";

describe("a command", () => {
  test("joins the transaction that was begun where it comes from, and changes nothing that others see", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    const outcome = await bench.snapshot({ vda: "a1.qcow2" });
    expect(outcome).toMatchObject({ pending: true, transaction: id, generation: 3 });
    expect(outcome.joined).toMatchObject({ name: null });
    expect(outcome.devices[0]).toMatchObject({ name: "vda", image: bench.at("a1.qcow2"), transaction: id });
    expect((await bench.images())["vda"]).toBe("a.qcow2");
    expect(await bench.open()).toMatchObject([{ id, state: "open", devices: ["vda"], busy: false }]);
    expect(await bench.commit()).toMatchObject({
      changed: true,
      pending: false,
      transaction: id,
      generation: 4,
    });
    expect((await bench.images())["vda"]).toBe("a1.qcow2");
    expect(await bench.open()).toEqual([]);
  });

  test("sees what the statements before it made", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    const second = await bench.snapshot({ vda: "a2.qcow2" });
    expect(second.actions[0]).toMatchObject({ before: bench.at("a1.qcow2"), after: bench.at("a2.qcow2") });
    await bench.commit();
    const [vda] = await bench.devices();
    expect(vda?.chain.map(({ image }) => image)).toEqual(
      ["a2.qcow2", "a1.qcow2", "a.qcow2", "base.raw"].map((name) => bench.at(name)),
    );
  });

  test("says at the commit what it said before, though its journal knows no sentence", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    const size = { sizeBytes: 4096, isRelative: true, shrink: false, force: false };
    const { actions } = await bench.run({ kind: "resize", device: "vda", ...size });
    const said = actions.flatMap(({ notes }) => notes);
    expect(said).toMatchObject([expect.stringMatching(/^from .* bytes\) to .* bytes\)$/)]);
    const journal = readFileSync(bench.at(`.imgtx/journal/${id}.journal`), "utf8");
    expect(said.filter((sentence) => journal.includes(sentence))).toEqual([]);
    expect((await bench.commit()).actions.flatMap(({ notes }) => notes)).toEqual(said);
  });

  test("must say which of several open transactions it means, by id or by name", async () => {
    const bench = await makeWorkbench();
    const one = await bench.begin("one");
    const two = await bench.begin("two");
    const failure = await failureOf(async () => await bench.snapshot({ vda: "a1.qcow2" }));
    expect(failure.code).toBe("E_TRANSACTION");
    expect(failure.hint).toContain(`${one} (one)`);
    expect(failure.hint).toContain(`${two} (two)`);
    await bench.snapshot({ vda: "a1.qcow2" }, {}, { transaction: "one" });
    await bench.snapshot({ vdb: "b1.qcow2" }, {}, { transaction: two });
    await bench.commit("two");
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b1.qcow2", vdc: "c.qcow2" });
    await bench.commit(one);
    expect(await bench.images()).toEqual({ vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c.qcow2" });
  });

  test("that names a transaction which is not there is refused", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    for (const call of [
      async () => await bench.snapshot({ vda: "a1.qcow2" }, {}, { transaction: "nightly" }),
      async () => await bench.commit("nightly"),
      async () => await bench.abort("nightly"),
      async () => await bench.savepoint("here", "nightly"),
    ]) {
      const failure = await failureOf(call);
      expect(failure).toMatchObject({ code: "E_NO_TRANSACTION", exitCode: 11 });
      expect(failure.message).toContain("nightly");
    }
  });

  test("that ends a transaction where none is open is refused", async () => {
    const bench = await makeWorkbench();
    for (const call of [
      async () => await bench.commit(),
      async () => await bench.abort(),
      async () => await bench.savepoint("here"),
      async () => await bench.rollbackTo("here"),
    ]) {
      expect((await failureOf(call)).code).toBe("E_NO_TRANSACTION");
    }
  });

  test("joins the transaction of a txn exec only where it is told to", async () => {
    const bench = await makeWorkbench();
    const choice = { name: undefined, onError: "keep", owned: true } as const;
    const owned = await beginTransaction(await bench.session(), choice, NO_WAIT);
    const { id } = owned.description;
    await bench.snapshot({ vdb: "b1.qcow2" });
    expect((await bench.images())["vdb"]).toBe("b1.qcow2");
    await bench.snapshot({ vda: "a1.qcow2" }, {}, { transaction: id });
    expect((await bench.images())["vda"]).toBe("a.qcow2");
    await bench.commit(id);
    await owned.release();
    expect((await bench.images())["vda"]).toBe("a1.qcow2");
  });

  test("in a dry run shows what a transaction would be, and changes nothing", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    const before = snapshotWorkspace(bench.root);
    const dry = await bench.snapshot({ vda: "a2.qcow2" }, {}, { dryRun: true });
    expect(dry).toMatchObject({ changed: false, dryRun: true, pending: true });
    expect(dry.actions[0]).toMatchObject({ before: bench.at("a1.qcow2"), after: bench.at("a2.qcow2") });
    expect(await bench.commit(undefined, { dryRun: true })).toMatchObject({ dryRun: true, generation: 3 });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

describe("a command from elsewhere", () => {
  test("joins nothing that it does not name: it is a transaction of its own, which an abort leaves alone", async () => {
    const bench = await makeWorkbench();
    await bench.begin("forgotten");
    const outcome = await bench.elsewhere().snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    expect(outcome).toMatchObject({ pending: false, joined: null, generation: 4 });
    await bench.abort();
    expect(await bench.images()).toEqual({ vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c.qcow2" });
  });

  test("is told who holds its device, since when, and how to join or end it", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin("nightly");
    await bench.snapshot({ vda: "a1.qcow2" });
    const before = snapshotWorkspace(bench.root);
    const { userName } = bench.storage.host;
    for (const dryRun of [false, true]) {
      const failure = await failureOf(
        async () => await bench.elsewhere().snapshot({ vdb: "b1.qcow2", vda: "a2.qcow2" }, {}, { dryRun }),
      );
      expect(failure).toMatchObject({ code: "E_TRANSACTION", exitCode: 11, device: "vda" });
      expect(failure.message).toMatch(
        new RegExp(`${id} \\(nightly\\), begun .*Z by ${userName}.* elsewhere$`),
      );
      for (const way of [`--txn ${id}`, `imgtx txn commit ${id}`, `imgtx txn abort ${id}`]) {
        expect(failure.hint).toContain(way);
      }
    }
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("works in a transaction that it names, by id or by name, and ends it", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin("nightly");
    const elsewhere = bench.elsewhere();
    await elsewhere.snapshot({ vda: "a1.qcow2" }, {}, { transaction: id });
    await elsewhere.savepoint("here", "nightly");
    await elsewhere.snapshot({ vdb: "b1.qcow2" }, {}, { transaction: "nightly" });
    await elsewhere.rollbackTo("here", id);
    await elsewhere.commit("nightly");
    expect(await bench.images()).toEqual({ vda: "a1.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
  });

  test("that would end or mark a transaction is told which there are, and the very command for each", async () => {
    const bench = await makeWorkbench();
    const [one, two] = [await bench.begin("one"), await bench.begin()];
    const elsewhere = bench.elsewhere();
    for (const [call, words, name] of [
      [async () => await elsewhere.commit(), "txn commit ", ""],
      [async () => await elsewhere.abort(), "txn abort ", ""],
      [async () => await elsewhere.savepoint("a b"), "txn savepoint --txn ", " 'a b'"],
      [async () => await elsewhere.rollbackTo("half"), "txn rollback-to --txn ", " half"],
    ] as const) {
      const failure = await failureOf(call);
      expect(failure).toMatchObject({ code: "E_NO_TRANSACTION", exitCode: 11 });
      expect(failure.message).toContain(`${one} (one), begun `);
      expect(failure.hint).toContain(`\`imgtx ${words}${one}${name}\``);
      expect(failure.hint).toContain(`\`imgtx ${words}${two}${name}\``);
    }
    expect(await elsewhere.open()).toMatchObject([{ here: false }, { here: false }]);
    expect(await bench.open()).toMatchObject([{ here: true }, { here: true }]);
  });

  test("is one after a reboot", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    const { host } = bench.storage;
    const rebooted = bench.through({ ...bench.storage, host: { ...host, bootId: "another" } });
    expect(await rebooted.snapshot({ vda: "a1.qcow2" })).toMatchObject({ pending: false });
    expect(await rebooted.open()).toMatchObject([{ here: false }]);
  });
});

describe("a command with `none` for a transaction", () => {
  test("keeps out of that which was begun here", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    const none = { transaction: "none" };
    expect(await bench.snapshot({ vda: "a1.qcow2" }, {}, none)).toMatchObject({
      pending: false,
      generation: 4,
    });
    await bench.snapshot({ vdb: "b1.qcow2" });
    const failure = await failureOf(async () => await bench.snapshot({ vdb: "b2.qcow2" }, {}, none));
    expect(failure).toMatchObject({ code: "E_TRANSACTION", device: "vdb" });
    const refused = await failureOf(async () => await bench.commit("none"));
    expect(refused.code).toBe("E_NO_TRANSACTION");
    expect(refused.hint).toContain(`imgtx txn commit ${id}`);
  });
});

describe("the name of a transaction", () => {
  test("is unique among the open ones, and no id of another: else neither could be named", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin("nightly");
    for (const name of ["nightly", id]) {
      const failure = await failureOf(async () => await bench.begin(name));
      expect(failure).toMatchObject({ code: "E_TRANSACTION", exitCode: 11 });
      expect(failure.hint).toContain(`imgtx txn abort ${id}`);
    }
    expect((await failureOf(async () => await bench.begin("none"))).code).toBe("E_USAGE");
    expect(await bench.open()).toHaveLength(1);
    await bench.abort(id);
    await bench.begin("nightly");
  });
});

describe("a dry run of an abort", () => {
  test("shows the devices as they stay, and changes nothing", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    const before = snapshotWorkspace(bench.root);
    const dry = await bench.abort(undefined, { dryRun: true });
    expect(dry).toMatchObject({ changed: false, dryRun: true, pending: true });
    expect(dry.devices[0]).toMatchObject({ name: "vda", image: bench.at("a.qcow2") });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

describe("a savepoint", () => {
  async function makeBenchWithSavepoints(): Promise<Workbench> {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.savepoint("start");
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.savepoint("middle");
    await bench.snapshot({ vda: "a2.qcow2", vdb: "b1.qcow2" });
    return bench;
  }

  test("is gone back to: what came after it is undone, files and devices", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.savepoint("here");
    const before = snapshotWorkspace(bench.root);
    await bench.snapshot({ vda: "a2.qcow2", vdb: "b1.qcow2" });
    expect(await bench.rollbackTo("here")).toMatchObject({ changed: true, pending: true });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    expect(await bench.open()).toMatchObject([{ devices: ["vda"], savepoints: ["here"] }]);
    expect(await bench.rollbackTo("here")).toMatchObject({ changed: false });
    await bench.snapshot({ vdb: "b1.qcow2" });
    await bench.commit();
    expect(await bench.images()).toEqual({ vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c.qcow2" });
  });

  test("is gone back to past others, which go with it", async () => {
    const bench = await makeBenchWithSavepoints();
    await bench.rollbackTo("start");
    expect(await bench.open()).toMatchObject([{ devices: [], actions: [], savepoints: ["start"] }]);
    const failure = await failureOf(async () => await bench.rollbackTo("middle"));
    expect(failure.code).toBe("E_NO_TRANSACTION");
    expect(failure.hint).toContain("start");
    expect(await bench.commit()).toMatchObject({ changed: false, generation: 3 });
  });

  test("is gone back to one by one", async () => {
    const bench = await makeBenchWithSavepoints();
    await bench.rollbackTo("middle");
    expect((await bench.open())[0]?.actions).toHaveLength(1);
    await bench.rollbackTo("start");
    expect((await bench.open())[0]?.actions).toHaveLength(0);
  });

  test("of a name that was used before stands for the later one", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.savepoint("here");
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.savepoint("here");
    await bench.snapshot({ vda: "a2.qcow2" });
    await bench.rollbackTo("here");
    await bench.commit();
    expect((await bench.images())["vda"]).toBe("a1.qcow2");
  });

  test("that is gone back to twice, with the same file in between, leaves no trace of either", async () => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    await bench.begin();
    await bench.savepoint("here");
    for (let round = 0; round < 2; round += 1) {
      await bench.snapshot({ vda: "a1.qcow2" });
      await bench.rollbackTo("here");
      expect(snapshotWorkspace(bench.root)).toEqual(before);
    }
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.commit();
    expect((await bench.images())["vda"]).toBe("a1.qcow2");
  });
});

describe("two open transactions", () => {
  test("on different devices commit one after the other, each its own generation", async () => {
    const bench = await makeWorkbench();
    const [one, two] = [await bench.begin("one"), await bench.begin("two")];
    await bench.snapshot({ vda: "a1.qcow2" }, {}, { transaction: one });
    await bench.snapshot({ vdb: "b1.qcow2" }, {}, { transaction: two });
    expect(await bench.commit(two)).toMatchObject({ generation: 4 });
    expect(await bench.commit(one)).toMatchObject({ generation: 5 });
    await bench.undo(4);
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b1.qcow2", vdc: "c.qcow2" });
  });

  test("that would write to one image are refused at the second commit at the latest", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("x.qcow2", 8);
    const [one, two] = [await bench.begin("one"), await bench.begin("two")];
    await bench.reopen("vda", "x.qcow2", { transaction: one });
    await bench.reopen("vdc", "x.qcow2", { transaction: two });
    await bench.commit(one);
    const failure = await failureOf(async () => await bench.commit(two));
    expect(failure).toMatchObject({ code: "E_IN_USE", image: bench.at("x.qcow2") });
    await bench.abort(two);
    expect(await bench.images()).toEqual({ vda: "x.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
  });
});
