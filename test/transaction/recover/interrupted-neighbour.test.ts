// A command looks at the workspace, and another process dies on the same transaction before the command has
// its journal. What the dead one left must neither be committed nor built upon.

import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { makeNodeStorage, type Storage, type StorageFile } from "../../../src/storage/index.ts";
import {
  abortTransaction,
  commitTransaction,
  listGenerations,
  runActions,
  type Session,
} from "../../../src/transaction/index.ts";
import type { CommitRecord } from "../../../src/transaction/journal/index.ts";
import { encodeRecord, FIRST_DIGEST, parseJournal } from "../../../src/transaction/journal/record-line.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { failAt, Killed, killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, RUN_ALONE, type Workbench } from "../../helpers/transaction/workbench.ts";

async function dieAmidSnapshot(bench: Workbench): Promise<void> {
  const secondImage = /\.imgtx-\w+-\d+-1$/;
  const dying = bench.through(
    killAt(bench.storage, ({ name, path }) => name === "file.write" && secondImage.test(path)),
  );
  await expect(dying.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" })).rejects.toThrow(Killed);
}

describe("a command that meets the transaction of a process that has just died amid an action", () => {
  test.each([
    ["commit", async (late: Session) => await commitTransaction(late, undefined, RUN_ALONE)],
    ["abort", async (late: Session) => await abortTransaction(late, undefined, RUN_ALONE)],
    [
      "another action",
      async (late: Session) => await runActions(late, [{ kind: "device-remove", device: "vdc" }], RUN_ALONE),
    ],
  ])("refuses to %s, and the command after it takes back what was left", async (_, command) => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    await bench.begin();
    const late = await bench.session();
    await dieAmidSnapshot(bench);
    const failure = await failureOf(async () => await command(late));
    expect(failure).toMatchObject({ code: "E_BUSY", changed: false });
    expect((await bench.session()).recovered).toMatchObject([{ did: "undone" }]);
    expect(await bench.commit()).toMatchObject({ changed: false, generation: 3 });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

/** Calls back once, when the command gives the workspace lock back for the nth time. */
function meetUnlock(storage: Storage, nth: number, meet: () => Promise<void>): Storage {
  let count = 0;
  const watchLock = (file: StorageFile): StorageFile =>
    new Proxy(file, {
      get(target, property) {
        const value: unknown = Reflect.get(target, property, target);
        if (property !== "close") return typeof value === "function" ? value.bind(target) : value;
        return async () => {
          await target.close();
          count += 1;
          if (count === nth) await meet();
        };
      },
    });
  return new Proxy(storage, {
    get(target, property) {
      const value: unknown = Reflect.get(target, property, target);
      if (property !== "openFile") return typeof value === "function" ? value.bind(target) : value;
      return async (path: string, access: "read" | "write") => {
        const file = await target.openFile(path, access);
        return path.endsWith("/.imgtx/lock") ? watchLock(file) : file;
      };
    },
  });
}

/** A commit of vdc whose process can't move the table; when it lets go of the workspace, vda is snapshotted. */
async function failAndMeet(bench: Workbench): Promise<void> {
  const failing = failAt(
    makeNodeStorage(),
    ({ name, path }) => name === "rename" && path.endsWith("/table.json"),
    new ImgtxError("E_IO", "the disk fails"),
  );
  const storage = meetUnlock(failing, 2, async () => {
    expect(await bench.snapshot({ vda: "a1.qcow2" })).toMatchObject({ generation: 4 });
    const failure = await failureOf(async () => await bench.snapshot({ vdc: "c2.qcow2" }));
    expect(failure).toMatchObject({ code: "E_BUSY", device: "vdc" });
  });
  const failure = await failureOf(async () => await bench.through(storage).snapshot({ vdc: "c1.qcow2" }));
  expect(failure.code).toBe("E_UNFINISHED");
}

describe("a commit that comes between another one's failed move and its end", () => {
  test("takes the next number, and the other one the number after", async () => {
    const bench = await makeWorkbench();
    await failAndMeet(bench);
    const { recovered } = await bench.session();
    expect(recovered).toMatchObject([
      { did: "finished", text: expect.stringContaining("generation 5") as string },
    ]);
    expect(await bench.images()).toEqual({ vda: "a1.qcow2", vdb: "b.raw", vdc: "c1.qcow2" });
    const { generations } = await listGenerations(await bench.session(), {});
    expect(generations.map(({ generation, summary }) => [generation, summary]).slice(0, 3)).toEqual([
      [5, "snapshot vdc"],
      [4, "snapshot vda"],
      [3, "device-add vdc"],
    ]);
    expect((await bench.session()).recovered).toEqual([]);
  });

  test("and after more of them nothing is done twice, or lost", async () => {
    const bench = await makeWorkbench();
    await failAndMeet(bench);
    await bench.snapshot({ vdb: "b1.qcow2" });
    await bench.snapshot({ vda: "a2.qcow2" });
    expect(await bench.images()).toEqual({ vda: "a2.qcow2", vdb: "b1.qcow2", vdc: "c1.qcow2" });
    expect(await bench.generation()).toBe(7);
  });
});

test("a mark of the version before, which holds the number that it makes, is finished once", async () => {
  const bench = await makeWorkbench();
  const dying = killAt(bench.storage, ({ name, path }) => name === "rename" && path.endsWith("/table.json"));
  await expect(bench.through(dying).snapshot({ vdc: "c1.qcow2" })).rejects.toThrow();
  const [name = ""] = readdirSync(bench.at(".imgtx/journal"));
  const path = bench.at(`.imgtx/journal/${name}`);
  writeFileSync(path, withEarlierMark(readFileSync(path)));
  expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
  expect(await bench.images()).toMatchObject({ vdc: "c1.qcow2" });
  expect(await bench.generation()).toBe(4);
});

/** The journal with its mark as earlier versions wrote it. */
function withEarlierMark(bytes: Uint8Array): Uint8Array {
  let digest = FIRST_DIGEST;
  const lines = parseJournal(bytes, "journal").records.map((record) => {
    const { madeOn, ...mark } = record as CommitRecord;
    const stored = record.type === "commit" ? { ...mark, generation: madeOn + 1 } : record;
    const encoded = encodeRecord(JSON.stringify(stored), digest);
    digest = encoded.digest;
    return encoded.line;
  });
  return Buffer.concat(lines);
}
