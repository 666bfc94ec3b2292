// Snapshots: moments of devices, with what each keeps, as commits take them and as workspaces of the version before had them.

import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { listHistory, readGeneration, readTable } from "../../../src/device/index.ts";
import { encodeTable } from "../../../src/device/table/device-table.ts";
import { listSnapshots, showSnapshot, type SnapshotDescription } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { Killed, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

async function list(bench: Workbench, device?: string, count?: number): Promise<SnapshotDescription[]> {
  return await listSnapshots(await bench.session(), { device, count });
}

/** Each with its devices and sealed images: `2 mon: vda a1.qcow2`. */
async function lines(bench: Workbench): Promise<string[]> {
  return (await list(bench)).map(({ number, name, devices }) => {
    const sealed = devices.map(({ device, image, intact }) => {
      return `${device} ${path.relative(bench.root, image)}${intact ? "" : "!"}`;
    });
    return `${number} ${name ?? "-"}: ${sealed.join(", ")}`;
  });
}

describe("a snapshot", () => {
  test("keeps what was active, of each device, with its name, its message and a number of its own", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" }, { name: "mon", message: "before work" });
    const outcome = await bench.snapshot({ vda: "a2.qcow2" });
    expect(outcome.snapshots).toEqual([{ number: 2, name: null }]);
    expect(await lines(bench)).toEqual(["2 -: vda a1.qcow2", "1 mon: vda a.qcow2, vdb b.raw"]);
    const shown = await showSnapshot(await bench.session(), "mon");
    expect(shown).toMatchObject({ number: 1, message: "before work", problem: null });
    expect(shown.devices.map(({ depth, format }) => [depth, format])).toEqual([
      [2, "qcow2"],
      [1, "raw"],
    ]);
    expect(await showSnapshot(await bench.session(), "2")).toMatchObject({ devices: [{ depth: 3 }] });
    expect((await list(bench, "vdb")).map(({ number }) => number)).toEqual([1]);
    expect((await list(bench, undefined, 1)).map(({ number }) => number)).toEqual([2]);
  });

  test("is durable with what guests have left to the page cache, before its mark is", async () => {
    const bench = await makeWorkbench();
    const flushed: string[] = [];
    const watched = watchStorage(bench.storage, ({ name, path: file, purpose }) => {
      if (name !== "file.flush") return;
      if (purpose === "left image") flushed.push(path.relative(bench.root, file));
      else if (purpose === "commit mark") flushed.push(purpose);
    });
    await bench.through(watched).snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    expect(flushed).toEqual(["a.qcow2", "b.raw", "commit mark"]);
  });

  test("of every device makes overlays named after image and snapshot, over no file that is there", async () => {
    const bench = await makeWorkbench();
    bench.makeRaw("a-after-mon.qcow2", 9);
    const all = { isOfAll: true, kind: "snapshot-group", name: "mon", targets: [] } as const;
    await bench.snapshot({}, all);
    expect(await bench.images()).toEqual({
      vda: "a-after-mon-2.qcow2",
      vdb: "b-after-mon.qcow2",
      vdc: "c-after-mon.qcow2",
    });
    await bench.snapshot({}, { ...all, name: "tue (late)" });
    expect((await bench.images())["vda"]).toBe("a-after-tue-late-.qcow2");
  });

  test("by a name that another has is refused before anything is made, and at the commit where it came later", async () => {
    const bench = await makeWorkbench();
    const id = await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" }, { name: "mon" });
    await bench.elsewhere().snapshot({ vdc: "c1.qcow2" }, { name: "mon" });
    expect(await failureOf(async () => await bench.commit(id))).toMatchObject({ code: "E_EXISTS" });
    await bench.abort(id);
    expect(existsSync(bench.at("a1.qcow2"))).toBe(false);
    const failure = await failureOf(async () => await bench.snapshot({ vda: "a1.qcow2" }, { name: "mon" }));
    expect(failure).toMatchObject({ code: "E_EXISTS", changed: false });
    expect(await lines(bench)).toEqual(["1 mon: vdc c.qcow2"]);
  });

  test.each(["7", "", "x ", "a/b", "-x", "x".repeat(129), "a\nb"])("can't be called %j", async (name) => {
    const bench = await makeWorkbench();
    const failure = await failureOf(async () => await bench.snapshot({ vda: "a1.qcow2" }, { name }));
    expect(failure).toMatchObject({ code: "E_USAGE", changed: false });
  });

  test("of an overlay that the same transaction made keeps that, in the order of the statements", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" }, { name: "one" });
    await bench.snapshot({ vda: "a2.qcow2", vdc: "c1.qcow2" }, { name: "two" });
    await bench.commit();
    expect(await lines(bench)).toEqual(["2 two: vda a1.qcow2, vdc c.qcow2", "1 one: vda a.qcow2"]);
  });

  test("gives no number away that is not taken, and no number twice", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.abort();
    await bench.snapshot({ vda: "a1.qcow2" }, {}, { dryRun: true });
    await bench.snapshot({ vda: "a1.qcow2" });
    expect((await list(bench)).map(({ number }) => number)).toEqual([1]);
  });

  test("whose image, or what it stands on, somebody changed is told as not intact, with what changed", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdc: "c1.qcow2" });
    await bench.snapshot({ vda: "a2.qcow2" });
    writeFileSync(bench.at("base.raw"), "another");
    rmSync(bench.at("c.qcow2"));
    expect(await lines(bench)).toEqual(["2 -: vda a1.qcow2!", "1 -: vda a.qcow2!, vdc c.qcow2!"]);
    const [, first] = await list(bench);
    expect(first?.devices.map(({ problems }) => problems.join())).toEqual([
      expect.stringMatching(/base\.raw has changed: size/),
      `${bench.at("c.qcow2")} is not there`,
    ]);
  });

  test("whose record is damaged hides no other", async () => {
    const bench = await makeWorkbench();
    for (const number of [1, 2, 3]) await bench.snapshot({ vda: `a${number}.qcow2` });
    const [, second = ""] = readdirSync(bench.at(".imgtx/snapshots")).sort();
    truncateSync(bench.at(`.imgtx/snapshots/${second}`), 100);
    const found = await list(bench);
    expect(found.map(({ number, problem }) => [number, problem === null])).toEqual([
      [3, true],
      [2, false],
      [1, true],
    ]);
    expect(found[0]?.devices[0]).toMatchObject({ intact: false });
    expect(found[2]?.devices[0]).toMatchObject({ intact: true });
  });

  test("takes as much in .imgtx however deep its chain is", async () => {
    const bench = await makeWorkbench();
    for (let number = 1; number <= 12; number += 1) await bench.snapshot({ vdc: `c${number}.qcow2` });
    const folder = bench.at(".imgtx/snapshots");
    const sizes = readdirSync(folder).map((name) => readFileSync(path.join(folder, name)).length);
    expect(Math.max(...sizes) - Math.min(...sizes)).toBeLessThan(100);
    expect(await showSnapshot(await bench.session(), "12")).toMatchObject({ devices: [{ depth: 12 }] });
  });

  test("is there with its commit or not at all, whichever call the process died at", async () => {
    for (let step = 1; ; step += 17) {
      const bench = await makeWorkbench();
      let calls = 0;
      const dying = watchStorage(bench.storage, (_, kill) => {
        calls += 1;
        if (calls > step) kill();
      });
      const isDead = await bench
        .through(dying)
        .snapshot({ vda: "a1.qcow2" }, { name: "mon" })
        .then(
          () => false,
          (error: unknown) => {
            if (error instanceof Killed) return true;
            throw error;
          },
        );
      const isTaken = (await bench.images())["vda"] === "a1.qcow2";
      expect(await lines(bench), `call ${step}`).toEqual(isTaken ? ["1 mon: vda a.qcow2"] : []);
      const records = existsSync(bench.at(".imgtx/snapshots"))
        ? readdirSync(bench.at(".imgtx/snapshots"))
        : [];
      expect(records, `call ${step}`).toHaveLength(isTaken ? 1 : 0);
      if (!isDead) return;
    }
  });
});

