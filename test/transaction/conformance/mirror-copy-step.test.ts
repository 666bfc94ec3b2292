// After the commit mark: a mirror is copied into as often as it takes, and nothing may refuse it by then.

import { spawnSync } from "node:child_process";
import { chmodSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { runCli } from "../../helpers/cli/harness.ts";
import { oracle } from "../../helpers/oracles.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import {
  atNthAfterMark,
  compareMirror as compare,
  dieAmidCopy as dieAt,
  expectRefused,
  IDENTICAL,
  infoOf,
  judge,
  makeBehind,
  mirror,
  mirrorRequest,
  stagingFiles,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");

/** Sets the lowest byte of the incompatible features. */
function setFeature(file: string, bits: number): void {
  const bytes = readFileSync(file);
  bytes[79] = bits;
  writeFileSync(file, bytes);
}

describe("a copy that was cut off", () => {
  qemu.test.each([
    ["file.write", 1],
    ["file.write", 2],
    ["file.write", 3],
    ["file.write", 4],
    ["file.flush", 1],
    ["file.flush", 2],
  ])("at %s %i is done again by recovery, as often as it takes", async (name, nth) => {
    const bench = await makeBehind();
    await dieAt(bench, name, nth);
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "finished" });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
    expect(stagingFiles(bench)).toEqual([]);
    expect(infoOf(bench.at("m.qcow2"))["dirty-flag"]).toBe(false);
    // Nobody but imgtx can have written to it: it had a fence.
    expect((await mirror(bench, { vdc: undefined })).changed).toBe(false);
  });

  qemu.test.each([1, 2, 3, 4])(
    "at write %i leaves an image with lazy refcounts clean all the same",
    async (nth) => {
      const bench = await makeBehind({ lazyRefcounts: true });
      await dieAt(bench, "file.write", nth);
      expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
      expect(infoOf(bench.at("m.qcow2"))["dirty-flag"]).toBe(false);
      expect(await judge(bench, "vdc")).toBe(IDENTICAL);
    },
  );

  qemu.test("gives clusters back when what let go of them is durable", async () => {
    const bench = await makeWorkbench();
    await mirror(bench, { vdc: "m.qcow2" });
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 1 0 192k");
    await mirror(bench, { vdc: undefined });
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -z -u 64k 128k");
    const dying = killAt(makeNodeStorage(), ({ purpose }) => purpose === "references-before-refcounts-fall");
    await expect(mirror(bench.through(dying), { vdc: undefined })).rejects.toThrow("killed");
    const left = readFileSync(bench.at("m.qcow2"));
    const flushed: Buffer[] = [];
    const watched = watchStorage(makeNodeStorage(), ({ name, path }) => {
      if (path.endsWith("m.qcow2") && name === "file.flush") flushed.push(readFileSync(path));
    });
    expect((await bench.through(watched).session()).recovered).toMatchObject([{ did: "finished" }]);
    // A power cut before that would have given away what the image on the disk still refers to.
    expect(flushed[0]?.equals(left)).toBe(true);
    expect(flushed.at(-1)?.equals(left)).toBe(false);
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  qemu.test("leaves a mirror that QEMU refuses, until it is done", async () => {
    const bench = await makeBehind();
    await dieAt(bench, "file.flush", 1);
    const opened = spawnSync("qemu-img", ["info", bench.at("m.qcow2")], { encoding: "utf8" });
    expect(opened.stderr).toContain("Unsupported qcow2 feature(s): merged by imgtx");
    // By itself it shows a part of two moments.
    const words = ["img", "convert", "-O", "raw", bench.at("m.qcow2"), "out.raw"];
    expect(await runCli(words, { cwd: bench.root })).toMatchObject({
      status: 1,
      stderr: expect.stringContaining("was cut off while it merged into it") as string,
    });
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  qemu.test("with its fence lifted by then is done, and compared when it is synced next", async () => {
    const bench = await makeBehind();
    const dying = killAt(makeNodeStorage(), ({ purpose }) => purpose === "fence of a copy lifted");
    await expect(mirror(bench.through(dying), { vdc: undefined })).rejects.toThrow("killed");
    writeGuest(bench.at("m.qcow2"), "qcow2", "write -P 77 128k 4k");
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "finished" });
    expect(note?.text).toContain("is compared from end to end when it is synced next");
    expect((await mirror(bench, { vdc: undefined })).changed).toBe(true);
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  qemu.test("does not go into a file that has the mirror's name by now", async () => {
    const bench = await makeBehind();
    await dieAt(bench, "file.write", 1);
    renameSync(bench.at("m.qcow2"), bench.at("moved.qcow2"));
    writeFileSync(bench.at("m.qcow2"), readFileSync(bench.at("moved.qcow2")));
    const before = stateOf(bench.at("m.qcow2"));
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(stateOf(bench.at("m.qcow2"))).toEqual(before);
    const { actions } = await mirror(bench, { vdc: undefined });
    expect(actions[0]?.notes[0]).toContain("somebody has written to the mirror since");
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  qemu.test("is given up where the mirror has gone", async () => {
    const bench = await makeBehind();
    await dieAt(bench, "file.write", 1);
    rmSync(bench.at("m.qcow2"));
    const [note] = (await bench.session()).recovered;
    expect(note?.did).toBe("finished");
    expect(note?.text).toContain("m.qcow2 could not be brought in sync");
    expect(stagingFiles(bench)).toEqual([]);
  });

  qemu.test.each([
    ["no image", (file: string) => writeFileSync(file, "hello")],
    ["dirty", (file: string) => setFeature(file, 1)],
  ])("is given up where the mirror is %s by now", async (_, spoil) => {
    const bench = await makeBehind();
    await dieAt(bench, "file.write", 1);
    spoil(bench.at("m.qcow2"));
    const before = readFileSync(bench.at("m.qcow2"));
    const [note] = (await bench.session()).recovered;
    expect(note?.did).toBe("finished");
    expect(note?.text).toContain("m.qcow2 could not be brought in sync");
    expect(readFileSync(bench.at("m.qcow2")).equals(before)).toBe(true);
    expect(stagingFiles(bench)).toEqual([]);
    expect((await failureOf(async () => await mirror(bench, { vdc: undefined }))).device).toBe("vdc");
  });

  qemu.test("waits where the mirror's folder has gone, and ends with the mirror's cancelling", async () => {
    const bench = await makeWorkbench();
    mkdirSync(bench.at("mirrors"));
    await mirror(bench, { vdc: "mirrors/m.qcow2" });
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 1 0 100k");
    await dieAt(bench, "file.write", 1);
    rmSync(bench.at("mirrors"), { recursive: true });
    const waits = { did: "waiting", obstacle: { code: "E_NOT_FOUND", devices: ["vdc"] } };
    expect((await bench.session()).recovered).toMatchObject([waits]);
    expect(await failureOf(async () => await bench.snapshot({ vdc: "c1.qcow2" }))).toMatchObject({
      code: "E_TRANSACTION",
      device: "vdc",
    });
    await bench.snapshot({ vda: "a1.qcow2" });
    await bench.run({ kind: "mirror-cancel", devices: ["vdc"] });
    const { recovered } = await bench.session();
    expect(recovered).toMatchObject([{ did: "finished" }]);
    expect(recovered[0]?.text).toContain("stays, on a disk that is not there");
    expect(await bench.open()).toEqual([]);
  });

  qemu.test("waits for an image that a device is to be on, and that is away", async () => {
    const bench = await makeBehind();
    const dying = killAt(makeNodeStorage(), atNthAfterMark("file.write", "m.qcow2", 1));
    await expect(bench.through(dying).reopen("vdc", "m.qcow2")).rejects.toThrow("killed");
    renameSync(bench.at("m.qcow2"), bench.at("away.qcow2"));
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_NOT_FOUND", devices: ["vdc"] } });
    expect(note?.text).toContain("is committed, and can't be finished yet");
    renameSync(bench.at("away.qcow2"), bench.at("m.qcow2"));
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect((await bench.images())["vdc"]).toBe("m.qcow2");
    expect(compare(bench)).toBe(IDENTICAL);
  });

  qemu.test("needs no --allow-path again", async () => {
    const bench = await makeWorkbench();
    const elsewhere = makeFolder();
    const options = { dataFileName: `${elsewhere}/m.data` };
    await mirror(bench, { vdc: "m.qcow2" }, { options });
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 1 0 100k");
    const failure = await failureOf(async () => await mirror(bench, { vdc: undefined }));
    expect(failure.code).toBe("E_OUTSIDE");
    await mirror(bench, { vdc: undefined }, {}, { allowPaths: [elsewhere] });
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });
});

/** Calls back when the commit of a transaction opens the mirror to copy into it. */
function meetCopy(bench: Workbench, storage: Storage, meet: () => Promise<void>): Workbench {
  let hasMet = false;
  const meeting = new Proxy(storage, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target);
      if (property !== "openFile") return typeof value === "function" ? value.bind(target) : value;
      return async (path: string, access: "read" | "write") => {
        const isCopy = access === "write" && path.endsWith("m.qcow2") && !hasMet;
        if (isCopy && (await bench.open()).some(({ state }) => state === "committed")) {
          hasMet = true;
          await meet();
        }
        return await target.openFile(path, access);
      };
    },
  });
  return bench.through(meeting);
}

describe("while a mirror is copied into", () => {
  qemu.test("other devices go on, and its own is busy", async () => {
    const bench = await makeBehind();
    const met: unknown[] = [];
    const behind = meetCopy(bench, makeNodeStorage(), async () => {
      met.push((await bench.snapshot({ vda: "a1.qcow2" })).generation);
      met.push((await failureOf(async () => await bench.snapshot({ vdc: "c1.qcow2" }))).code);
      met.push((await failureOf(async () => await bench.add("vdd", "m.qcow2"))).code);
    });
    const { generation } = await mirror(behind, { vdc: undefined });
    expect(met).toEqual([generation + 1, "E_BUSY", "E_LOCKED"]);
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
    expect((await mirror(bench, { vdc: undefined })).changed).toBe(false);
    expect((await bench.devices()).find(({ name }) => name === "vda")?.image).toBe(bench.at("a1.qcow2"));
    expect(await bench.open()).toEqual([]);
  });

  qemu.test("its process may die, and others have gone on by then", async () => {
    const bench = await makeBehind();
    let mayDie = false;
    const dying = killAt(
      makeNodeStorage(),
      ({ name, path }) => mayDie && name === "file.flush" && path.endsWith("m.qcow2"),
    );
    const behind = meetCopy(bench, dying, async () => {
      await bench.snapshot({ vda: "a1.qcow2" });
      mayDie = true;
    });
    await expect(mirror(behind, { vdc: undefined })).rejects.toThrow("killed");
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
    expect(stagingFiles(bench)).toEqual([]);
    expect(await judge(bench, "vdc")).toBe(IDENTICAL);
  });

  qemu.test("what waits for it has gone: then it counts as written to", async () => {
    const bench = await makeBehind();
    await dieAt(bench, "file.flush", 1);
    for (const name of stagingFiles(bench)) rmSync(bench.at(name));
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    const { actions } = await mirror(bench, { vdc: undefined });
    expect(actions[0]?.notes[0]).toContain("somebody has written to the mirror since");
    expect(compare(bench)).toBe(IDENTICAL);
  });

  qemu.test("one of two that wait for it has gone: then it counts as written to as well", async () => {
    const bench = await makeBehind();
    await bench.begin();
    await mirror(bench, { vdc: undefined });
    writeGuest(bench.at("c.qcow2"), "qcow2", "write -P 2 128k 64k");
    await mirror(bench, { vdc: undefined });
    const dying = killAt(makeNodeStorage(), atNthAfterMark("file.write", "m.qcow2", 1));
    await expect(bench.through(dying).commit()).rejects.toThrow("killed");
    const [first = "", ...others] = stagingFiles(bench).sort();
    expect(others).toHaveLength(1);
    rmSync(bench.at(first));
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    const { actions } = await mirror(bench, { vdc: undefined });
    expect(actions[0]?.notes[0]).toContain("somebody has written to the mirror since");
    expect(compare(bench)).toBe(IDENTICAL);
  });

  qemu.test("a device that moves to it does so after the copy", async () => {
    const bench = await makeBehind();
    const met: (string | undefined)[] = [];
    const behind = meetCopy(bench, makeNodeStorage(), async () => {
      met.push((await bench.devices()).find(({ name }) => name === "vdc")?.image);
    });
    await behind.run({
      kind: "reopen",
      device: "vdc",
      file: bench.at("m.qcow2"),
      format: "qcow2",
      force: false,
    });
    expect(met).toEqual([bench.at("c.qcow2")]);
    expect(compare(bench)).toBe(IDENTICAL);
  });
});

describe("what a copy would be refused for is found before", () => {
  qemu.test.each([
    ["dirty", 1],
    ["corrupt", 2],
  ])("the mirror is %s", async (word, bit) => {
    const bench = await makeBehind();
    setFeature(bench.at("m.qcow2"), bit);
    const failure = await failureOf(async () => await mirror(bench, { vdc: undefined }));
    expect(failure).toMatchObject({ device: "vdc", changed: false });
    expect(failure.message).toContain(word);
    expect((await bench.open()).length).toBe(0);
    expect(stagingFiles(bench)).toEqual([]);
  });

  qemu.test("the mirror may not be written to", async () => {
    const bench = await makeBehind();
    chmodSync(bench.at("m.qcow2"), 0o400);
    const storage = makeNodeStorage();
    const readOnly = new Proxy(storage, {
      get(target, property) {
        const value: unknown = Reflect.get(target, property, target);
        if (property !== "openFile") return typeof value === "function" ? value.bind(target) : value;
        return async (path: string, access: "read" | "write", ...rest: never[]) => {
          if (access === "write" && path.endsWith("m.qcow2")) throw await denied(target, path);
          return await target.openFile(path, access, ...rest);
        };
      },
    });
    await expectRefused(bench.through(readOnly), { vdc: undefined }, { device: "vdc" });
  });
});

/** What opening a file that one may not open throws. */
async function denied(storage: ReturnType<typeof makeNodeStorage>, path: string): Promise<Error> {
  const failure = await failureOf(async () => await storage.openFile(`${path}/no-folder`, "read"));
  return failure;
}

describe("a command that is interrupted", () => {
  test.each(["new", "old"])("while it copies for a mirror that is %s leaves nothing", async (which) => {
    const bench = await makeWorkbench();
    const isOld = which === "old";
    if (isOld) {
      await mirror(bench, { vdc: "m.qcow2" });
      bench.makeQcow2("c.qcow2", 44);
    }
    const before = snapshotWorkspace(bench.root);
    const interrupt = new AbortController();
    const storage = watchStorage(makeNodeStorage(), ({ name, path }) => {
      if (name !== "file.write" || !path.includes("/.imgtx-")) return;
      interrupt.abort(new ImgtxError("E_INTERRUPTED", "interrupted"));
    });
    const request = mirrorRequest(bench, { vdc: isOld ? undefined : "m.qcow2" });
    const { signal } = interrupt;
    const failure = await failureOf(async () => await bench.through(storage).run(request, { signal }));
    expect(failure).toMatchObject({ code: "E_INTERRUPTED", exitCode: 130, changed: false });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});
