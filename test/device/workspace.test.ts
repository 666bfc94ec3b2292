// Finding and making a workspace, and moving its table, cut off at each step.

import { existsSync, mkdirSync, readdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  type DeviceTable,
  findOwner,
  findWorkspace,
  isWorkspaceMade,
  keepGeneration,
  listHistory,
  lockOwner,
  lockWorkspace,
  makeWorkspace,
  moveToGeneration,
  readGeneration,
  readTable,
  renewGeneration,
  replaceTable,
  stageGeneration,
  type Workspace,
  writeNextGeneration,
} from "../../src/device/index.ts";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { failureOf } from "../helpers/expect-error.ts";
import { type Call, Killed, watchStorage } from "../helpers/storage/watched-storage.ts";
import { NO_WAIT } from "../helpers/transaction/workbench.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";
import { snapshotWorkspace } from "../helpers/tree.ts";
import { device, table } from "../helpers/device/tables.ts";

const MADE = "2026-01-02T03:04:05.678Z";
const storage = makeNodeStorage();

async function makeHere(root = makeFolder()): Promise<Workspace> {
  const workspace = { storage, root };
  await makeWorkspace(workspace, MADE);
  return workspace;
}

/** Runs it again and again, killed one call later each time, until it comes to its end. */
async function cutOffAtEachStep(
  run: (storage: Workspace["storage"], root: string) => Promise<unknown>,
  check: (root: string, step: number) => Promise<void>,
  prepare: (root: string) => Promise<void> = () => Promise.resolve(),
): Promise<void> {
  for (let step = 0; ; step += 1) {
    const root = makeFolder();
    await prepare(root);
    let calls = 0;
    const dying = watchStorage(storage, (_, kill) => {
      calls += 1;
      if (calls > step) kill();
    });
    const isDead = await run(dying, root).then(
      () => false,
      (error: unknown) => {
        if (error instanceof Killed) return true;
        throw error;
      },
    );
    expect(dying.openFiles.size).toBe(0);
    await check(root, step);
    if (!isDead) return;
    expect(step).toBeLessThan(200);
  }
}

describe("a workspace is found", () => {
  test("from its folder, from below, and from within devices", async () => {
    const { root } = await makeHere();
    mkdirSync(`${root}/x/y`, { recursive: true });
    mkdirSync(`${root}/.imgtx/view/0`);
    symlinkSync(".imgtx/view/0", `${root}/devices`);
    for (const start of [root, `${root}/x/y`, `${root}/devices`, `${root}/.imgtx/history`]) {
      expect((await findWorkspace(storage, start, undefined)).root).toBe(root);
    }
  });

  test("by the real path of its folder, when it is named through a symbolic link", async () => {
    const { root } = await makeHere();
    const link = `${makeFolder()}/link`;
    symlinkSync(root, link);
    expect((await findWorkspace(storage, "/", link)).root).toBe(root);
    expect((await findWorkspace(storage, link, undefined)).root).toBe(root);
  });

  test("as the nearest one, and not in a folder where the making of one was cut off", async () => {
    const { root } = await makeHere();
    mkdirSync(`${root}/inner/half/.imgtx`, { recursive: true });
    await makeHere(`${root}/inner`);
    expect((await findWorkspace(storage, `${root}/inner/half`, undefined)).root).toBe(`${root}/inner`);
  });

  test("by its name only where it is named: the folders above are not searched", async () => {
    const { root } = await makeHere();
    mkdirSync(`${root}/x`);
    const failure = await failureOf(async () => await findWorkspace(storage, root, `${root}/x`));
    expect(failure).toMatchObject({ code: "E_NO_WORKSPACE", image: `${root}/x` });
    expect(failure.message).toContain("is not a workspace");
  });

  test("nowhere with an error that says how to make one", async () => {
    const failure = await failureOf(async () => await findWorkspace(storage, makeFolder(), undefined));
    expect(failure.code).toBe("E_NO_WORKSPACE");
    expect(failure.hint).toContain("imgtx init");
  });
});

