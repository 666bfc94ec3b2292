// A workspace that changes its folder, cut off at every call: one folder is the workspace at any time, and with all that it
// knew. Each flush is missed by some crash.

import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import {
  describeCopy,
  endMoveHere,
  isViewPresent,
  listHistory,
  lockWorkspace,
  makeWorkspace,
  moveWorkspace,
  readGeneration,
  readingSnapshots,
  readMovedAway,
  readTable,
  sealDevice,
  showView,
  underWorkspaceLock,
  withDevices,
  withSnapshot,
  type Workspace,
  writeNextGeneration,
} from "../../src/device/index.ts";
import { ImgtxError } from "../../src/errors/index.ts";
import type { Storage } from "../../src/storage/index.ts";
import { explore, type ExploreOptions } from "../crash/judges/explore.ts";
import { injectErrors } from "../crash/judges/injected-errors.ts";
import { tryMutant } from "../crash/judges/mutants.ts";
import { describeViolation } from "../crash/report.ts";
import { record } from "../crash/simulated/recording.ts";
import { Tree } from "../crash/simulated/disk-tree.ts";
import { startProcess } from "../crash/simulated/simulated-process.ts";
import { SimulatedMachine } from "../crash/simulated/simulated-disk.ts";
import { SLICE } from "../crash/slice.ts";
import { BadState, type Plan, type Subject } from "../crash/subject.ts";
import { makeHere } from "../helpers/device/histories.ts";
import { errorFrom } from "../helpers/expect-error.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";
import { device } from "../helpers/device/tables.ts";

const [OLD, NEW] = ["/a/old", "/b/new"];
const NOW = { waitMs: 0, onWait: () => undefined };

async function makePlan(): Promise<Plan> {
  const machine = new SimulatedMachine({ durable: new Tree() });
  const storage = startProcess(machine);
  for (const folder of ["/a", OLD, "/b", NEW]) await storage.makeFolder(folder, 0o755);
  const from = { storage, root: OLD };
  await makeWorkspace(from, "2026-11-28T00:00:00.000Z");
  const vda = device("vda", `${OLD}/a.qcow2`);
  for (const entry of [vda, device("vda", `${NEW}/b.qcow2`, ["a.qcow2", `${NEW}/a.qcow2`])]) {
    await underWorkspaceLock(from, NOW, async () => {
      const closing = await readTable(from);
      const { table } = withSnapshot(closing, {
        name: null,
        message: null,
        created: closing.committed,
        devices: [sealDevice(closing.devices[0] ?? vda)],
      });
      const changes = [{ device: "vda", after: entry }];
      const generation = closing.generation + 1;
      await writeNextGeneration(from, closing, withDevices({ ...table, generation }, changes));
    });
  }
  return { name: "move", disk: machine.tree, prepare: [], steps: [{ argv: ["move"] }] };
}

const SUBJECT: Subject = {
  recover: ["recover"],
  run: async (storage, [verb]) => {
    try {
      await (verb === "move" ? move(storage) : recover(storage));
      return { exit: 0, text: "" };
    } catch (error) {
      if (!(error instanceof ImgtxError)) throw error;
      const hasGone = (await readMovedAway({ storage, root: OLD })) !== undefined;
      return { exit: hasGone ? 16 : error.exitCode, text: error.message };
    }
  },
  observe: async (machine) => await observe(startProcess(machine), machine.tree),
  files: () => "",
  disksOf: (observed) => observed,
};

async function move(storage: Storage): Promise<void> {
  const [from, to] = [
    { storage, root: OLD },
    { storage, root: NEW },
  ];
  await underWorkspaceLock(from, NOW, async () => await moveWorkspace(from, to));
  await showView(to, await readTable(to));
}

async function recover(storage: Storage): Promise<void> {
  const to = { storage, root: NEW };
  if (!(await storage.stat(`${NEW}/.imgtx/table.json`))) return;
  await endMoveHere(to);
  if ((await describeCopy(to)) !== undefined) return;
  await underWorkspaceLock(to, NOW, async () => {
    const table = await readTable(to);
    if (!(await isViewPresent(to, table))) await showView(to, table);
  });
}

