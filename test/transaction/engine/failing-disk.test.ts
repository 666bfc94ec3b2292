// The disk fails at each call of a command in turn, of calls that are alike at the first and the last. Its status must say what has happened, all or nothing;
// no file and no lock may stay behind; and the next command leaves the workspace settled.

import { isDeepStrictEqual } from "node:util";
import { expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { describeDevices, initWorkspace, listTransactions } from "../../../src/transaction/index.ts";
import { snapshotTree } from "../../helpers/tree.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const GROUP = { vda: "a1.qcow2", vdb: "b1.qcow2" };

interface Command {
  readonly prepare: (bench: Workbench) => Promise<unknown>;
  readonly run: (bench: Workbench) => Promise<unknown>;
  /** Whether a failure may have done it as well: what an abort has begun, the next command ends. */
  readonly failsForward?: boolean;
}

const COMMANDS: readonly (readonly [string, Command])[] = [
  ["a group snapshot", { prepare: async () => undefined, run: async (bench) => await bench.snapshot(GROUP) }],
  [
    "a statement of an open transaction",
    { prepare: async (bench) => await bench.begin(), run: async (bench) => await bench.snapshot(GROUP) },
  ],
  ["a begin", { prepare: async () => undefined, run: async (bench) => await bench.begin() }],
  [
    "a commit",
    {
      async prepare(bench) {
        await bench.begin();
        await bench.snapshot(GROUP);
      },
      run: async (bench) => await bench.commit(),
    },
  ],
  [
    "an abort",
    {
      async prepare(bench) {
        await bench.begin();
        await bench.snapshot(GROUP);
      },
      run: async (bench) => await bench.abort(),
      failsForward: true,
    },
  ],
];

/** All that a user can tell, as one value; and what the command that looked has recovered before. */
async function observe(bench: Workbench) {
  const session = await bench.session();
  const transactions = await listTransactions(session);
  const open = transactions.map(({ devices, actions }) => ({ devices, actions: actions.length }));
  // An old view may stay for a generation longer.
  const tree = snapshotTree(bench.root, [".imgtx/journal", ".imgtx/view"]);
  const { devices } = await describeDevices(session, undefined);
  const images = Object.fromEntries(devices.map(({ name, image }) => [name, image.replace(bench.root, "")]));
  return { tree, images, open, recovered: session.recovered };
}

/** Names alone: a second run makes other inodes. */
function shape({ tree, ...rest }: Awaited<ReturnType<typeof observe>>) {
  return { ...rest, names: tree.map((line) => line.slice(0, line.indexOf(" inode"))) };
}

/** They read no disk. */
const NEVER_FAIL = new Set([
  "file.unlock",
  "file.wouldConflict",
  "file.takeLease",
  "file.isLeaseWanted",
  "file.dropLease",
]);

/** The calls of a command that may fail, each told by what it does to which file. */
async function listCalls({ prepare, run }: Command): Promise<string[]> {
  const bench = await makeWorkbench();
  await prepare(bench);
  const calls: string[] = [];
  const storage = watchStorage(bench.storage, ({ name, path, purpose }) => {
    if (NEVER_FAIL.has(name)) return;
    const place = path.replace(bench.root, "").replaceAll(/[a-z0-9]{10}/g, "ID");
    calls.push(`${name} ${place} ${purpose ?? ""}`);
  });
  await run(bench.through(storage));
  return calls;
}

/** Of calls that are alike the first and the last, and the call after the end, which none is. */
function chooseCalls(calls: readonly string[]): number[] {
  const chosen = [...calls.keys()].filter((index) => {
    const call = calls[index] ?? "";
    return calls.indexOf(call) === index || calls.lastIndexOf(call) === index;
  });
  return [...chosen, calls.length].map((index) => index + 1);
}

async function prepareAnew({ prepare }: Command) {
  const bench = await makeWorkbench();
  await prepare(bench);
  return { bench, before: await observe(bench) };
}

test.each(COMMANDS)(
  "%s is done or undone whatever call fails, and its status says which",
  async (_, command) => {
    const example = await makeWorkbench();
    await command.prepare(example);
    await command.run(example);
    const after = shape(await observe(example));
    let prepared:
      | { readonly bench: Workbench; readonly before: Awaited<ReturnType<typeof observe>> }
      | undefined;
    for (const failing of chooseCalls(await listCalls(command))) {
      prepared ??= await prepareAnew(command);
      const { bench, before } = prepared;
      let calls = 0;
      const storage = watchStorage(bench.storage, ({ name }) => {
        if (NEVER_FAIL.has(name)) return;
        calls += 1;
        if (calls === failing) throw new ImgtxError("E_IO", "Input/output error");
      });
      const status = await command.run(bench.through(storage)).then(
        () => "done",
        (error: unknown) => (error instanceof ImgtxError ? error.code : String(error)),
      );
      expect(storage.openFiles.size, `call ${failing}`).toBe(0);
      await bench.session();
      // The second command after it has nothing left to mend.
      const now = await observe(bench);
      const where = `call ${failing}: ${status}`;
      expect(["done", "E_UNFINISHED", "E_IO"], where).toContain(status);
      if (status !== "E_IO") expect(shape(now), where).toEqual(after);
      else if (command.failsForward) expect([shape(before), after], where).toContainEqual(shape(now));
      else expect(now, where).toEqual(before);
      expect(now.recovered, where).toEqual([]);
      // What is as it was is good for the next call.
      if (!isDeepStrictEqual(now, before)) prepared = undefined;
    }
  },
);

test("init that fails after the table says that the workspace is there, and the next command shows it", async () => {
  const bench = await makeWorkbench();
  const folder = `${bench.root}/inner`;
  await bench.storage.makeFolder(folder, 0o755);
  const failing = watchStorage(bench.storage, ({ name, path }) => {
    if (name === "makeSymlink" && path.startsWith(folder)) throw new ImgtxError("E_IO", "Input/output error");
  });
  await expect(initWorkspace(failing, folder)).rejects.toMatchObject({ code: "E_UNFINISHED", changed: true });
  expect(await initWorkspace(bench.storage, folder)).toEqual({ root: folder, created: false });
  expect(await bench.storage.readSymlink(`${folder}/devices`)).toBe(".imgtx/view/0");
});

test("a refusal that can't be undone ends as the failure of the disk: something is still there", async () => {
  const bench = await makeWorkbench();
  const failing = watchStorage(bench.storage, ({ name, path }) => {
    if (name === "removeFile" && path.startsWith(`${bench.root}/`)) {
      throw new ImgtxError("E_IO", "Input/output error", { image: path });
    }
  });
  await bench.begin();
  await expect(bench.through(failing).run([{ kind: "refuse", device: "vda" }])).rejects.toMatchObject({
    code: "E_IO",
    message: expect.stringContaining("could not be undone") as string,
  });
});
