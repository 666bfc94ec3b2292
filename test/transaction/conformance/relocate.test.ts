// relocate: devices in another folder show what they showed, with all that snapshots keep of them, and nothing is left behind
// but what others need.

import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { setTimeout } from "node:timers/promises";
import { describe, expect, test } from "vitest";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { runWell } from "../../helpers/qemu-programs.ts";
import { killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { infoOf, judge, listBitmaps, mirror, stagingFiles } from "../../helpers/transaction/mirroring.ts";
import { expectIntact, imagesIn, makeKept, relocate } from "../../helpers/transaction/relocating.ts";
import { readSnapshotContents } from "../../helpers/transaction/snapshot-contents.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-img", "qemu-io");

describe("devices in another folder", () => {
  qemu.test("take their data files along", async () => {
    const bench = await makeWorkbench();
    const [image, data, elsewhere] = [bench.at("d.qcow2"), bench.at("d.data"), makeFolder()];
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", `data_file=${data}`, image, "1M");
    runWell("qemu-io", "-c", "write -P 7 64k 192k", image);
    await bench.add("vdd", "d.qcow2");
    await bench.snapshot({ vdd: "d1.qcow2" });
    const shown = await bench.content();
    await relocate(bench, ["vdd"], elsewhere);
    expect(await bench.content()).toEqual(shown);
    expect([existsSync(image), existsSync(data)]).toEqual([false, false]);
    const { "format-specific": specific } = infoOf(path.join(elsewhere, "d.qcow2"));
    expect(specific).toMatchObject({ data: { "data-file": path.join(elsewhere, "d.data") } });
    runWell("qemu-io", "-c", "read -P 7 64k 192k", path.join(elsewhere, "d1.qcow2"));
  });

  qemu.test(
    "show what they showed, and so do their snapshots, which are gone back to and deleted there",
    async () => {
      const { bench, elsewhere } = await makeKept();
      const [shown, kept, files] = [
        await bench.content(),
        await readSnapshotContents(bench, "number"),
        imagesIn(bench.root),
      ];
      const outcome = await relocate(bench, undefined, elsewhere);
      expect(outcome.actions.map(({ device, after }) => [device, path.dirname(after ?? "")])).toEqual(
        ["vda", "vdb", "vdc"].map((name) => [name, elsewhere]),
      );
      expect(imagesIn(bench.root)).toEqual([]);
      expect(imagesIn(elsewhere)).toEqual(files);
      expect(await bench.content()).toEqual(shown);
      expect(await readSnapshotContents(bench, "number")).toEqual(kept);
      await expectIntact(bench);
      for (const name of imagesIn(elsewhere).filter((one) => one.endsWith(".qcow2"))) {
        runWell("qemu-img", "check", "-q", path.join(elsewhere, name));
      }
      expect(infoOf(path.join(elsewhere, "a.qcow2"))).toMatchObject({ "backing-filename": "base.raw" });
      await bench.rollback("2");
      expect(await bench.content()).toEqual(
        Object.fromEntries(
          Object.entries(kept).flatMap(([key, one]) =>
            key.startsWith("2 ") ? [[key.slice(2), one.replace("true ", "")]] : [],
          ),
        ),
      );
      await bench.run({ kind: "snapshot-delete", snapshots: ["1"], devices: [], keepsImages: false });
      await expectIntact(bench);
      await relocate(bench, ["vda", "vdb", "vdc"], bench.root);
      await expectIntact(bench);
      expect(imagesIn(elsewhere)).toEqual([]);
    },
  );

  test("leave what another device stands on, and name it from there", async () => {
    const { bench, elsewhere } = await makeKept();
    bench.makeQcow2("clone.qcow2", 9, { name: "base.raw", format: "raw" });
    const shown = await bench.content();
    const outcome = await relocate(bench, ["vda"], elsewhere);
    expect(outcome.actions[0]!.notes.join("\n")).toContain(
      `${bench.at("base.raw")} stays, as a layer needed by '${bench.at("clone.qcow2")}'`,
    );
    expect(existsSync(bench.at("base.raw"))).toBe(true);
    expect(existsSync(bench.at("a.qcow2"))).toBe(false);
    const name = String(infoOf(path.join(elsewhere, "a.qcow2"))["backing-filename"]);
    expect([path.isAbsolute(name), path.resolve(elsewhere, name)]).toEqual([false, bench.at("base.raw")]);
    expect(await bench.content()).toEqual(shown);
    await expectIntact(bench);
  });

  test("come along with the base that they share", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("d.qcow2", 9, { name: bench.at("base.raw"), format: "raw" });
    await bench.add("vdd", "d.qcow2");
    const [shown, elsewhere] = [await bench.content(), makeFolder()];
    await relocate(bench, ["vda", "vdd"], elsewhere);
    expect(imagesIn(elsewhere)).toEqual(["a.qcow2", "base.raw", "d.qcow2"]);
    expect(infoOf(path.join(elsewhere, "d.qcow2"))).toMatchObject({
      "backing-filename": path.join(elsewhere, "base.raw"),
    });
    expect(await bench.content()).toEqual(shown);
  });

  qemu.test(
    "have the same bytes, holes, mode and times, bitmaps and internal snapshots, and a mirror in sync",
    async () => {
      const bench = await makeWorkbench();
      runWell("qemu-img", "snapshot", "-c", "inside", bench.at("c.qcow2"));
      runWell("qemu-img", "bitmap", "--add", bench.at("c.qcow2"), "b0");
      await mirror(bench, { vdc: "m.qcow2" }, {});
      writeFileSync(bench.at("b.raw"), new Uint8Array(8192), { flag: "r+" });
      runWell("truncate", "-s", "64M", bench.at("b.raw"));
      await bench.reopen("vdb", "b.raw", {}).catch(() => undefined);
      chmodSync(bench.at("c.qcow2"), 0o640);
      utimesSync(bench.at("c.qcow2"), 1_700_000_000, 1_700_000_000);
      const before = new Map(
        ["b.raw", "c.qcow2"].map((name) => [
          name,
          [readFileSync(bench.at(name)), statSync(bench.at(name))] as const,
        ]),
      );
      const elsewhere = makeFolder();
      await relocate(bench, ["vdb", "vdc"], elsewhere);
      for (const [name, [bytes, stat]] of before) {
        const now = statSync(path.join(elsewhere, name));
        expect(readFileSync(path.join(elsewhere, name)).equals(bytes), name).toBe(true);
        expect([now.mode, now.mtimeMs, now.blocks <= stat.blocks], name).toEqual([
          stat.mode,
          stat.mtimeMs,
          true,
        ]);
      }
      expect(listBitmaps(path.join(elsewhere, "c.qcow2"))).toMatchObject([{ name: "b0" }]);
      expect(infoOf(path.join(elsewhere, "c.qcow2"))["snapshots"]).toMatchObject([{ name: "inside" }]);
      const again = await mirror(bench, { vdc: "m.qcow2" }, {});
      expect(await judge(bench, "vdc")).toMatch(/identical/);
      expect(again.actions[0]!.notes.join()).not.toMatch(/compared/);
    },
  );

  test("go to folders with names that are hard to write, and through links to folders", async () => {
    const bench = await makeWorkbench();
    const folder = path.join(makeFolder(), "with space\nand: 'quotes'");
    mkdirSync(folder);
    symlinkSync(folder, bench.at("link"));
    const shown = await bench.content();
    await relocate(bench, ["vda"], bench.at("link"));
    expect(await bench.images()).toMatchObject({
      vda: path.relative(bench.root, path.join(folder, "a.qcow2")),
    });
    expect(await bench.content()).toEqual(shown);
    mkdirSync(bench.at("below"));
    await relocate(bench, ["vda"], bench.at("below"));
    expect(await bench.images()).toMatchObject({ vda: "below/a.qcow2" });
    expect((await relocate(bench, ["vda"], bench.at("below"))).changed).toBe(false);
  });
});

