// What recovery makes of a new journal that has its first name alone: a process died while it made it, or a power cut
// took its own name back.

import { cpSync, readdirSync, renameSync, rmSync } from "node:fs";
import { expect, test } from "vitest";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const GROUP = { vda: "a1.qcow2", vdb: "b1.qcow2" };

/** A command that was killed before this flush. Returns the path of its journal. */
async function dieBefore(
  bench: Workbench,
  purpose: string,
  command: (dying: Workbench) => Promise<unknown> = async (dying) => await dying.snapshot(GROUP),
): Promise<string> {
  const dying = bench.through(killAt(bench.storage, (call) => call.purpose === purpose));
  await expect(command(dying)).rejects.toThrow();
  const [name = ""] = journals(bench);
  return bench.at(`.imgtx/journal/${name}`);
}

function journals(bench: Workbench): string[] {
  return readdirSync(bench.at(".imgtx/journal"));
}

/** The same after a start of the host. */
function afterStart(bench: Workbench): Workbench {
  const { host } = bench.storage;
  return bench.through({
    ...bench.storage,
    host: { ...host, process: { ...host.process, boot: "another" } },
  });
}

async function recovered(bench: Workbench): Promise<string[]> {
  return (await bench.session()).recovered.map(({ did }) => did);
}

test("one that never had its name is cleared away without a word", async () => {
  const bench = await makeWorkbench();
  expect(await dieBefore(bench, "journal content")).toMatch(/\.new$/);
  expect(await recovered(bench)).toEqual([]);
  expect(journals(bench)).toEqual([]);
});

test("one whose first files are there had its name: the transaction is undone", async () => {
  const bench = await makeWorkbench();
  const before = snapshotWorkspace(bench.root);
  const path = await dieBefore(bench, "prepared");
  renameSync(path, path.replace(/journal$/, "new"));
  expect(await recovered(bench)).toEqual(["aborted"]);
  expect(snapshotWorkspace(bench.root)).toEqual(before);
});

test("after a start of the host a command's own may have had its name, and is undone", async () => {
  const bench = await makeWorkbench();
  const before = snapshotWorkspace(bench.root);
  await dieBefore(bench, "journal content");
  expect(await recovered(afterStart(bench))).toEqual(["aborted"]);
  expect(journals(bench)).toEqual([]);
  expect(snapshotWorkspace(bench.root)).toEqual(before);
});

test("after a start of the host a transaction that was being begun for others is nobody's", async () => {
  const bench = await makeWorkbench();
  await dieBefore(bench, "journal content", async (dying) => await dying.begin());
  expect(await recovered(afterStart(bench))).toEqual([]);
  expect(journals(bench)).toEqual([]);
});

test("one that is another file than it says is cleared away", async () => {
  const bench = await makeWorkbench();
  const path = await dieBefore(bench, "journal content");
  cpSync(path, `${path}.copy`);
  rmSync(path);
  renameSync(`${path}.copy`, path);
  expect(await recovered(afterStart(bench))).toEqual([]);
  expect(journals(bench)).toEqual([]);
});
