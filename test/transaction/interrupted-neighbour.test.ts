// A command looks at the workspace, and another process dies on the same transaction before the command has
// its journal. What the dead one left must neither be committed nor built upon.

import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../src/errors/index.ts";
import { makeNodeStorage, type Storage, type StorageFile } from "../../src/storage/index.ts";
import {
  abortTransaction,
  commitTransaction,
  runActions,
  type Session,
} from "../../src/transaction/index.ts";
import { snapshotWorkspace } from "../helpers/tree.ts";
import { failureOf } from "../storage/conformance.ts";
import { failAt, Killed, killAt } from "./watched-storage.ts";
import { makeWorkbench, RUN_ALONE, type Workbench } from "./workbench.ts";

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

test("a commit waits for one that its process could not finish, and has not let go of", async () => {
  const bench = await makeWorkbench();
  const failing = failAt(
    makeNodeStorage(),
    ({ name, path }) => name === "rename" && path.endsWith("/table.json"),
    new ImgtxError("E_IO", "the disk fails"),
  );
  const met: ImgtxError[] = [];
  const storage = meetUnlock(failing, 2, async () => {
    met.push(await failureOf(async () => await bench.snapshot({ vda: "a1.qcow2" })));
  });
  const failure = await failureOf(async () => await bench.through(storage).snapshot({ vdc: "c1.qcow2" }));
  expect(failure.code).toBe("E_UNFINISHED");
  expect(met).toMatchObject([{ code: "E_BUSY", changed: false }]);
  expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
  expect(await bench.images()).toMatchObject({ vda: "a.qcow2", vdc: "c1.qcow2" });
});