/** What the workspace knows, wherever it is. */
async function observe(storage: Storage, tree: Tree): Promise<string> {
  const here: string[] = [];
  for (const root of [OLD, NEW]) {
    const workspace = { storage, root };
    if ((await storage.stat(`${root}/.imgtx/table.json`)) && (await isIt(workspace))) {
      here.push(`${root} ${await tellAll(workspace)}`);
    }
  }
  if (here.length !== 1) throw new BadState(`${here.length} folders are the workspace`);
  const [one = ""] = here;
  if (!one.startsWith(NEW)) return one;
  const left = [...tree.entries()].map(({ path }) => path).filter((path) => path.startsWith(`${OLD}/`));
  return `${one} ${left.join(" ")} ${await storage.readSymlink(`${NEW}/devices`)}`;
}

async function isIt(workspace: Workspace): Promise<boolean> {
  try {
    return (await describeCopy(workspace)) === undefined;
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_NO_WORKSPACE") return false;
    throw error;
  }
}

async function tellAll(workspace: Workspace): Promise<string> {
  const table = await readTable(workspace);
  const history = [];
  for (const generation of await listHistory(workspace, table)) {
    history.push(await readGeneration(workspace, generation, table));
  }
  const reads = readingSnapshots(workspace, table);
  const snapshots = await Promise.all(table.snapshots.map(async (ref) => await reads.read(ref)));
  const { sinceWhole: _grows, ...told } = table;
  return JSON.stringify([told, history, snapshots]);
}

const OPTIONS: ExploreOptions = { ...SLICE, maxViolations: 1 };

test("cut off at every call, also in what ends it, one folder is the workspace, and knows all", async () => {
  const report = await explore(await record(await makePlan(), SUBJECT, new Set()), SUBJECT, OPTIONS);
  expect(report.violations.map(describeViolation)).toEqual([]);
  expect(report.figures.points).toBeGreaterThan(40);
});

test("a call that fails leaves it in the old folder, or to be ended in the new one", async () => {
  const recording = await record(await makePlan(), SUBJECT, new Set());
  const report = await injectErrors(recording, SUBJECT, OPTIONS);
  expect(report.violations.map(describeViolation)).toEqual([]);
});

test("who has waited for the lock of a workspace that moves is told where it is", async () => {
  const from = await makeHere();
  const to = { storage: from.storage, root: makeFolder() };
  const lock = await lockWorkspace(from, NOW);
  const refusal = errorFrom(lockWorkspace(from, { ...NOW, waitMs: 60_000 }));
  await moveWorkspace(from, to);
  await lock.close();
  expect(await refusal).toMatchObject({
    code: "E_NO_WORKSPACE",
    message: expect.stringMatching(/was moved/),
  });
});

test("a folder with parts of a workspace that has lost its table is left alone", async () => {
  const from = await makeHere();
  const to = { storage: from.storage, root: makeFolder() };
  mkdirSync(`${to.root}/.imgtx/snapshots`, { recursive: true });
  writeFileSync(`${to.root}/.imgtx/snapshots/000001-1.json`, "a record");
  await underWorkspaceLock(from, NOW, async () => {
    expect(await errorFrom(moveWorkspace(from, to))).toMatchObject({ code: "E_EXISTS" });
  });
  expect(readFileSync(`${to.root}/.imgtx/snapshots/000001-1.json`, "utf8")).toBe("a record");
});

test.each([
  "table of a workspace that is to come",
  "name of that table",
  "file of a workspace that is to come",
  "files of a workspace that is to come",
  "folders of a workspace that is to come",
  "folder of a workspace that is to come",
  "place of a moved workspace",
  "name of a moved workspace's place",
  "what a moved workspace leaves",
  "view of a moved workspace",
])("the flush for '%s' is needed", async (purpose) => {
  const mutant = await tryMutant(purpose, [{ plan: await makePlan(), subject: SUBJECT }], OPTIONS);
  expect(mutant).toMatchObject({ purpose, verdict: "killed" });
});
