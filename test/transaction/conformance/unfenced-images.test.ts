// What a device leaves that has no place for a fence (raw, version 2), and when others get to see that it has moved.

import { execFileSync } from "node:child_process";
import { readlinkSync, realpathSync, utimesSync } from "node:fs";
import { describe, expect } from "vitest";
import { forceCommit } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { type Call, killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { isFenced, makeOldBench, T0 } from "../../helpers/transaction/freezing.ts";
import { mirror, stateOf, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { RUN_ALONE, type Workbench } from "../../helpers/transaction/workbench.ts";

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
  const shows = (call: Call) => call.name === "rename" && call.path === bench.at("devices");
  return bench.through(killAt(bench.storage, shows));
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

  qemu.test("and nowhere else: a snapshot has no flush more", async () => {
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
