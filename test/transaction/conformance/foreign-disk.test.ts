// Images on a file system whose mounts make inode numbers up, and whose times tell of nothing: a transaction that is open
// when the disk is mounted anew is committed or taken back all the same, wherever what the images hold tells which they are.

import { execFileSync } from "node:child_process";
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, test } from "vitest";
import { makeNodeStorage, placeholderOf } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { foreignDisk } from "../../helpers/storage/foreign-disk.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { dieFencing, freeze } from "../../helpers/transaction/freezing.ts";
import { IDENTICAL, judge, mirror, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

interface Disk {
  readonly at: (name: string) => string;
  /** The workspace as the nth mount of the disk shows it. */
  readonly mounted: (mount: number) => Workbench;
}

async function makeDisk(): Promise<Disk> {
  const bench = new Workbench(makeFolder());
  const folder = bench.at("usb");
  mkdirSync(folder);
  const at = (name: string) => `${folder}/${name}`;
  const mounted = (mount: number) => bench.through(foreignDisk(makeNodeStorage(), folder, mount));
  bench.makeQcow2(at("a.qcow2"), 3);
  bench.makeRaw(at("b.raw"), 4);
  await mounted(1).add("vda", at("a.qcow2"));
  await mounted(1).add("vdb", at("b.raw"), "raw");
  return { at, mounted };
}

describe("a transaction that is open while its disk is mounted anew", () => {
  test("is committed", async () => {
    const { at, mounted } = await makeDisk();
    await mounted(1).begin();
    await mounted(1).snapshot({ vda: at("a1.qcow2"), vdb: at("b1.qcow2") });
    await mounted(2).commit();
    expect(await mounted(2).images()).toEqual({ vda: "usb/a1.qcow2", vdb: "usb/b1.qcow2" });
  });

  test("is refused where an image has other content by then", async () => {
    const { at, mounted } = await makeDisk();
    await mounted(1).begin();
    await mounted(1).snapshot({ vda: at("a1.qcow2") });
    const before = statSync(at("a.qcow2"));
    const bytes = readFileSync(at("a.qcow2"));
    bytes[40] = 9;
    writeFileSync(at("a.qcow2"), bytes);
    utimesSync(at("a.qcow2"), before.atime, before.mtime);
    expect(await failureOf(async () => await mounted(2).commit())).toMatchObject({ code: "E_CHANGED" });
  });

  test("takes the fence of a commit back that was cut off before its mark, and its overlays with it", async () => {
    const { at, mounted } = await makeDisk();
    const before = readFileSync(at("a.qcow2"));
    await mounted(1).begin();
    await mounted(1).snapshot({ vdb: at("b1.qcow2") });
    await mounted(1).run(freeze(["vda"]));
    await expect(dieFencing(mounted(1)).commit()).rejects.toThrow("killed");
    expect(readFileSync(at("a.qcow2")).equals(before)).toBe(false);
    await mounted(2).abort();
    expect(readFileSync(at("a.qcow2")).equals(before)).toBe(true);
    expect(statSync(at("b1.qcow2"), { throwIfNoEntry: false })).toBeUndefined();
  });

  test("leaves another image alone that has the name of a frozen one by then", async () => {
    const { at, mounted } = await makeDisk();
    await mounted(1).begin();
    await mounted(1).run(freeze(["vda"]));
    await expect(dieFencing(mounted(1)).commit()).rejects.toThrow("killed");
    renameSync(at("a.qcow2"), at("moved.qcow2"));
    mounted(1).makeQcow2(at("a.qcow2"), 9);
    const other = readFileSync(at("a.qcow2"));
    await mounted(2).abort();
    expect(readFileSync(at("a.qcow2")).equals(other)).toBe(true);
  });

  test("lifts the fence of a commit that was cut off", async () => {
    const { at, mounted } = await makeDisk();
    const before = readFileSync(at("a.qcow2"));
    mounted(1).makeQcow2(at("c.qcow2"), 5);
    const dying = mounted(1);
    const moves = killAt(
      dying.storage,
      ({ name, path }) => name === "rename" && path === dying.at(".imgtx/table.json"),
    );
    await expect(dying.through(moves).reopen("vda", at("c.qcow2"))).rejects.toThrow("killed");
    expect(readFileSync(at("a.qcow2")).equals(before)).toBe(false);
    expect((await mounted(2).session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(readFileSync(at("a.qcow2")).equals(before)).toBe(true);
    expect((await mounted(2).images())["vda"]).toBe("usb/c.qcow2");
  });
});

describe("a workspace on a disk with one mode for all files", () => {
  test("goes on with its transactions, and settles what a crash left", async () => {
    const folder = makeFolder();
    mkdirSync(`${folder}/ws`);
    const bench = new Workbench(`${folder}/ws`, foreignDisk(makeNodeStorage(), folder, 1));
    bench.makeQcow2("a.qcow2", 3);
    await bench.add("vda", "a.qcow2");
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.commit();
    expect(await bench.images()).toEqual({ vda: "a1.qcow2" });
    const moves = killAt(bench.storage, ({ name }) => name === "renameWithoutReplacing");
    await expect(bench.through(moves).snapshot({ vda: "a2.qcow2" })).rejects.toThrow("killed");
    expect((await bench.session()).recovered).toMatchObject([{ did: "aborted" }]);
  });
});

describe("what holds a name for a new image when its move is cut off", () => {
  test.each([
    ["goes", (staging: string) => placeholderOf(staging), undefined],
    ["stays where it is another transaction's", () => placeholderOf(".imgtx-another-0-0"), "kept"],
    ["stays where it is empty", () => new Uint8Array(0), "kept"],
  ] as const)("%s", async (_, contentFor, why) => {
    const { at, mounted } = await makeDisk();
    const bench = mounted(1);
    const moves = killAt(bench.storage, ({ name }) => name === "renameWithoutReplacing");
    await expect(bench.through(moves).snapshot({ vda: at("a1.qcow2") })).rejects.toThrow("killed");
    const [staging = ""] = readdirSync(at(".")).filter((name) => name.startsWith(".imgtx-"));
    const content = contentFor(staging);
    writeFileSync(at("a1.qcow2"), content);
    const [note] = (await mounted(2).session()).recovered;
    expect(note).toMatchObject({ did: "aborted" });
    const left = readdirSync(at(".")).filter((name) => !["a.qcow2", "b.raw"].includes(name));
    expect(left).toEqual(why === undefined ? [] : ["a1.qcow2"]);
    if (why !== undefined) expect(readFileSync(at("a1.qcow2")).equals(content)).toBe(true);
  });
});

describe("on a disk whose times tell of nothing", () => {
  qemu.test(
    "a transaction that takes a snapshot of one device and moves another to its mirror is committed",
    async () => {
      const { at, mounted } = await makeDisk();
      const bench = mounted(1);
      await mirror(bench, { vda: at("m.qcow2") });
      await bench.begin();
      await bench.snapshot({ vdb: at("b1.qcow2") });
      await bench.reopen("vda", at("m.qcow2"));
      const { mtime, atime } = statSync(at("a.qcow2"));
      writeGuest(at("a.qcow2"), "qcow2", "write -P 7 64k 4k");
      utimesSync(at("a.qcow2"), atime, mtime);
      await bench.commit();
      expect((await bench.images())["vda"]).toBe("usb/m.qcow2");
      execFileSync("qemu-io", ["-c", "read -P 7 64k 4k", at("m.qcow2")]);
      const compare = ["compare", at("a.qcow2"), at("m.qcow2")];
      expect(execFileSync("qemu-img", compare, { encoding: "utf8" }).trim()).toBe(IDENTICAL);
    },
  );

  qemu.test("a mirror is synced after a mount as before", async () => {
    const { at, mounted } = await makeDisk();
    await mirror(mounted(1), { vda: at("m.qcow2") });
    writeGuest(at("a.qcow2"), "qcow2", "write -P 7 64k 4k");
    await mirror(mounted(2), { vda: undefined });
    expect(await judge(mounted(2), "vda")).toBe(IDENTICAL);
  });
});
