import { expect, test } from "vitest";
import { readJournals } from "../../../src/transaction/journal/index.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

/** How often the journal folder, and the journal of that id, was read: in each hold of the lock, and without it. */
async function countReads(
  bench: Workbench,
  id: string,
  run: (bench: Workbench) => Promise<unknown>,
): Promise<{ held: string[]; free: string }> {
  const held = new Map<object, Record<"folder" | "journal", number>>();
  const free = { folder: 0, journal: 0 };
  const watched = watchStorage(bench.storage, ({ name, path }) => {
    const lock = [...watched.openFiles].find((file) => file.path === bench.at(".imgtx/lock"));
    const counts = (lock && held.get(lock)) ?? free;
    if (lock && name === "file.lock" && path === lock.path) held.set(lock, { folder: 0, journal: 0 });
    if (name === "readFolder" && path === bench.at(".imgtx/journal")) counts.folder += 1;
    if (name === "openFile" && path === bench.at(`.imgtx/journal/${id}.journal`)) counts.journal += 1;
  });
  await run(bench.through(watched));
  const say = ({ folder, journal }: typeof free): string => `folder ${folder}, journal ${journal}`;
  return { held: [...held.values()].map(say), free: say(free) };
}

test("a snapshot reads the journals once for each time that it holds the workspace", async () => {
  const bench = await makeWorkbench();
  const id = await bench.begin("other");
  await bench.snapshot({ vdb: "b1.qcow2" }, {}, { transaction: id });
  const counted = await countReads(
    bench,
    id,
    async (through) => await through.snapshot({ vda: "a1.qcow2" }, {}, { transaction: "none" }),
  );
  // Held: when the plan enters, and from the last checks to the move. Free: by recovery, by the choice of the
  // transaction, and for the table that the plan is made on.
  expect(counted).toEqual({
    held: ["folder 1, journal 1", "folder 1, journal 1"],
    free: "folder 3, journal 3",
  });
});

test("a command that reads devices reads the journals once for recovery and once for itself", async () => {
  const bench = await makeWorkbench();
  const id = await bench.begin("other");
  await bench.snapshot({ vdb: "b1.qcow2" }, {}, { transaction: id });
  const counted = await countReads(bench, id, async (through) => await through.devices());
  expect(counted).toEqual({ held: [], free: "folder 2, journal 2" });
});

test("a journal that was added to is understood anew, and one that was not stays what it was", async () => {
  const bench = await makeWorkbench();
  const id = await bench.begin("other");
  const workspace = { storage: bench.storage, root: bench.root };
  const look = async () => (await readJournals(workspace)).find((journal) => journal.id === id)?.state;
  const before = await look();
  expect(await look()).toBe(before);
  await bench.snapshot({ vdb: "b1.qcow2" }, {}, { transaction: id });
  expect(before).toMatchObject({ statements: [] });
  expect(await look()).toMatchObject({ statements: [{ done: true }] });
});
