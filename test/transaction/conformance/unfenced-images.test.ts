// Images that have no place for a fence (raw, version 2): what a device leaves, and when others get to see that it has
// moved; and what is changed in place together with others.

import { execFileSync } from "node:child_process";
import { readlinkSync, realpathSync, utimesSync } from "node:fs";
import { describe, expect } from "vitest";
import { forceCommit } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { type Call, isShowing, killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { isFenced, makeOldBench, T0 } from "../../helpers/transaction/freezing.ts";
import { infoOf, mirror, stateOf, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { makeWorkbench, RUN_ALONE, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

const OTHER = "other.qcow2";
const WRITE = "write -P 7 0 4k";

async function makeBench(): Promise<Workbench> {
  const bench = await makeOldBench();
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", bench.at(OTHER), "192k"]);
  return bench;
}

/** Dies when the table has moved, and the view has not. */
function dyingBetween(bench: Workbench): Workbench {
  return bench.through(killAt(bench.storage, isShowing));
}

describe("'devices' shows a move", () => {
  qemu.test("before the move is durable, and never after", async () => {
    const bench = await makeBench();
    const shown: string[] = [];
    const watched = watchStorage(bench.storage, ({ name, purpose }) => {
      if (name === "flushFolder" && purpose === "next table's name")
        shown.push(realpathSync(bench.at("devices/vdb")));
    });
    await bench.through(watched).reopen("vdb", OTHER);
    expect(shown).toEqual([realpathSync(bench.at(OTHER))]);
  });

  qemu.test("after the commit mark is durable", async () => {
    const bench = await makeBench();
    const marked = (call: Call) => call.purpose === "commit mark";
    const before = readlinkSync(bench.at("devices"));
    await expect(bench.through(killAt(bench.storage, marked)).reopen("vdb", OTHER)).rejects.toThrow("killed");
    expect(readlinkSync(bench.at("devices"))).toBe(before);
  });
});

describe("a process that dies before 'devices' shows that the table has moved", () => {
  qemu.test(
    "leaves nothing to do but to show it, where nobody wrote to what the device has left",
    async () => {
      const bench = await makeBench();
      await expect(dyingBetween(bench).reopen("vdb", OTHER)).rejects.toThrow("killed");
      expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
      expect(realpathSync(bench.at("devices/vdb"))).toBe(realpathSync(bench.at(OTHER)));
    },
  );

  qemu.test("leaves a write to a raw image that waits for an operator, and stays", async () => {
    const bench = await makeBench();
    await expect(dyingBetween(bench).reopen("vdb", OTHER)).rejects.toThrow("killed");
    expect(realpathSync(bench.at("devices/vdb"))).toBe(realpathSync(bench.at("b.raw")));
    writeGuest(bench.at("devices/vdb"), "raw", WRITE);
    const written = stateOf(bench.at("b.raw"));
    const session = await bench.session();
    const [note] = session.recovered;
    expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_CHANGED", devices: ["vdb"] } });
    expect(note?.text).toContain("'vdb' has left that behind");
    const lines = await forceCommit(session, note?.transaction ?? "", RUN_ALONE);
    expect(JSON.stringify(lines)).toContain(bench.at("b.raw"));
    expect(stateOf(bench.at("b.raw"))).toEqual(written);
    expect((await bench.session()).recovered).toEqual([]);
    expect(realpathSync(bench.at("devices/vdb"))).toBe(realpathSync(bench.at(OTHER)));
  });

  qemu.test("leaves a journal that no command writes anew while it waits", async () => {
    const bench = await makeBench();
    await expect(dyingBetween(bench).reopen("vdb", OTHER)).rejects.toThrow("killed");
    writeGuest(bench.at("b.raw"), "raw", WRITE);
    const [note] = (await bench.session()).recovered;
    const journal = bench.at(`.imgtx/journal/${note?.transaction}.journal`);
    const before = stateOf(journal);
    expect((await bench.session()).recovered).toMatchObject([{ did: "waiting" }]);
    await bench.devices();
    expect(stateOf(journal)).toEqual(before);
  });

  qemu.test("leaves a fence where there is a place for one, so that no guest writes", async () => {
    const bench = await makeBench();
    await expect(dyingBetween(bench).reopen("vdc", OTHER)).rejects.toThrow("killed");
    expect(isFenced(bench.at("c.qcow2"))).toBe(true);
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(isFenced(bench.at("c.qcow2"))).toBe(false);
  });
});

describe("the journal of a commit is gone for good before the command ends", () => {
  async function isFlushed(work: (bench: Workbench) => Promise<unknown>): Promise<boolean> {
    const bench = await makeBench();
    const calls: string[] = [];
    const watched = watchStorage(bench.storage, ({ name, path, purpose }) => {
      if (name === "removeFile" && path.endsWith(".journal")) calls.push("removed");
      if (purpose === "journal gone") calls.push("flushed");
    });
    await work(bench.through(watched));
    expect(calls[0]).toBe("removed");
    return calls[1] === "flushed";
  }

  qemu.test("where it left an image without a fence, to which somebody may write from then on", async () => {
    expect(await isFlushed(async (bench) => await bench.reopen("vdb", OTHER))).toBe(true);
  });

  qemu.test("and nowhere else", async () => {
    expect(await isFlushed(async (bench) => await bench.reopen("vdc", OTHER))).toBe(false);
    expect(await isFlushed(async (bench) => await bench.snapshot({ vdb: "b1.qcow2" }))).toBe(false);
  });
});

describe("a commit of an open transaction, where times leave in doubt what was written meanwhile", () => {
  const pretend = (bench: Workbench) => utimesSync(bench.at("b.raw"), T0, T0);

  qemu.test("refuses to go over to a copy that can't be made anew", async () => {
    const bench = await makeBench();
    await mirror(bench, { vdb: "m.qcow2" });
    await bench.begin();
    await bench.reopen("vdb", "m.qcow2");
    await bench.snapshot({ vdb: "m1.qcow2" });
    writeGuest(bench.at("b.raw"), "raw", WRITE);
    pretend(bench);
    const failure = await failureOf(async () => await bench.commit());
    expect(failure).toMatchObject({ code: "E_CHANGED", device: "vdb", image: bench.at("b.raw") });
    expect(failure.message).toContain("may have written to it");
    expect((await bench.images())["vdb"]).toBe("b.raw");
    const content = await bench.content();
    await bench.abort();
    await bench.reopen("vdb", "m.qcow2");
    expect((await bench.images())["vdb"]).toBe("m.qcow2");
    expect(await bench.content()).toEqual(content);
  });

  qemu.test("makes the copy anew where it can", async () => {
    const bench = await makeBench();
    await mirror(bench, { vdb: "m.qcow2" });
    await bench.begin();
    await bench.reopen("vdb", "m.qcow2");
    writeGuest(bench.at("b.raw"), "raw", WRITE);
    pretend(bench);
    const content = await bench.content();
    await bench.commit();
    expect((await bench.images())["vdb"]).toBe("m.qcow2");
    expect(await bench.content()).toEqual(content);
  });

  qemu.test("says in a line what any other image may lack, and nothing without a doubt", async () => {
    for (const isInDoubt of [true, false]) {
      const bench = await makeBench();
      await bench.begin();
      await bench.reopen("vdb", OTHER);
      if (isInDoubt) pretend(bench);
      const lines: string[] = [];
      await bench.commit(undefined, { onNotice: (line) => lines.push(line) });
      expect((await bench.images())["vdb"]).toBe(OTHER);
      expect(lines).toEqual(
        isInDoubt ? [expect.stringMatching(/b\.raw .*can't be told from its times.*not be on 'vdb'/)] : [],
      );
    }
  });
});

describe("a change of several images, some without a place for a fence,", () => {
  const OLD = ["old.qcow2", "old2.qcow2"] as const;
  const NAMES = ["a.qcow2", ...OLD] as const;
  const LARGER = 3 * 2 ** 20;

  /** In an open transaction, the fenced image first. */
  async function resizeAll(devices: readonly string[] = ["vda", "old", "old2"]): Promise<Workbench> {
    const bench = await makeWorkbench();
    for (const name of OLD) {
      const words = ["create", "-q", "-f", "qcow2", "-o", "compat=0.10,cluster_size=512"];
      execFileSync("qemu-img", [...words, bench.at(name), "1M"]);
      await bench.add(name.replace(".qcow2", ""), name);
    }
    await bench.begin();
    for (const device of devices) {
      const how = { isRelative: false, shrink: false, force: false };
      await bench.run({ kind: "resize", device, sizeBytes: LARGER, ...how });
    }
    return bench;
  }

  /** Dies at that call on the image, after the commit mark. */
  async function dyingAt(call: string, image: string): Promise<Workbench> {
    const bench = await resizeAll();
    let isMarked = false;
    const storage = killAt(bench.storage, ({ name, path, purpose }) => {
      if (purpose === "commit mark") isMarked = true;
      return isMarked && name === call && path === bench.at(image);
    });
    await expect(bench.through(storage).commit()).rejects.toThrow("killed");
    return bench;
  }

  const sizesOf = (bench: Workbench) => NAMES.map((name) => infoOf(bench.at(name))["virtual-size"]);

  qemu.test.each([
    ["the first of these was changed", "file.write", "old2.qcow2", ["old.qcow2"]],
    ["all of these were changed", "file.write", "a.qcow2", OLD],
    ["all images were changed", "rename", ".imgtx/table.json", OLD],
  ])(
    "that dies when %s, is finished, with what a guest wrote to them since",
    async (_, call, image, changed) => {
      const bench = await dyingAt(call, image);
      for (const name of changed) writeGuest(bench.at(name), "qcow2", WRITE, "write -P 8 2M 64k");
      const written = changed.map((name) => stateOf(bench.at(name)));
      expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
      expect(sizesOf(bench)).toEqual([LARGER, LARGER, LARGER]);
      expect(changed.map((name) => stateOf(bench.at(name)))).toEqual(written);
      for (const name of changed) writeGuest(bench.at(name), "qcow2", "read -P 7 0 4k", "read -P 8 2M 64k");
      expect((await bench.devices()).map(({ state }) => state)).toEqual(Array(5).fill("ok"));
    },
  );

  qemu.test(
    "that dies before it has changed any waits where one was written to, and changes none",
    async () => {
      const bench = await dyingAt("file.write", "old.qcow2");
      writeGuest(bench.at("old.qcow2"), "qcow2", WRITE);
      const before = NAMES.map((name) => stateOf(bench.at(name)));
      const session = await bench.session();
      const [note] = session.recovered;
      expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_CHANGED" } });
      expect(NAMES.map((name) => stateOf(bench.at(name)))).toEqual(before);
      expect(infoOf(bench.at("old2.qcow2"))).toMatchObject({ "virtual-size": 2 ** 20 });
      expect(isFenced(bench.at("a.qcow2"))).toBe(true);
      await forceCommit(session, note?.transaction ?? "", RUN_ALONE);
      expect((await bench.session()).recovered).toEqual([]);
      expect(sizesOf(bench)).toEqual([LARGER, 2 ** 20, LARGER]);
      expect(stateOf(bench.at("old.qcow2"))).toEqual(before[1]);
    },
  );

  qemu.test.each([
    [["vda", "vdb", "vdc"], 0],
    [["vda", "old", "old2"], 2],
  ])("costs of %j a flush for each whose content changes, and no other one: %i", async (devices, flushes) => {
    const bench = await resizeAll(devices);
    const seen: string[] = [];
    const watched = watchStorage(bench.storage, ({ purpose }) => {
      if (purpose?.includes("applied") === true) seen.push(purpose);
    });
    await bench.through(watched).commit();
    expect(seen.filter((purpose) => purpose === "applied")).toHaveLength(flushes);
    // Each log is durable before the journal says so, and before the next one is begun.
    expect(seen.slice(0, 2 * flushes)).toEqual(
      Array.from({ length: flushes }, () => ["redo log: applied", "applied"]).flat(),
    );
  });
});
