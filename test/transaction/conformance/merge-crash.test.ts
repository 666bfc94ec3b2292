// A merge that is cut off after its commit mark goes on from where it had come to, whoever was started meanwhile; on a full
// disk it is refused before.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, statfsSync, writeFileSync } from "node:fs";
import { describe, expect, onTestFinished } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { forceCommit, openSession } from "../../../src/transaction/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell } from "../../helpers/qemu-programs.ts";
import { type Call, killAt, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { compareWithBefore, makeChain, mergeRequest } from "../../helpers/transaction/merging.ts";
import {
  atNthAfterMark,
  IDENTICAL,
  infoOf,
  judge,
  mirror,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { NO_WAIT, RUN_ALONE, type Workbench } from "../../helpers/transaction/workbench.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-img", "qemu-io");
const NAMES = ["base.qcow2", "a.qcow2", "b.qcow2"];
const INTO_BASE = { into: "base.qcow2" };

const FENCE_LIFTED = "fence of a copy lifted";

/** Takes the table of feature names out of a header, and puts the backing file's name where a fence needs the room. */
function moveNameUp(image: string): void {
  const bytes = readFileSync(image);
  const [from, length, end] = [bytes.readUInt32BE(12), bytes.readUInt32BE(16), bytes.readUInt32BE(100)];
  const name = Buffer.from(bytes.subarray(from, from + length));
  bytes.fill(0, end, from + length);
  name.copy(bytes, end + 8);
  bytes.writeUInt32BE(end + 8, 12);
  writeFileSync(image, bytes);
}

function rangeOfDifferences(one: Uint8Array, other: Uint8Array): [first: number, last: number] {
  const differing = [...one.subarray(0, 1024).keys()].filter((at) => one[at] !== other[at]);
  return [differing[0] ?? 0, differing.at(-1) ?? 0];
}

/** Merges in a process that dies at the nth such call on the image, and keeps marks all the time. */
async function dieAmidMerge(
  bench: Workbench,
  name: string,
  nth: number,
  image = "base.qcow2",
): Promise<void> {
  const dying = bench.through(killAt(makeNodeStorage(), atNthAfterMark(name, image, nth)));
  const died = dying.run(mergeRequest(bench, ["vda"], INTO_BASE), { markEveryMs: 0 });
  await expect(died).rejects.toThrow("killed");
}

async function countWrites(work: (bench: Workbench) => Promise<unknown>, bench: Workbench): Promise<number> {
  let count = 0;
  const watched = watchStorage(makeNodeStorage(), ({ name, path }) => {
    if (name === "file.write" && path.endsWith("base.qcow2")) count += 1;
  });
  await work(bench.through(watched));
  return count;
}

async function makeLong(words: readonly string[] = []): Promise<Workbench> {
  const bench = await makeChain(NAMES, { sizes: ["40M", "40M", "40M"], words });
  const pieces = Array.from({ length: 12 }, (_, at) => `write -P ${at + 40} ${at * 3}M 2M`);
  writeGuest(bench.at("b.qcow2"), "qcow2", ...pieces);
  runWell("qemu-img", "convert", "-O", "raw", bench.at("b.qcow2"), bench.at("before.raw"));
  return bench;
}

describe("a merge that was cut off", () => {
  qemu.test("goes on from its last mark, and the device shows what it showed all the time", async () => {
    const bench = await makeLong();
    const other = await makeLong();
    const all = await countWrites(
      async (watched) => await watched.run(mergeRequest(other, ["vda"], INTO_BASE), { markEveryMs: 0 }),
      other,
    );
    await dieAmidMerge(bench, "file.write", Math.floor((all * 2) / 3));
    const rest = await countWrites(async (watched) => {
      expect((await watched.session()).recovered).toMatchObject([{ did: "finished" }]);
    }, bench);
    expect(rest).toBeLessThan((all * 2) / 3);
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
    runWell("qemu-img", "check", "-q", bench.at("base.qcow2"));
    expect(NAMES.filter((name) => existsSync(bench.at(name)))).toEqual(["base.qcow2"]);
  });

  qemu.test("leaves the overlay, where no fence can be and a write may have lost its time", async () => {
    const bench = await makeChain(NAMES, { words: ["-o", "compat=0.10"] });
    const overlay = bench.at("b.qcow2");
    writeGuest(overlay, "qcow2", "write -P 8 0 64k");
    const dying = killAt(makeNodeStorage(), ({ name, path }) => name === "removeFile" && path === overlay);
    const died = bench.through(dying).run(mergeRequest(bench, ["vda"], { into: "a.qcow2" }));
    await expect(died).rejects.toThrow("killed");
    runWell("touch", "-r", overlay, bench.at("times"));
    writeGuest(overlay, "qcow2", "write -P 9 0 4k");
    runWell("touch", "-r", bench.at("times"), overlay);
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "finished" });
    expect(note?.text).toContain("somebody has written to one of the two since the commit");
    runWell("qemu-io", "-r", "-f", "qcow2", "-c", "read -P 9 0 4k", overlay);
  });

  qemu.test("goes on at the rate of the command that recovers it", async () => {
    const bench = await makeLong();
    await dieAmidMerge(bench, "file.write", 8);
    let copied = 0;
    const { recovered } = await openSession(bench.storage, {
      ...NO_WAIT,
      startFolder: bench.root,
      workspace: undefined,
      createHere: false,
      caller: "recover",
      throttle: async (lengthBytes) => void (copied += lengthBytes),
    });
    expect(recovered).toMatchObject([{ did: "finished" }]);
    expect(copied).toBeGreaterThan(2 ** 20);
  });

  qemu.test.each([
    ["the name of its backing file", 16],
    ["all but the end of that name", -4],
  ])("amid the lifting of its fence, with %s back, is mended", async (_, end) => {
    for (const comesFirst of ["start", "end"] as const) {
      const bench = await makeChain(NAMES);
      const image = bench.at("a.qcow2");
      moveNameUp(image);
      const isLifting = ({ name, purpose }: Call) => name === "file.flush" && purpose === FENCE_LIFTED;
      let fenced = readFileSync(image);
      const dying = watchStorage(makeNodeStorage(), (call, kill) => {
        if (call.name === "file.write" && call.path === image) fenced = readFileSync(image);
        if (isLifting(call)) kill();
      });
      const request = mergeRequest(bench, ["vda"], { into: "a.qcow2" });
      await expect(bench.through(dying).run(request)).rejects.toThrow("killed");
      const lifted = readFileSync(image);
      const [first, last] = rangeOfDifferences(fenced, lifted);
      const at = end < 0 ? last + end : first - (first % 16) + end;
      const [start, rest] = comesFirst === "start" ? [lifted, fenced] : [fenced, lifted];
      writeFileSync(image, Buffer.concat([start.subarray(0, at), rest.subarray(at)]));
      expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
      expect(readFileSync(image).subarray(0, 1024).equals(lifted.subarray(0, 1024))).toBe(true);
      expect(await compareWithBefore(bench)).toBe(IDENTICAL);
    }
  });

  qemu.test("keeps QEMU from both images until it is done", async () => {
    const bench = await makeLong();
    await dieAmidMerge(bench, "file.write", 8);
    for (const [name, words] of Object.entries({ "base.qcow2": "merged", "b.qcow2": "frozen" })) {
      expect(run("qemu-img", "map", bench.at(name)).output, name).toContain(`${words} by imgtx`);
    }
    await bench.session();
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
  });

  qemu.test("takes along what a guest wrote meanwhile, where no fence can be", async () => {
    const bench = await makeLong(["-o", "compat=0.10"]);
    await mirror(bench, { vda: "m.qcow2" });
    await dieAmidMerge(bench, "file.write", 30);
    writeGuest(bench.at("b.qcow2"), "qcow2", "write -P 99 0 64k", "write -P 98 39M 64k");
    writeGuest(bench.at("before.raw"), "raw", "write -P 99 0 64k", "write -P 98 39M 64k");
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
    // It is not what was planned any more, and stays.
    expect(existsSync(bench.at("b.qcow2"))).toBe(true);
    await mirror(bench, { vda: undefined });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test("leaves by force what an overlay in another folder was to be pointed past", async () => {
    const bench = await makeChain(["base.qcow2", "a.qcow2", "b.qcow2", "top/c.qcow2"], {
      words: ["-o", "compat=0.10"],
    });
    const request = mergeRequest(bench, ["vda"], { from: "b.qcow2", into: "base.qcow2" });
    const dying = bench.through(killAt(makeNodeStorage(), atNthAfterMark("file.write", "top/c.qcow2", 1)));
    await expect(dying.run(request, RUN_ALONE)).rejects.toThrow("killed");
    runWell("qemu-img", "snapshot", "-c", "one", bench.at("top/c.qcow2"));
    const session = await bench.session();
    expect(session.recovered).toMatchObject([{ did: "waiting" }]);
    await forceCommit(session, session.recovered[0]?.transaction ?? "", RUN_ALONE);
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
    expect(existsSync(bench.at("b.qcow2"))).toBe(true);
  });

  qemu.test("leaves an overlay that somebody stands on by then, and says so", async () => {
    const bench = await makeLong();
    await dieAmidMerge(bench, "file.write", 8);
    const below = ["-u", "-b", bench.at("b.qcow2"), "-F", "qcow2"];
    runWell("qemu-img", "create", "-q", "-f", "qcow2", ...below, bench.at("new.qcow2"), "40M");
    const [note] = (await bench.session()).recovered;
    expect(note).toMatchObject({ did: "finished" });
    expect(note?.text).toContain(
      `left '${bench.at("b.qcow2")}' as it is: '${bench.at("new.qcow2")}' stands on it`,
    );
    expect(run("qemu-img", "compare", bench.at("new.qcow2"), bench.at("before.raw")).output.trim()).toBe(
      IDENTICAL,
    );
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
  });
});

describe("a long merge", () => {
  qemu.test("has the disk begin to write meanwhile, and leaves no memory to what goes", async () => {
    for (const keep of [false, true]) {
      const bench = await makeLong();
      const calls: string[] = [];
      const watched = watchStorage(makeNodeStorage(), ({ name, path, purpose }) => {
        calls.push(`${name} ${path.split("/").at(-1)} ${purpose ?? ""}`.trim());
      });
      await bench.through(watched).run(mergeRequest(bench, ["vda"], { ...INTO_BASE, keep }));
      const copied = calls.slice(0, calls.indexOf("file.flush base.qcow2 copied layers"));
      expect(copied.lastIndexOf("file.beginFlush base.qcow2")).toBeGreaterThan(
        copied.indexOf("file.write base.qcow2"),
      );
      expect(copied.includes("file.forget b.qcow2")).toBe(!keep);
    }
  });
});

describe("a full disk", () => {
  oracle("root", "mount", "umount", "qemu-img", "qemu-io").test.each(
    [0, 64, 256, 448, 512, 576, 640, 768, 1024, 2048].map((pages) => pages * 1024),
  )("with %i bytes left has nothing changed by a merge, or all of it", async (left) => {
    const folder = makeFolder();
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=24m", "imgtx-test", folder]);
    onTestFinished(() => {
      execFileSync("umount", ["-l", folder]);
    });
    const bench = await makeChain(NAMES, {}, folder);
    for (const [name, bitmap] of [
      ["base.qcow2", "night"],
      ["b.qcow2", "week"],
    ] as const) {
      runWell("qemu-img", "bitmap", "--add", bench.at(name), bitmap);
    }
    const { bavail, bsize } = statfsSync(folder);
    writeFileSync(`${folder}/filler`, new Uint8Array(Math.max(0, bavail * bsize - left)));
    const before = snapshotWorkspace(folder);
    const outcome = await bench.run(mergeRequest(bench, ["vda"], INTO_BASE)).then(
      () => "done",
      (error: unknown) => (error as { code?: string }).code,
    );
    expect(["done", "E_NO_SPACE"]).toContain(outcome);
    if (outcome !== "done") expect(snapshotWorkspace(folder)).toEqual(before);
    else expect(JSON.stringify(infoOf(bench.at("base.qcow2")))).toMatch(/"night".*"week"/);
    expect(await compareWithBefore(bench)).toBe(IDENTICAL);
  });
});
