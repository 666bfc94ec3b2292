// A command looks at the workspace, and another process dies on the same transaction before the command has
// its journal. What the dead one left must neither be committed nor built upon.

import { describe, expect, test } from "vitest";
import {
  abortTransaction,
  commitTransaction,
  runActions,
  type Session,
} from "../../src/transaction/index.ts";
import { snapshotWorkspace } from "../helpers/tree.ts";
import { failureOf } from "../storage/conformance.ts";
import { Killed, killAt } from "./watched-storage.ts";
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
