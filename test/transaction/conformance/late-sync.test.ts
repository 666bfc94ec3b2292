// A device goes over to its mirror, its old image has no place for a fence (raw, version 2), and a guest is started on it
// between the commit mark and recovery: the mirror is synced anew, and then the table moves.

import { execFileSync } from "node:child_process";
import {
  closeSync,
  openSync,
  readFileSync,
  realpathSync,
  statSync,
  truncateSync,
  utimesSync,
  writeSync,
} from "node:fs";
import { describe, expect } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { forceCommit, openSession } from "../../../src/transaction/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { freeze, frozen, isFenced, makeOldBench, T0, unfreeze } from "../../helpers/transaction/freezing.ts";
import { startGuest } from "../../helpers/transaction/migrating.ts";
import { IDENTICAL, mirror, stateOf, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { type Call, failAt, isShowing, killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, NO_WAIT, RUN_ALONE, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

function dying(bench: Workbench): Workbench {
  const moves = (call: Call) => call.name === "rename" && call.path === bench.at(".imgtx/table.json");
  return bench.through(killAt(bench.storage, moves));
}

/** Dies when the table has moved, and the view has not. */
function dyingBetween(bench: Workbench): Workbench {
  return bench.through(killAt(bench.storage, isShowing));
}

function compare(
  bench: Workbench,
  image: string,
  format = "raw",
  copy = "m.qcow2",
  copyFormat = "qcow2",
): string {
  const images = ["compare", "-f", format, "-F", copyFormat, bench.at(image), bench.at(copy)];
  return execFileSync("qemu-img", images, { encoding: "utf8" }).trim();
}

/** vdb is on its way to its mirror, past the mark, and b.raw is older than any grain. */
async function makeLeaving(copy = "m.qcow2"): Promise<Workbench> {
  const bench = await makeOldBench();
  await mirror(bench, { vdb: copy }, { format: copy.endsWith(".raw") ? "raw" : "qcow2" });
  await expect(dying(bench).reopen("vdb", copy)).rejects.toThrow("killed");
  return bench;
}

const GUEST = ["write -P 7 0 4k", "write -z 68k 4k", "write -P 9 180k 8k"] as const;

const isOnMirror = (call: Call): boolean => call.path.endsWith("/m.qcow2");

async function recover(bench: Workbench, caller: "reader" | "recover") {
  const place = { ...NO_WAIT, startFolder: bench.root, workspace: undefined, createHere: false };
  return (await openSession(bench.storage, { ...place, caller })).recovered;
}

describe("a raw image that was written to after the mark", () => {
  qemu.test("is on the mirror when its device is, and recovery says so", async () => {
    const bench = await makeLeaving();
    writeGuest(bench.at("b.raw"), "raw", ...GUEST);
    const [note] = await recover(bench, "reader");
    expect(note).toMatchObject({ did: "finished" });
    expect(note?.text).toContain("m.qcow2 with 'vdb' anew before the move");
    expect((await bench.images())["vdb"]).toBe("m.qcow2");
    expect(compare(bench, "b.raw")).toBe(IDENTICAL);
    execFileSync("qemu-img", ["check", "-q", bench.at("m.qcow2")]);
    expect(await recover(bench, "reader")).toEqual([]);
    await bench.undo();
    expect((await bench.images())["vdb"]).toBe("b.raw");
  });

  qemu.test("is on a raw mirror, too", async () => {
    const bench = await makeLeaving("m.raw");
    writeGuest(bench.at("b.raw"), "raw", ...GUEST);
    expect(await recover(bench, "reader")).toMatchObject([{ did: "finished" }]);
    expect(compare(bench, "b.raw", "raw", "m.raw", "raw")).toBe(IDENTICAL);
  });

  qemu.test("is on the mirror wherever the sync was cut off before", async () => {
    for (const name of ["file.write", "file.flush"]) {
      for (let nth = 1; ; nth += 1) {
        const bench = await makeLeaving();
        writeGuest(bench.at("b.raw"), "raw", ...GUEST);
        let count = 0;
        const dead = bench.through(
          killAt(bench.storage, (call) => {
            if (call.name === name && isOnMirror(call)) count += 1;
            return count === nth && call.name === name && isOnMirror(call);
          }),
        );
        const isCut = await recover(dead, "recover").then(
          () => false,
          () => true,
        );
        if (isCut) expect((await bench.images())["vdb"]).toBe("m.qcow2");
        expect(compare(bench, "b.raw")).toBe(IDENTICAL);
        if (!isCut) {
          expect(nth).toBeGreaterThan(1);
          break;
        }
      }
    }
  });

  qemu.test("keeps its device where the mirror's disk is full, and a person can end that", async () => {
    const bench = await makeLeaving();
    writeGuest(bench.at("b.raw"), "raw", ...GUEST);
    const error = new ImgtxError("E_NO_SPACE", "no space left", { image: bench.at("m.qcow2") });
    const full = bench.through(
      failAt(bench.storage, (call) => call.name === "file.write" && isOnMirror(call), error),
    );
    const [note] = await recover(full, "reader");
    expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_NO_SPACE", devices: ["vdb"] } });
    expect((await full.images())["vdb"]).toBe("b.raw");
    const session = await full.session();
    await forceCommit(session, note?.transaction ?? "", RUN_ALONE);
    expect((await bench.images())["vdb"]).toBe("m.qcow2");
  });

  qemu.test("keeps its device where it has another size by now", async () => {
    const bench = await makeLeaving();
    truncateSync(bench.at("b.raw"), 2 ** 20);
    expect(await recover(bench, "reader")).toMatchObject([
      { did: "waiting", obstacle: { code: "E_REFUSED" } },
    ]);
    expect((await bench.images())["vdb"]).toBe("b.raw");
  });

  qemu.test(
    "is left to `recover`, and to who changes the device, where the comparison takes long",
    async () => {
      const bench = await makeLeaving();
      writeGuest(bench.at("b.raw"), "raw", ...GUEST);
      const large = bench.through({
        ...bench.storage,
        stat: async (path) => {
          const found = await bench.storage.stat(path);
          return (
            found && { ...found, allocatedBytes: path.endsWith("b.raw") ? 2 ** 40 : found.allocatedBytes }
          );
        },
      });
      const [note] = await recover(large, "reader");
      expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_UNFINISHED", devices: ["vdb"] } });
      expect(note?.text).toContain("`imgtx recover` does it");
      await large.snapshot({ vdb: "b1.qcow2" });
      expect((await bench.images())["vdb"]).toBe("b1.qcow2");
      expect(compare(bench, "b.raw")).toBe(IDENTICAL);
    },
  );
});

describe("a doubt whether it was written to after the mark", () => {
  qemu.test("is decided by content: what differs is synced, and said", async () => {
    const bench = await makeLeaving();
    writeGuest(bench.at("b.raw"), "raw", ...GUEST);
    utimesSync(bench.at("b.raw"), T0, T0);
    const [note] = await recover(bench, "reader");
    expect(note?.text).toContain("anew before the move");
    expect((await bench.images())["vdb"]).toBe("m.qcow2");
    expect(compare(bench, "b.raw")).toBe(IDENTICAL);
  });

  qemu.test("is over where the mirror holds the same", async () => {
    const bench = await makeLeaving();
    utimesSync(bench.at("b.raw"), T0, T0);
    const [note] = await recover(bench, "reader");
    expect(note).toMatchObject({ did: "finished" });
    expect(note?.text).not.toContain("anew");
    expect((await bench.images())["vdb"]).toBe("m.qcow2");
  });

  qemu.test("is said where no copy can decide it", async () => {
    const bench = await makeOldBench();
    execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", bench.at("other.qcow2"), "192k"]);
    await expect(dying(bench).reopen("vdb", "other.qcow2")).rejects.toThrow("killed");
    writeGuest(bench.at("b.raw"), "raw", ...GUEST);
    utimesSync(bench.at("b.raw"), T0, T0);
    const [note] = await recover(bench, "reader");
    expect(note).toMatchObject({ did: "finished" });
    expect(note?.text).toContain("after the commit can't be told from its times");
    expect((await bench.images())["vdb"]).toBe("other.qcow2");
  });

  qemu.test("is said of what stays below a snapshot", async () => {
    const bench = await makeOldBench();
    await expect(dying(bench).snapshot({ vdb: "b1.qcow2" })).rejects.toThrow("killed");
    utimesSync(bench.at("b.raw"), T0, T0);
    const [note] = await recover(bench, "reader");
    expect(note?.text).toContain("the snapshot of 'vdb' would hold that too");
  });
});

qemu.test("an image of version 2 is synced to its mirror as a raw one is", async () => {
  const bench = await makeWorkbench();
  execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", "-o", "compat=0.10", bench.at("old.qcow2"), "1M"]);
  await bench.add("vdd", "old.qcow2");
  await mirror(bench, { vdd: "m.qcow2" });
  await expect(dying(bench).reopen("vdd", "m.qcow2")).rejects.toThrow("killed");
  writeGuest(bench.at("old.qcow2"), "qcow2", "write -P 7 100k 300k");
  expect(await recover(bench, "reader")).toMatchObject([{ did: "finished" }]);
  expect((await bench.images())["vdd"]).toBe("m.qcow2");
  expect(compare(bench, "old.qcow2", "qcow2")).toBe(IDENTICAL);
});

describe("a device whose table has moved to its mirror, and whose view has not", () => {
  async function makeMoved(): Promise<Workbench> {
    const bench = await makeOldBench();
    await mirror(bench, { vdb: "m.qcow2" }, { format: "qcow2" });
    await expect(dyingBetween(bench).reopen("vdb", "m.qcow2")).rejects.toThrow("killed");
    return bench;
  }

  qemu.test("takes along what a guest wrote where the view leads, and is shown then", async () => {
    const bench = await makeMoved();
    writeGuest(bench.at("devices/vdb"), "raw", ...GUEST);
    const [note] = await recover(bench, "reader");
    expect(note).toMatchObject({ did: "finished" });
    expect(note?.text).toContain("m.qcow2 with 'vdb' anew before it was shown");
    expect(realpathSync(bench.at("devices/vdb"))).toBe(realpathSync(bench.at("m.qcow2")));
    expect(compare(bench, "b.raw")).toBe(IDENTICAL);
    expect(await recover(bench, "recover")).toEqual([]);
    await bench.undo();
    expect((await bench.images())["vdb"]).toBe("b.raw");
  });

  qemu.test("is not shown while a guest has the old image open", async () => {
    const bench = await makeMoved();
    const guest = await startGuest(bench.at("devices/vdb"), "raw");
    const waiting = await recover(bench, "reader");
    expect(waiting).toMatchObject([{ did: "waiting", obstacle: { code: "E_LOCKED", devices: ["vdb"] } }]);
    expect(realpathSync(bench.at("devices/vdb"))).toBe(realpathSync(bench.at("b.raw")));
    await guest.write("write -P 7 0 4k");
    await guest.stop();
    expect(await recover(bench, "reader")).toMatchObject([{ did: "finished" }]);
    expect(compare(bench, "b.raw")).toBe(IDENTICAL);
  });

  qemu.test("waits where both were written to, and says so, unless they are alike", async () => {
    for (const isAlike of [false, true]) {
      const bench = await makeMoved();
      writeGuest(bench.at("b.raw"), "raw", ...GUEST);
      writeGuest(bench.at("m.qcow2"), "qcow2", ...(isAlike ? GUEST : ["write -P 5 100k 4k"]));
      const content = stateOf(bench.at("m.qcow2"));
      const [note] = await recover(bench, "reader");
      if (isAlike) {
        expect(note).toMatchObject({ did: "finished" });
        continue;
      }
      expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_CHANGED", devices: ["vdb"] } });
      expect(note?.text).toMatch(/b\.raw: somebody wrote to it .* may hold writes as well \(\S+m\.qcow2: /);
      const lines = await forceCommit(await bench.session(), note?.transaction ?? "", RUN_ALONE);
      expect(JSON.stringify(lines)).toContain(bench.at("b.raw"));
      expect(stateOf(bench.at("m.qcow2"))).toEqual(content);
    }
  });

  qemu.test.each([
    ["before the table moves", dying],
    ["before the move is shown", dyingBetween],
  ])("is brought along under the fence of a frozen device, which stays: %s", async (_, dies) => {
    const bench = await makeOldBench();
    await mirror(bench, { vdb: "m.qcow2" }, { format: "qcow2" });
    await bench.run([freeze(["vdb"])]);
    await expect(dies(bench).reopen("vdb", "m.qcow2")).rejects.toThrow("killed");
    writeGuest(bench.at("b.raw"), "raw", ...GUEST);
    expect(await recover(bench, "reader")).toMatchObject([{ did: "finished" }]);
    expect((await bench.images())["vdb"]).toBe("m.qcow2");
    expect(await frozen(bench)).toEqual(["vdb"]);
    expect(isFenced(bench.at("m.qcow2"))).toBe(true);
    const { mtimeNs } = statSync(bench.at("m.qcow2"), { bigint: true });
    await bench.run([unfreeze(["vdb"])]);
    expect(compare(bench, "b.raw", "raw")).toBe(IDENTICAL);
    expect(statSync(bench.at("m.qcow2"), { bigint: true }).mtimeNs).toBe(mtimeNs);
  });

  qemu.test("waits for a person under a fence that somebody has lifted from the mirror", async () => {
    const bench = await makeOldBench();
    await mirror(bench, { vdb: "m.qcow2" }, { format: "qcow2" });
    await bench.run([freeze(["vdb"])]);
    const before = readFileSync(bench.at("m.qcow2")).subarray(0, 4096);
    await expect(dyingBetween(bench).reopen("vdb", "m.qcow2")).rejects.toThrow("killed");
    writeGuest(bench.at("b.raw"), "raw", ...GUEST);
    const file = openSync(bench.at("m.qcow2"), "r+");
    writeSync(file, before, 0, before.length, 0);
    closeSync(file);
    const [note] = await recover(bench, "reader");
    expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_CHANGED", devices: ["vdb"] } });
    const notices: string[] = [];
    const onNotice = (line: string): void => void notices.push(line);
    await forceCommit(await bench.session(), note?.transaction ?? "", { ...RUN_ALONE, onNotice });
    expect(notices).toContainEqual(
      expect.stringMatching(/b\.raw after the commit stays there, and is not on 'vdb'/),
    );
    expect((await bench.session()).recovered).toEqual([]);
    expect((await bench.images())["vdb"]).toBe("m.qcow2");
  });

  qemu.test("still waits when others have moved the table on", async () => {
    const bench = await makeMoved();
    writeGuest(bench.at("b.raw"), "raw", ...GUEST);
    writeGuest(bench.at("m.qcow2"), "qcow2", "write -P 5 100k 4k");
    await bench.snapshot({ vdc: "c1.qcow2" });
    expect(await recover(bench, "reader")).toMatchObject([
      { did: "waiting", obstacle: { code: "E_CHANGED", devices: ["vdb"] } },
    ]);
  });
});