describe("a workspace is made", () => {
  test("once", async () => {
    const root = makeFolder();
    expect(await makeWorkspace({ storage, root }, MADE)).toBe(true);
    expect(await makeWorkspace({ storage, root }, "2027-01-01T00:00:00.000Z")).toBe(false);
    expect(await readTable({ storage, root })).toMatchObject({ generation: 0, committed: MADE, devices: [] });
  });

  test("by one of several that try at the same time", async () => {
    const root = makeFolder();
    const made = await Promise.all(
      Array.from({ length: 5 }, async () => await makeWorkspace({ storage: makeNodeStorage(), root }, MADE)),
    );
    expect(made.filter(Boolean)).toHaveLength(1);
  });

  test("by going on from wherever an earlier try was cut off", async () => {
    await cutOffAtEachStep(
      async (dying, root) => await makeWorkspace({ storage: dying, root }, MADE),
      async (root, step) => {
        await makeWorkspace({ storage, root }, MADE);
        expect(await isWorkspaceMade({ storage, root }), `step ${step}`).toBe(true);
        expect(readdirSync(`${root}/.imgtx`), `step ${step}`).toEqual([
          "history",
          "journal",
          "lock",
          "table.json",
          "view",
        ]);
      },
    );
  });

  test("durably before anybody can find it", async () => {
    const calls: Call[] = [];
    const watched = watchStorage(storage, (call) => calls.push(call));
    const root = makeFolder();
    await makeWorkspace({ storage: watched, root }, MADE);
    const at = (name: string, path: string) =>
      calls.findIndex((call) => call.name === name && call.path === `${root}${path}`);
    expect(at("flushFolder", "")).toBeGreaterThan(at("makeFolder", "/.imgtx"));
    expect(at("flushFolder", "/.imgtx")).toBeGreaterThan(at("makeFolder", "/.imgtx/view"));
    expect(at("flushFolder", "/.imgtx")).toBeGreaterThan(at("createFile", "/.imgtx/lock"));
    const named = at("rename", "/.imgtx/table.json");
    expect(named).toBeGreaterThan(at("flushFolder", ""));
    expect(named).toBeGreaterThan(at("flushFolder", "/.imgtx"));
  });

  test("not where devices is somebody else's, and nothing is left there", async () => {
    const root = makeFolder();
    writeFileSync(`${root}/devices`, "the user's own");
    const failure = await failureOf(async () => await makeWorkspace({ storage, root }, MADE));
    expect(failure).toMatchObject({ code: "E_EXISTS", image: `${root}/devices` });
    expect(readdirSync(root)).toEqual(["devices"]);
  });
});

/** As a command does it. */
async function move(workspace: Workspace, closing: DeviceTable, next: DeviceTable): Promise<void> {
  const lock = await lockWorkspace(workspace, NO_WAIT);
  try {
    await writeNextGeneration(workspace, closing, next);
  } finally {
    await lock.close();
  }
}

describe("the table moves", () => {
  const closing = (root: string): DeviceTable => ({ ...table(device("vda", `${root}/a`)), generation: 7 });
  const next = (root: string): DeviceTable => ({ ...table(device("vda", `${root}/b`)), generation: 8 });

  test("to the next generation whole or not at all, and again when it was cut off", async () => {
    await cutOffAtEachStep(
      async (dying, root) => await move({ storage: dying, root }, closing(root), next(root)),
      async (root, step) => {
        const now = await readTable({ storage, root });
        const { sinceWhole: _sinceWhole, ...seen } = now;
        expect([closing(root), next(root)], `step ${step}`).toContainEqual(seen);
        const history = await readGeneration({ storage, root }, 7, now);
        if (now.generation === 8) expect(history).toMatchObject(closing(root));
        else await move({ storage, root }, closing(root), next(root));
        expect(await readTable({ storage, root })).toMatchObject(next(root));
        expect(await listHistory({ storage, root }, next(root))).toEqual([6, 7]);
        expect(existsSync(`${root}/.imgtx/table.json.new`) && step === 0).toBe(false);
      },
      async (root) => {
        const workspace = await makeHere(root);
        const earlier = { ...table(), generation: 6 };
        await move(workspace, earlier, closing(root));
      },
    );
  });

  test("and what lies beside the history, or is not closed yet, is no earlier generation", async () => {
    const workspace = await makeHere();
    for (const name of ["000001.json.new", "x.json", "12", "-1.json", "000003.json", "000004.json"]) {
      writeFileSync(`${workspace.root}/.imgtx/history/${name}`, "");
    }
    expect(await listHistory(workspace, { ...table(), generation: 4 })).toEqual([3]);
    expect(await readGeneration(workspace, 2, table())).toBeUndefined();
  });
});

