// A workspace that is reached in two ways which share no locks (two mountings, two machines, a lock file that somebody
// has removed): what may still be at work is undone by nobody, and finished by nobody.

import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { describe, expect, onTestFinished, test } from "vitest";
import type { ProcessMark } from "../../../src/storage/index.ts";
import {
  adoptWorkspace,
  beginTransaction,
  forceAbort,
  forceCommit,
  giveUp,
  openSession,
} from "../../../src/transaction/index.ts";
import { makeWorkspace, unmakeWorkspace } from "../../../src/device/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { type Call, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, NO_WAIT, RUN_ALONE, Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const ANOTHER_MACHINE: ProcessMark = {
  pid: 4711,
  started: "1",
  processes: "pid:[4026531836]",
  boot: "another boot",
  machine: "another machine",
};

/** The same workspace for a process whose locks nobody sees when it is cut off: it lives on by its mark. */
function asProcess(bench: Workbench, mark: ProcessMark): Workbench {
  return bench.through({ ...bench.storage, host: { ...bench.storage.host, process: mark } });
}

/** Seen through a mounting that shares no locks with any other. */
function unshared(bench: Workbench): Workbench {
  const describeFileSystem = async (path: string) => ({
    ...(await bench.storage.describeFileSystem(path)),
    sharesLocks: false,
  });
  return bench.through({ ...bench.storage, describeFileSystem });
}

/** A mounting of its own: nobody else's lock of the workspace is seen in it. */
function mountedAlone(bench: Workbench): Workbench {
  const { storage } = unshared(bench);
  return bench.through({
    ...storage,
    openFile: async (path, access, options) => {
      const file = await storage.openFile(path, access, options);
      if (path !== bench.at(".imgtx/lock")) return file;
      return new Proxy(file, {
        get(target, property) {
          if (property === "lock") return () => true;
          const value: unknown = Reflect.get(target, property, target);
          return typeof value === "function" ? (value.bind(target) as unknown) : value;
        },
      });
    },
  });
}

/** Waits take no time. */
function impatient(bench: Workbench): Workbench {
  let now = 0;
  const sleep = async (milliseconds: number) => await Promise.resolve(void (now += milliseconds));
  const host = { ...bench.storage.host, sleep, monotonicMs: () => now };
  return bench.through({ ...bench.storage, host });
}

const claimsOf = (bench: Workbench): string[] =>
  existsSync(bench.at(".imgtx/claims")) ? readdirSync(bench.at(".imgtx/claims")) : [];

/** The claim that a command is refused for, by the hint that takes it away. */
async function refusedFor(command: () => Promise<unknown>): Promise<string> {
  const refused = await failureOf(command);
  expect(refused).toMatchObject({ code: "E_BUSY", changed: false });
  expect(refused.message).toContain("pid 4711 of another machine");
  return /`imgtx recover --give-up (claim-[a-z0-9]+)`/.exec(refused.hint ?? "")?.[1] ?? "no hint";
}

async function giveUpClaim(bench: Workbench, claim: string, dryRun = false) {
  const place = { ...NO_WAIT, startFolder: bench.root, workspace: undefined, createHere: false };
  const session = await openSession(bench.storage, { ...place, caller: "recover", reportOnly: true });
  return await giveUp(session, claim, { ...RUN_ALONE, dryRun });
}

