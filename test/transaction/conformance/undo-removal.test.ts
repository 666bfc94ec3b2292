// What undo deletes: files that are still what imgtx made, that nobody has open, and that nothing refers to.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  linkSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, onTestFinished, test, vi } from "vitest";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import type { KeptFile } from "../../../src/transaction/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { startQemuDaemon } from "../../helpers/qemu-programs.ts";
import { T0 } from "../../helpers/transaction/freezing.ts";
import { mirror, stagingFiles, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-io", "qemu-storage-daemon");

/** An open transaction with a snapshot of vda on a1.qcow2 after the savepoint `start`. */
async function makeOpen(root?: string): Promise<Workbench> {
  const bench = await makeWorkbench(root);
  await bench.begin();
  await bench.savepoint("start");
  await bench.snapshot({ vda: "a1.qcow2" });
  return bench;
}

function isLeft(bench: Workbench, name: string, why: string): KeptFile {
  return { path: bench.at(name), why: expect.stringContaining(why) as string };
}

/** A process that has a file open for reading, and takes no locks. */
async function holdOpen(file: string): Promise<void> {
  // It becomes no other program: amid that its descriptors can't be looked at.
  const child = spawn("sh", ["-c", 'exec 3<"$0"; echo open; read -r _', file], {
    stdio: ["pipe", "pipe", "ignore"],
  });
  onTestFinished(() => void child.kill("SIGKILL"));
  await once(child.stdout, "data");
}

describe.each([
  ["an abort", true],
  ["a rollback to a savepoint", false],
])("%s", (_, isAbort) => {
  const end = async (bench: Workbench) => await (isAbort ? bench.abort() : bench.rollbackTo("start"));

  test("deletes what nobody has touched, and what had its times put elsewhere", async () => {
    const bench = await makeOpen();
    utimesSync(bench.at("a1.qcow2"), T0, T0);
    expect((await end(bench)).kept).toEqual([]);
    expect(existsSync(bench.at("a1.qcow2"))).toBe(false);
  });

  test("deletes, on a disk whose inode numbers change at a mount, what holds each byte that imgtx wrote", async () => {
    const bench = await makeOpen();
    const bytes = readFileSync(bench.at("a1.qcow2"));
    rmSync(bench.at("a1.qcow2"));
    writeFileSync(bench.at("spare"), "");
    writeFileSync(bench.at("a1.qcow2"), bytes);
    const traits = { keepsInodes: false, keepsModes: true, sharesLocks: true };
    const mounted = bench.through({ ...bench.storage, describeFileSystem: async () => traits });
    expect((await end(mounted)).kept).toEqual([]);
    expect(existsSync(bench.at("a1.qcow2"))).toBe(false);
  });

  test("leaves another file there, by its content", async () => {
    const bench = await makeOpen();
    const bytes = readFileSync(bench.at("a1.qcow2"));
    rmSync(bench.at("a1.qcow2"));
    writeFileSync(bench.at("spare"), "");
    writeFileSync(bench.at("a1.qcow2"), bytes.with(5000, 1));
    const traits = { keepsInodes: false, keepsModes: true, sharesLocks: true };
    const mounted = bench.through({ ...bench.storage, describeFileSystem: async () => traits });
    expect((await end(mounted)).kept).toEqual([isLeft(bench, "a1.qcow2", "somebody has written to it")]);
  });

  test("leaves an image that an overlay in another folder stands on", async () => {
    const bench = await makeOpen();
    bench.makeQcow2("clones/mine.qcow2", 5, { name: "../a1.qcow2", format: "qcow2" });
    const kept = isLeft(bench, "a1.qcow2", "clones/mine.qcow2' stands on it");
    expect((await end(bench)).kept).toEqual([kept]);
  });

  test("leaves an image that a workspace in a folder above has made a device of", async () => {
    const theirs = new Workbench(makeFolder());
    const bench = await makeOpen(theirs.at("inner"));
    await theirs.add("vdx", bench.at("a1.qcow2"));
    const kept = isLeft(bench, "a1.qcow2", `device 'vdx' of the workspace '${theirs.root}' uses it`);
    expect((await end(bench)).kept).toEqual([kept]);
    expect(existsSync(bench.at("a1.qcow2"))).toBe(true);
  });

  qemu.test("leaves an overlay that a guest has written to", async () => {
    const bench = await makeOpen();
    writeGuest(bench.at("a1.qcow2"), "qcow2", "write -P 9 64k 4k");
    utimesSync(bench.at("a1.qcow2"), T0, T0);
    expect((await end(bench)).kept).toEqual([isLeft(bench, "a1.qcow2", "somebody has written to it")]);
    expect(existsSync(bench.at("a1.qcow2"))).toBe(true);
    expect(await bench.images()).toMatchObject({ vda: "a.qcow2" });
  });

  qemu.test("leaves an overlay that a guest runs on, and all that it stands on", async () => {
    const bench = await makeOpen();
    await bench.snapshot({ vda: "a2.qcow2" });
    const daemon = await startQemuDaemon(bench.at("a2.qcow2"), makeFolder(), true);
    onTestFinished(daemon.stop);
    const { kept } = await end(bench);
    expect(kept).toEqual([isLeft(bench, "a2.qcow2", "qemu-storage-da"), isLeft(bench, "a1.qcow2", "in use")]);
    expect([existsSync(bench.at("a1.qcow2")), existsSync(bench.at("a2.qcow2"))]).toEqual([true, true]);
  });

  qemu.test("leaves what an overlay stands on that is left, though nobody has it open", async () => {
    const bench = await makeOpen();
    await bench.snapshot({ vda: "a2.qcow2", vdb: "b1.qcow2" });
    writeGuest(bench.at("a2.qcow2"), "qcow2", "write -P 9 64k 4k");
    const { kept } = await end(bench);
    expect(kept).toEqual([
      isLeft(bench, "a2.qcow2", "written to"),
      isLeft(bench, "a1.qcow2", "a2.qcow2' stands on it"),
    ]);
    expect(existsSync(bench.at("b1.qcow2"))).toBe(false);
  });

  test("leaves a file that somebody reads without a lock", async () => {
    const bench = await makeOpen();
    await holdOpen(bench.at("a1.qcow2"));
    expect((await end(bench)).kept).toEqual([isLeft(bench, "a1.qcow2", "in use by pid")]);
    expect(existsSync(bench.at("a1.qcow2"))).toBe(true);
  });

  test("leaves what has taken its file's name", async () => {
    const bench = await makeOpen();
    linkSync(bench.at("a1.qcow2"), bench.at("kept-inode"));
    rmSync(bench.at("a1.qcow2"));
    symlinkSync(bench.at("kept-inode"), bench.at("a1.qcow2"));
    expect((await end(bench)).kept.map(({ path }) => path)).toEqual([bench.at("a1.qcow2")]);
    expect(existsSync(bench.at("kept-inode"))).toBe(true);
  });

  test.each([
    ["another open transaction has come to use", true],
    ["the table has come to name", false],
  ])("leaves a file that %s", async (__, isOpen) => {
    const bench = await makeOpen();
    const [{ id } = { id: "" }] = await bench.open();
    await mirror(bench, { vdc: "m.qcow2" });
    const other = isOpen ? await bench.begin() : undefined;
    const image = { kind: "reopen", device: "vdb", file: bench.at("m.qcow2") } as const;
    await bench.run(
      { ...image, format: undefined, force: false },
      { transaction: other, standalone: !isOpen },
    );
    const { kept } = isAbort ? await bench.abort(id) : await bench.rollbackTo("start", id);
    const why = isOpen ? `transaction ${other} uses it` : "'vdb' uses it";
    expect(kept).toEqual([isLeft(bench, "m.qcow2", why)]);
    expect(existsSync(bench.at("a1.qcow2"))).toBe(false);
    if (isOpen) await bench.commit(other);
    expect(await bench.images()).toMatchObject({ vda: "a.qcow2", vdb: "m.qcow2" });
  });
});

/** An open transaction with a copy, copy.raw, that is too large for a digest. */
async function makeLarge(): Promise<Workbench> {
  const bench = await makeWorkbench();
  bench.makeFile("large.raw", new Uint8Array(3 * 2 ** 20).fill(7));
  await bench.add("vdl", "large.raw", "raw");
  await bench.begin();
  await mirror(bench, { vdl: "copy.raw" }, { format: "raw" });
  return bench;
}

describe("a file that is too large for a digest", () => {
  test("goes where all that is known of it is as it was", async () => {
    const bench = await makeLarge();
    expect((await bench.abort()).kept).toEqual([]);
    expect(existsSync(bench.at("copy.raw"))).toBe(false);
  });

  test("stays where its time tells of a write", async () => {
    const bench = await makeLarge();
    utimesSync(bench.at("copy.raw"), T0, T0);
    expect((await bench.abort()).kept).toEqual([isLeft(bench, "copy.raw", "changed since imgtx made it")]);
    expect(existsSync(bench.at("copy.raw"))).toBe(true);
  });

  qemu.test("stays where it was written to, though its time was put back", async () => {
    const bench = await makeLarge();
    const copy = bench.at("copy.raw");
    const { mtimeNs } = statSync(copy, { bigint: true });
    writeGuest(copy, "raw", "write -P 9 64k 4k");
    const [seconds, fraction] = [mtimeNs / 10n ** 9n, String(mtimeNs % 10n ** 9n).padStart(9, "0")];
    execFileSync("touch", ["-d", `@${seconds}.${fraction}`, copy]);
    expect(statSync(copy, { bigint: true }).mtimeNs).toBe(mtimeNs);
    expect((await bench.abort()).kept).toEqual([isLeft(bench, "copy.raw", "may have written to it")]);
  });
});

describe("a statement that fails", () => {
  test("leaves a file of its own that somebody has opened, and says so", async () => {
    const bench = await makeWorkbench();
    const told: KeptFile[] = [];
    bench.makeFile("b1.qcow2", "somebody's");
    const snapshots = [
      bench.snapshotRequest({ vda: "a1.qcow2" }),
      bench.snapshotRequest({ vdb: "b1.qcow2" }),
    ];
    const opening = killAt(makeNodeStorage(), () => false);
    const rename = opening.renameWithoutReplacing.bind(opening);
    const storage = new Proxy(opening, {
      get: (target, property) =>
        property === "renameWithoutReplacing"
          ? async (source: string, name: string) => {
              await rename(source, name);
              await holdOpen(name);
            }
          : (Reflect.get(target, property, target) as unknown),
    });
    const failing = bench.through(storage).run(snapshots, { onKept: (file) => told.push(file) });
    await expect(failing).rejects.toThrow("exists");
    expect(told).toEqual([isLeft(bench, "a1.qcow2", "in use by pid")]);
    expect(await bench.images()).toMatchObject({ vda: "a.qcow2", vdb: "b.raw" });
  });
});

describe("the files of a command that died", () => {
  test("go without a look at all of /proc, where the kernel says at once that nobody else has them open", async () => {
    const bench = await makeOpen();
    const findHolders = vi.fn<Storage["findHolders"]>(async () => await Promise.resolve([]));
    const { kept } = await bench.through({ ...bench.storage, findHolders }).abort();
    expect(kept).toEqual([]);
    expect(existsSync(bench.at("a1.qcow2"))).toBe(false);
    expect(findHolders).not.toHaveBeenCalled();
  });

  test("go by their staging names, but for one that somebody has open, which recovery names", async () => {
    const bench = await makeWorkbench();
    const dying = killAt(
      makeNodeStorage(),
      ({ name, purpose }) => name === "file.flush" && purpose === "prepared",
    );
    const snapshot = bench.through(dying).snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    await expect(snapshot).rejects.toThrow("killed");
    const [one = "", other = ""] = stagingFiles(bench);
    await holdOpen(bench.at(one));
    const { recovered } = await bench.session();
    expect(recovered.map(({ text }) => text)).toEqual([
      expect.stringContaining(`left '${bench.at(one)}' as it is: it is in use by pid`) as string,
    ]);
    expect(stagingFiles(bench)).toEqual([one]);
    expect(readdirSync(bench.root)).not.toContain(other);
    expect((await bench.session()).recovered).toEqual([]);
  });
});