describe("with --keep", () => {
  test("the sources stay as they were, and an undo goes back to them", async () => {
    const { bench, elsewhere } = await makeKept();
    const [shown, files] = [await bench.content(), imagesIn(bench.root)];
    await relocate(bench, ["vda"], elsewhere, { keep: true });
    expect(imagesIn(bench.root)).toEqual(files);
    expect(await bench.content()).toEqual(shown);
    await bench.undo();
    expect((await bench.images())["vda"]).toMatch(/^a/);
    expect(await bench.content()).toEqual(shown);
    await bench.run({ kind: "redo", isForward: true, force: false });
    expect((await bench.images())["vda"]).toMatch(/^\.\./);
    await expectIntact(bench);
  });

  test("else an undo says where they are", async () => {
    const { bench, elsewhere } = await makeKept();
    await relocate(bench, ["vda"], elsewhere);
    const failure = await failureOf(async () => await bench.undo());
    expect(failure).toMatchObject({
      code: "E_CHANGED",
      message: expect.stringContaining(elsewhere) as string,
    });
    await expectIntact(bench);
  });
});

describe("in a transaction", () => {
  test("an abort takes the copies back, and a dry run makes none", async () => {
    const { bench, elsewhere } = await makeKept();
    const before = snapshotWorkspace(bench.root);
    const dry = await relocate(bench, undefined, elsewhere, { dryRun: true });
    expect(
      dry.actions[0]!.files.filter(({ change }) => change === "create")
        .map(({ path: file }) => path.basename(file))
        .sort(),
    ).toEqual(imagesIn(bench.root));
    await bench.begin();
    await relocate(bench, ["vda"], elsewhere);
    expect(imagesIn(elsewhere).length).toBeGreaterThan(2);
    await bench.abort();
    expect(readdirSync(elsewhere)).toEqual([]);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("what follows works on the copies, and what the transaction made is not moved", async () => {
    const { bench, elsewhere } = await makeKept();
    const shown = await bench.content();
    await bench.begin();
    await relocate(bench, ["vdc"], elsewhere);
    await bench.snapshot({ vdc: path.join(elsewhere, "c9.qcow2") });
    await bench.snapshot({ vdb: "b9.qcow2" });
    expect(await failureOf(async () => await relocate(bench, ["vdb"], elsewhere))).toMatchObject({
      code: "E_REFUSED",
    });
    await bench.commit();
    expect(await bench.content()).toEqual(shown);
    await expectIntact(bench);
  });
});

describe("what was cut off", () => {
  test("goes on from its last mark by the same command, or is taken back by another", async () => {
    for (const isResumed of [true, false]) {
      const { bench, elsewhere } = await makeKept();
      const shown = await bench.content();
      // What was written within the grain of the clock may have been written to since: such a copy begins anew.
      await setTimeout(50);
      let marks = 0;
      const dying = bench.through(
        killAt(
          bench.storage,
          ({ name, purpose }) => name === "file.flush" && purpose === "copied-so-far" && (marks += 1) === 4,
        ),
      );
      await expect(relocate(dying, ["vda"], elsewhere, { markEveryMs: 0 })).rejects.toThrow("killed");
      expect(stagingFiles(bench).length + readdirSync(elsewhere).length).toBeGreaterThan(0);
      const [device] = await bench.devices();
      expect(device).toMatchObject({ state: "ok" });
      await setTimeout(50);
      if (isResumed) {
        const begun = readdirSync(elsewhere).map((name) => statSync(path.join(elsewhere, name)).ino);
        await relocate(bench, ["vda"], elsewhere);
        const made = imagesIn(elsewhere).map((name) => statSync(path.join(elsewhere, name)).ino);
        expect(begun.filter((one) => made.includes(one))).toHaveLength(begun.length);
        expect(path.dirname((await bench.devices())[0]!.image)).toBe(elsewhere);
      } else {
        await bench.run({ kind: "mirror-cancel", devices: ["vda"] });
        expect(readdirSync(elsewhere)).toEqual([]);
      }
      expect(await bench.content()).toEqual(shown);
      await expectIntact(bench);
    }
  });
});

describe("is refused, with nothing changed", () => {
  async function expectRefused(
    bench: Workbench,
    elsewhere: string,
    code: string,
    device = "vda",
  ): Promise<string> {
    const before = snapshotWorkspace(bench.root);
    const there = readdirSync(elsewhere);
    const failure = await failureOf(async () => await relocate(bench, [device], elsewhere));
    expect(failure).toMatchObject({ code, changed: false });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    expect(readdirSync(elsewhere)).toEqual(there);
    return failure.message;
  }

  test("where a file is there already", async () => {
    const { bench, elsewhere } = await makeKept();
    writeFileSync(path.join(elsewhere, "base.raw"), "mine");
    await expectRefused(bench, elsewhere, "E_EXISTS");
    expect(readFileSync(path.join(elsewhere, "base.raw"), "utf8")).toBe("mine");
  });

  test("where nothing of a device can go, since somebody else's overlay stands on it", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("clone.qcow2", 9, { name: "a.qcow2", format: "qcow2" });
    expect(await expectRefused(bench, makeFolder(), "E_REFUSED")).toBe(
      `nothing of it can go: it is needed by '${bench.at("clone.qcow2")}'`,
    );
  });

  test("where there is no such folder, or it is imgtx's own", async () => {
    const bench = await makeWorkbench();
    for (const [folder, code] of [
      ["nowhere", "E_NOT_FOUND"],
      ["a.qcow2", "E_NOT_A_FILE"],
      [".imgtx", "E_REFUSED"],
    ] as const) {
      expect(await failureOf(async () => await relocate(bench, ["vda"], bench.at(folder)))).toMatchObject({
        code,
      });
    }
  });

  test("where somebody writes to an image while it is copied", async () => {
    const bench = await makeWorkbench();
    const [elsewhere, image] = [makeFolder(), bench.at("b.raw")];
    const written = bench.through(
      watchStorage(bench.storage, ({ name, path: file }) => {
        if (name !== "file.write" || !file.startsWith(elsewhere)) return;
        writeFileSync(image, new Uint8Array(4096).fill(readFileSync(image)[0]! ^ 255), { flag: "r+" });
        utimesSync(image, 1_700_000_000, 1_700_000_000);
      }),
    );
    const failure = await failureOf(async () => await relocate(written, ["vdb"], elsewhere));
    expect(failure).toMatchObject({ code: "E_CHANGED", changed: false, image });
    expect(readdirSync(elsewhere)).toEqual([]);
  });

  test("where a device is frozen", async () => {
    const { bench, elsewhere } = await makeKept();
    await bench.run({ kind: "freeze", devices: ["vda"], strict: false });
    await expectRefused(bench, elsewhere, "E_REFUSED");
  });

  test("where an image is missing, or another one", async () => {
    const { bench, elsewhere } = await makeKept();
    renameSync(bench.at("base.raw"), bench.at("gone.raw"));
    await expectRefused(bench, elsewhere, "E_NOT_FOUND");
    rmSync(bench.at("gone.raw"));
    bench.makeRaw("base.raw", 77);
    await expectRefused(bench, elsewhere, "E_CHANGED");
  });
});