async function startOther(bench: Workbench): Promise<{ child: ChildProcess; mark: ProcessMark }> {
  const child = spawn(process.execPath, ["-e", "console.log(1); setInterval(() => 0, 1000)"], {
    stdio: ["ignore", "pipe", "ignore"],
  });
  onTestFinished(() => {
    child.kill("SIGKILL");
  });
  await once(child.stdout, "data");
  const fields = readFileSync(`/proc/${child.pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  const mark = { ...bench.storage.host.process, pid: child.pid ?? 0, started: fields[19] ?? null };
  return { child, mark };
}

async function end(child: ChildProcess): Promise<void> {
  const ended = once(child, "exit");
  child.kill("SIGKILL");
  await ended;
}

const hasName = (call: Call): boolean => call.name === "file.flush" && call.purpose === "prepared";
const moves = (bench: Workbench) => (call: Call) =>
  call.name === "rename" && call.path === bench.at(".imgtx/table.json");

/** Amid a snapshot of vdc, or past its commit mark. */
async function cutOff(bench: Workbench, when: (call: Call) => boolean): Promise<void> {
  const dying = bench.through(
    watchStorage(bench.storage, (call, kill) => {
      if (when(call)) kill();
    }),
  );
  await expect(dying.snapshot({ vdc: "c1.qcow2" })).rejects.toThrow("killed");
}

async function read(bench: Workbench) {
  const place = { ...NO_WAIT, startFolder: bench.root, workspace: undefined, createHere: false };
  return (await openSession(bench.storage, { ...place, caller: "reader" })).recovered;
}

describe("a process that the kernel shows", () => {
  test("keeps what it is amid, whoever has its lock, until it has gone", async () => {
    const bench = await makeWorkbench();
    const { child, mark } = await startOther(bench);
    await cutOff(asProcess(bench, mark), hasName);
    expect(await read(bench)).toEqual([]);
    expect((await bench.session()).recovered).toEqual([]);
    expect(existsSync(bench.at("c1.qcow2"))).toBe(false);
    const failure = await failureOf(async () => await bench.snapshot({ vdc: "c2.qcow2" }));
    expect(failure).toMatchObject({ code: "E_BUSY", device: "vdc" });
    expect(failure.message).toContain(`pid ${child.pid}`);
    await bench.snapshot({ vdb: "b1.qcow2" });
    await end(child);
    expect((await bench.session()).recovered).toMatchObject([{ did: "aborted" }]);
  });

  test("finishes its commit by itself", async () => {
    const bench = await makeWorkbench();
    const { child, mark } = await startOther(bench);
    const other = asProcess(bench, mark);
    await cutOff(other, moves(other));
    const session = await bench.session();
    expect(session.recovered).toEqual([]);
    expect((await bench.images())["vdc"]).toBe("c.qcow2");
    const [open] = await bench.open();
    const forced = await failureOf(async () => await forceCommit(session, open?.id ?? "", RUN_ALONE));
    expect(forced.code).toBe("E_BUSY");
    await end(child);
    expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
  });

  test("and runs a `txn exec` keeps its transaction when somebody removes the lock file", async () => {
    const bench = await makeWorkbench();
    const { child, mark } = await startOther(bench);
    const owner = asProcess(bench, mark);
    const choice = { name: undefined, onError: "keep", owned: true } as const;
    const begun = await beginTransaction(await owner.session(), choice, NO_WAIT);
    await bench.snapshot({ vdc: "c1.qcow2" }, {}, { transaction: begun.description.id });
    rmSync(bench.at(".imgtx/lock"));
    await begun.release();
    await bench.snapshot({ vdb: "b1.qcow2" }, {}, { standalone: true });
    expect((await bench.session()).recovered).toEqual([]);
    expect(existsSync(bench.at("c1.qcow2"))).toBe(true);
    await end(child);
    expect((await bench.session()).recovered).toMatchObject([{ did: "aborted" }]);
    expect(existsSync(bench.at("c1.qcow2"))).toBe(false);
  });

  test("works on the original, and not on its copy", async () => {
    const bench = await makeWorkbench();
    const { mark } = await startOther(bench);
    await cutOff(asProcess(bench, mark), hasName);
    const root = makeFolder();
    cpSync(bench.root, `${root}/copy`, { recursive: true });
    const how = { ...NO_WAIT, moved: false, dryRun: true };
    expect((await adoptWorkspace(bench.storage, `${root}/copy`, how)).forgotten).toHaveLength(1);
  });
});

describe("a process that can't be seen", () => {
  test("of another machine is left with the way out said, where locks are not shared", async () => {
    const bench = unshared(await makeWorkbench());
    await cutOff(asProcess(bench, ANOTHER_MACHINE), hasName);
    const [note] = await read(bench);
    expect(note).toMatchObject({ did: "waiting", obstacle: { code: "E_BUSY", devices: ["vdc"] } });
    expect(note?.text).toContain("pid 4711 of another machine");
    const session = await bench.session();
    const id = session.recovered[0]?.transaction ?? "";
    expect(session.recovered[0]?.obstacle?.hint).toContain(`imgtx txn abort --force ${id}`);
    expect((await failureOf(async () => await bench.snapshot({ vdc: "c2.qcow2" }))).code).toBe(
      "E_TRANSACTION",
    );
    await forceAbort(session, id, RUN_ALONE);
    expect((await bench.session()).recovered).toEqual([]);
    await bench.snapshot({ vdc: "c2.qcow2" });
  });

  test("is asked for as well where the other side's mounting shares none, and this one does", async () => {
    const bench = await makeWorkbench();
    await cutOff(asProcess(unshared(bench), ANOTHER_MACHINE), hasName);
    expect((await bench.session()).recovered).toMatchObject([{ did: "waiting" }]);
  });

  test("past its commit mark is finished by a person's word alone, or given up", async () => {
    const bench = unshared(await makeWorkbench());
    const other = asProcess(bench, ANOTHER_MACHINE);
    await cutOff(other, moves(other));
    const claim = await refusedFor(async () => await impatient(bench).snapshot({ vdb: "b1.qcow2" }));
    expect(existsSync(bench.at("b1.qcow2"))).toBe(false);
    expect(await giveUpClaim(bench, claim, true)).toMatchObject({ changed: false });
    expect(claimsOf(bench)).toEqual([claim]);
    expect(await giveUpClaim(bench, claim)).toMatchObject({ changed: true, record: null, generation: 3 });
    expect(claimsOf(bench)).toEqual([]);
    const again = await failureOf(async () => await giveUpClaim(bench, claim));
    expect(again.code).toBe("E_NO_TRANSACTION");
    const session = await impatient(bench).session();
    const id = session.recovered[0]?.transaction ?? "";
    expect(session.recovered[0]?.obstacle?.hint).toContain(`imgtx txn commit --force ${id}`);
    expect((await bench.images())["vdc"]).toBe("c.qcow2");
    expect((await giveUp(session, id, { ...RUN_ALONE, dryRun: true })).devices).toEqual(["vdc"]);
    await forceCommit(session, id, RUN_ALONE);
    expect((await bench.images())["vdc"]).toBe("c1.qcow2");
    expect(claimsOf(bench)).toEqual([]);
  });

  test("has gone where a free lock proves it: a disk that was moved here", async () => {
    const bench = await makeWorkbench();
    await cutOff(asProcess(bench, ANOTHER_MACHINE), hasName);
    expect((await bench.session()).recovered).toMatchObject([{ did: "aborted" }]);
  });

  test("and runs a `txn exec` keeps its transaction", async () => {
    const bench = unshared(await makeWorkbench());
    const choice = { name: undefined, onError: "keep", owned: true } as const;
    const session = await asProcess(bench, ANOTHER_MACHINE).session();
    const begun = await beginTransaction(session, choice, NO_WAIT);
    await bench.snapshot({ vdc: "c1.qcow2" }, {}, { transaction: begun.description.id });
    await begun.release();
    const seen = await bench.session();
    expect(seen.recovered).toMatchObject([{ did: "waiting", transaction: begun.description.id }]);
    expect(existsSync(bench.at("c1.qcow2"))).toBe(true);
    await forceAbort(seen, begun.description.id, RUN_ALONE);
    expect(existsSync(bench.at("c1.qcow2"))).toBe(false);
  });
});

describe("a claim on the workspace", () => {
  test("is not made where everybody sees its locks", async () => {
    const bench = await makeWorkbench();
    await bench.snapshot({ vda: "a1.qcow2" });
    expect(existsSync(bench.at(".imgtx/claims"))).toBe(false);
  });

  test("keeps out whoever works on the disk itself, from the first other mounting on", async () => {
    const bench = await makeWorkbench();
    const { child, mark } = await startOther(bench);
    const other = asProcess(unshared(bench), mark);
    await cutOff(other, moves(other));
    const [claim = ""] = claimsOf(bench);
    const refused = await failureOf(async () => await impatient(bench).snapshot({ vda: "a1.qcow2" }));
    expect(refused).toMatchObject({
      code: "E_BUSY",
      changed: false,
      hint: expect.stringContaining("--wait"),
    });
    expect((await failureOf(async () => await giveUpClaim(bench, claim))).code).toBe("E_BUSY");
    expect(await read(bench)).toEqual([]);
    await end(child);
    expect((await impatient(bench).session()).recovered).toMatchObject([{ did: "finished" }]);
    expect(claimsOf(bench)).toEqual([]);
  });

  test("that a copy has from its original is given up there, and the copy adopted", async () => {
    const bench = unshared(await makeWorkbench());
    const other = asProcess(bench, ANOTHER_MACHINE);
    await cutOff(other, moves(other));
    const root = makeFolder();
    cpSync(bench.root, `${root}/copy`, { recursive: true, verbatimSymlinks: true });
    const copy = new Workbench(`${root}/copy`, bench.storage);
    const adopt = async () =>
      await adoptWorkspace(impatient(copy).storage, copy.root, { ...NO_WAIT, moved: false, dryRun: false });
    const claim = await refusedFor(adopt);
    await giveUpClaim(copy, claim);
    expect(claimsOf(copy)).toEqual([]);
    expect((await adopt()).forgotten).toHaveLength(1);
    expect(claimsOf(bench)).toEqual([claim]);
  });

  test("has its folder, or says what is in the way", async () => {
    const bench = unshared(await makeWorkbench());
    writeFileSync(bench.at(".imgtx/claims"), "");
    const failure = await failureOf(async () => await bench.snapshot({ vda: "a1.qcow2" }));
    expect(failure).toMatchObject({ code: "E_EXISTS", image: bench.at(".imgtx/claims"), changed: false });
  });

  test("goes with a workspace beside an image", async () => {
    const bench = await makeWorkbench();
    const { mark } = await startOther(bench);
    const { storage } = asProcess(unshared(bench), mark);
    const workspace = { storage, root: bench.at("beside") };
    mkdirSync(workspace.root);
    await makeWorkspace(workspace, "2026-01-01T00:00:00.000Z");
    expect(existsSync(`${workspace.root}/.imgtx/claims`)).toBe(true);
    await unmakeWorkspace(workspace);
    expect(existsSync(workspace.root)).toBe(false);
  });
});

describe("two commands on different devices at once, through mountings that share no locks", () => {
  const MOMENTS = [".imgtx/table.json.new", ".imgtx/history/000003.json.new", ".imgtx/table.json"];
  test.each(MOMENTS)("are never both told that all is well where one was lost (%s)", async (moment) => {
    const bench = await makeWorkbench();
    const { mark } = await startOther(bench);
    const second = impatient(mountedAlone(bench));
    const { storage } = asProcess(mountedAlone(bench), mark);
    let meanwhile: unknown;
    const at = async (path: string): Promise<void> => {
      if (meanwhile !== undefined || path !== bench.at(moment)) return;
      meanwhile = "under way";
      meanwhile = await failureOf(async () => await second.snapshot({ vdb: "b1.qcow2" }));
    };
    const first = bench.through({
      ...storage,
      createFile: async (path, mode) => {
        await at(path);
        return await storage.createFile(path, mode);
      },
      rename: async (source, target) => {
        await at(target);
        await storage.rename(source, target);
      },
    });
    await first.snapshot({ vda: "a1.qcow2" });
    expect(meanwhile).toMatchObject({ code: "E_BUSY", changed: false });
    expect(existsSync(bench.at("b1.qcow2"))).toBe(false);
    await second.snapshot({ vdb: "b1.qcow2" });
    expect(await bench.images()).toMatchObject({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    expect(await bench.generation()).toBe(5);
    expect(claimsOf(bench)).toEqual([]);
  });
});