/** Has the workspace written by the version before: tables of version 2, also in the history, and no snapshots. */
async function makeEarlier(bench: Workbench): Promise<void> {
  const { workspace } = await bench.session();
  const present = await readTable(workspace);
  const files = new Map([[".imgtx/table.json", readFileSync(bench.at(".imgtx/table.json"), "utf8")]]);
  for (const number of await listHistory(workspace, present)) {
    const table = await readGeneration(workspace, number, present);
    const name = `.imgtx/history/${String(number).padStart(6, "0")}.json`;
    if (table) files.set(name, Buffer.from(encodeTable(bench.root, table, null)).toString());
  }
  rmSync(bench.at(".imgtx/snapshots"), { recursive: true });
  for (const [name, text] of files) {
    const { table } = JSON.parse(text) as { table: Record<string, unknown> };
    const { snapshots: _snapshots, nextSnapshot: _next, sinceWhole: _sinceWhole, ...older } = table;
    const images = (table["images"] as Record<string, unknown>[]).map(({ sealedBy: _by, ...image }) => image);
    // In place: the table knows its own file.
    const content = JSON.stringify({ ...older, images, version: 2 });
    const sha256 = createHash("sha256").update(content).digest("hex");
    writeFileSync(bench.at(name), `{"sha256":"${sha256}","table":${content}}\n`);
  }
}

describe("a workspace of the version before", () => {
  test("has the snapshots that its history comes to, as far as their images are intact", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    await bench.snapshot({ vda: "a2.qcow2", vdc: "c1.qcow2" });
    await bench.remove("vdc");
    await makeEarlier(bench);
    writeFileSync(bench.at("b.raw"), "another");
    const before = ["3 -: vdc c1.qcow2", "2 -: vda a1.qcow2, vdc c.qcow2", "1 -: vda a.qcow2"];
    expect(await lines(bench)).toEqual(before);
    await bench.snapshot({ vda: "a3.qcow2" }, { name: "new" });
    const after = ["4 new: vda a2.qcow2", ...before];
    expect(await lines(bench)).toEqual(after);
    // From then on the table says which there are.
    rmSync(bench.at(".imgtx/history"), { recursive: true });
    expect(await lines(bench)).toEqual(after);
    expect(await showSnapshot(await bench.session(), "new")).toMatchObject({ devices: [{ depth: 4 }] });
  });

  test("has none of what a device is on again, or of what stands on that", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.snapshot({ vda: "a2.qcow2" });
    await bench.undo(3);
    await makeEarlier(bench);
    expect(await lines(bench)).toEqual([]);
  });
});