describe("locks", () => {
  test("one at a time has the workspace, and nothing stays open for those who are refused", async () => {
    const workspace = await makeHere();
    const lock = await lockWorkspace(workspace, NO_WAIT);
    const watched = watchStorage(storage, () => undefined);
    const failure = await failureOf(
      async () => await lockWorkspace({ ...workspace, storage: watched }, NO_WAIT),
    );
    expect(failure.code).toBe("E_BUSY");
    expect(watched.openFiles.size).toBe(0);
    await lock.close();
    await (await lockWorkspace(workspace, NO_WAIT)).close();
  });

  test("the owner of a transaction is alive while its lock is held, whoever has the workspace", async () => {
    const workspace = await makeHere();
    const owner = await lockOwner(workspace, "abcdefghij");
    const lock = await lockWorkspace(workspace, NO_WAIT);
    expect(await findOwner(workspace, "abcdefghij", null)).toBe("alive");
    expect(await findOwner(workspace, "zzzzzzzzzz", null)).toBe("gone");
    await lock.close();
    const watched = watchStorage(storage, () => undefined);
    await failureOf(async () => await lockOwner({ ...workspace, storage: watched }, "abcdefghij"));
    expect(watched.openFiles.size).toBe(0);
    await owner.close();
    expect(await findOwner(workspace, "abcdefghij", null)).toBe("gone");
  });
});

test("a workspace that was removed under a command is not there any more", async () => {
  const workspace = await makeHere();
  rmSync(`${workspace.root}/.imgtx`, { recursive: true });
  expect(await isWorkspaceMade(workspace)).toBe(false);
  expect((await readTable(workspace)).generation).toBe(0);
});

test("a table that grows too large to be read again is refused before anything has its name", async () => {
  const workspace = await makeHere();
  const present = await readTable(workspace);
  const next = { ...table(device("vda", `${workspace.root}/a`)), generation: 1 };
  const lock = await lockWorkspace(workspace, NO_WAIT);
  const failure = await failureOf(async () => {
    await stageGeneration(workspace, present, next, 100);
  });
  expect(failure).toMatchObject({ code: "E_REFUSED", exitCode: 14, changed: false });
  expect(await readTable(workspace)).toEqual(present);
  await stageGeneration(workspace, present, next);
  await lock.close();
});

test("no table and no history is written without the workspace's lock", async () => {
  const workspace = await makeHere();
  const present = await readTable(workspace);
  const next = { ...table(device("vda", `${workspace.root}/a`)), generation: 1 };
  const before = snapshotWorkspace(workspace.root);
  await (await lockWorkspace(workspace, NO_WAIT)).close();
  for (const write of [
    async () => await stageGeneration(workspace, present, next),
    async () => await keepGeneration(workspace, present, next),
    async () => await moveToGeneration(workspace, next),
    async () => await replaceTable(workspace, next),
    async () => await renewGeneration(workspace, present),
  ]) {
    expect(await failureOf(write)).toMatchObject({ code: "E_INTERNAL", changed: false });
  }
  expect(snapshotWorkspace(workspace.root)).toEqual(before);
});
