// Small files of the machine that a snapshot keeps beside its disks, and a rollback gives back.

import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, test } from "vitest";
import { listSnapshots, type RollbackRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const FOLDER = ".imgtx/beside";

function rollback(changes: Partial<RollbackRequest> = {}): RollbackRequest {
  return { kind: "rollback", devices: [], to: undefined, isDiscarding: false, ...changes };
}

function copies(bench: Workbench): string[] {
  return existsSync(bench.at(FOLDER)) ? readdirSync(bench.at(FOLDER)) : [];
}

/** Of the newest snapshot. */
async function filesKept(bench: Workbench) {
  const [newest] = await listSnapshots(await bench.session(), {});
  return newest?.files.map(({ name, sizeBytes, problem }) => `${name} ${sizeBytes} ${problem}`);
}

describe("a snapshot with files of the machine", () => {
  test("keeps them as they are, for its user alone, and gives them back as they were", async () => {
    const bench = await makeWorkbench();
    const vars = bench.makeFile("nvram/web_VARS.fd", Buffer.alloc(70_001, 7));
    const definition = bench.makeFile("web.xml", "<domain/>\n");
    chmodSync(definition, 0o640);
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" }, { withFiles: [vars, definition] });
    expect(await filesKept(bench)).toEqual(["web_VARS.fd 70001 null", "web.xml 10 null"]);
    for (const copy of copies(bench))
      expect(statSync(bench.at(`${FOLDER}/${copy}`)).mode & 0o777).toBe(0o600);
    writeFileSync(vars, "spoilt");
    writeFileSync(definition, "<domain>longer than it was</domain>\n");
    mkdirSync(bench.at("out"));
    await bench.run(rollback({ filesTo: bench.at("out") }));
    expect(readFileSync(bench.at("out/web_VARS.fd"))).toEqual(Buffer.alloc(70_001, 7));
    expect(readFileSync(bench.at("out/web.xml"), "utf8")).toBe("<domain/>\n");
    expect(statSync(bench.at("out/web.xml")).mode & 0o777).toBe(0o640);
    expect(readFileSync(vars, "utf8")).toBe("spoilt");
  });

  test("is written over nothing unless that was said, and what it is written over is kept in turn", async () => {
    const bench = await makeWorkbench();
    const definition = bench.makeFile("web.xml", "<then/>\n");
    const { ino } = statSync(definition);
    await bench.snapshot({ vda: "a1.qcow2" }, { withFiles: [definition], name: "mon" });
    writeFileSync(definition, "<now and longer/>\n");
    const before = await bench.images();
    const failure = await failureOf(async () => await bench.run(rollback({ filesTo: bench.root })));
    expect(failure).toMatchObject({ code: "E_EXISTS", image: definition, changed: false });
    expect(failure.hint).toContain("--overwrite");
    expect(await bench.images()).toEqual(before);
    await bench.run(rollback({ filesTo: bench.root, overwrites: true }));
    expect(readFileSync(definition, "utf8")).toBe("<then/>\n");
    expect(statSync(definition).ino).toBe(ino);
    // Forward again, by the same command.
    await bench.run(rollback({ filesTo: bench.root, overwrites: true }));
    expect(readFileSync(definition, "utf8")).toBe("<now and longer/>\n");
    await bench.run(rollback({ to: "mon", filesTo: bench.root, overwrites: true, isDiscarding: true }));
    expect(readFileSync(definition, "utf8")).toBe("<then/>\n");
    // What is as it was kept needs no word for it.
    await bench.run(rollback({ to: "mon", filesTo: bench.root }));
  });

  test("is undone with its transaction, which sees to it that they have not changed by its commit", async () => {
    const bench = await makeWorkbench();
    const definition = bench.makeFile("web.xml", "<domain/>\n");
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" }, { withFiles: [definition] });
    expect(copies(bench)).toHaveLength(1);
    await bench.snapshot({ vdb: "b1.qcow2" }, { withFiles: [definition] });
    expect(copies(bench)).toHaveLength(2);
    writeFileSync(definition, "<other/>\n");
    expect(await failureOf(async () => await bench.commit())).toMatchObject({
      code: "E_CHANGED",
      image: definition,
    });
    await bench.abort();
    expect(copies(bench)).toEqual([]);
  });

  test("loses them when it goes, and keeps them while an undo of it can be done again", async () => {
    const bench = await makeWorkbench();
    const definition = bench.makeFile("web.xml", "<domain/>\n");
    await bench.snapshot({ vda: "a1.qcow2" }, { withFiles: [definition] });
    await bench.undo();
    expect(copies(bench)).toHaveLength(1);
    await bench.run({ kind: "redo", isForward: true, force: false });
    expect(await filesKept(bench)).toEqual(["web.xml 10 null"]);
    await bench.run({ kind: "merge", devices: ["vda"], from: undefined, into: undefined, keep: false });
    expect(await listSnapshots(await bench.session(), {})).toEqual([]);
    expect(copies(bench)).toEqual([]);
    for (const keepsImages of [false, true]) {
      await bench.snapshot({ vdb: "b1.qcow2" }, { withFiles: [definition], name: "mon" });
      expect(copies(bench)).toHaveLength(1);
      await bench.run({ kind: "snapshot-delete", snapshots: ["mon"], devices: [], keepsImages });
      expect(copies(bench)).toEqual([]);
    }
  });

  test("refuses what is no small regular file, and two of one name", async () => {
    const bench = await makeWorkbench();
    const definition = bench.makeFile("web.xml", "<domain/>\n");
    symlinkSync(definition, bench.at("link.xml"));
    truncateSync(bench.makeFile("large.fd", ""), 64 * 2 ** 20 + 1);
    mkdirSync(bench.at("other"));
    linkSync(definition, bench.at("other/web.xml"));
    const failures = [
      [["link.xml"], "E_NOT_A_FILE"],
      [["large.fd"], "E_REFUSED"],
      [["other"], "E_NOT_A_FILE"],
      [["missing"], "E_NOT_FOUND"],
      [["web.xml", "other/web.xml"], "E_USAGE"],
      [[".imgtx/table.json"], "E_REFUSED"],
    ] as const;
    for (const [names, code] of failures) {
      const withFiles = names.map((name) => bench.at(name));
      const failure = await failureOf(async () => await bench.snapshot({ vda: "a1.qcow2" }, { withFiles }));
      expect(failure, names[0]).toMatchObject({ code, changed: false });
    }
    expect(copies(bench)).toEqual([]);
  });

  test("says that a copy is not what it was, and gives nothing back then", async () => {
    const bench = await makeWorkbench();
    const definition = bench.makeFile("web.xml", "<domain/>\n");
    await bench.snapshot({ vda: "a1.qcow2" }, { withFiles: [definition] });
    const [copy = ""] = copies(bench);
    writeFileSync(bench.at(`${FOLDER}/${copy}`), "<DOMAIN/>\n");
    mkdirSync(bench.at("out"));
    const back = async () => await bench.run(rollback({ filesTo: bench.at("out") }));
    expect(await failureOf(back)).toMatchObject({ code: "E_CHANGED", changed: false });
    expect(readdirSync(bench.at("out"))).toEqual([]);
    writeFileSync(bench.at(`${FOLDER}/${copy}`), "");
    expect((await filesKept(bench))?.[0]).toContain("is not what it was");
    await bench.run(rollback());
    await bench.snapshot({ vdb: "b1.qcow2" });
    const none = async () => await bench.run(rollback({ devices: ["vdb"], filesTo: bench.at("out") }));
    expect(await failureOf(none)).toMatchObject({ code: "E_REFUSED" });
  });

  test("is written over no image that a device shows, a snapshot keeps, or another image stands on", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("mine.qcow2", 7, { name: "loose.qcow2", format: "qcow2" });
    const names = ["a.qcow2", "b.raw", "c.qcow2", "loose.qcow2"];
    for (const name of names) {
      const given = bench.makeFile(`kept/${name}`, "not an image\n");
      await bench.snapshot({ vda: `of-${name}.qcow2` }, { withFiles: [given] });
      if (!existsSync(bench.at(name))) bench.makeQcow2(name, 8);
      const before = readFileSync(bench.at(name));
      const back = async () => await bench.run(rollback({ filesTo: bench.root, overwrites: true }));
      expect(await failureOf(back), name).toMatchObject({ code: "E_IN_USE", changed: false });
      expect(readFileSync(bench.at(name)).equals(before)).toBe(true);
    }
  });
});
