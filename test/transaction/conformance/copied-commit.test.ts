// A workspace's folder is copied, images and all, between a commit mark and its recovery, and the original is gone: adopting
// the copy finishes there what was committed, and never by a file that is the original's as well.

import { execFileSync } from "node:child_process";
import { linkSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { adoptWorkspace, type ActionRequest } from "../../../src/transaction/index.ts";
import { type Call, killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, NO_WAIT, Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const ADOPT = { ...NO_WAIT, moved: false, dryRun: false };

function resize(device: string): ActionRequest {
  return { kind: "resize", device, sizeBytes: 2 ** 20, isRelative: false, shrink: false, force: false };
}

/** Snapshots come first: the merge needs a layer, and the rollback something to go back to. */
const WORK = {
  "a resize": async (bench: Workbench) => await bench.run(resize("vda")),
  "a resize of a raw disk": async (bench: Workbench) => await bench.run(resize("vdb")),
  "a reopen": async (bench: Workbench) => await bench.reopen("vda", "other.qcow2"),
  "a resize, a snapshot of that, and a reopen": async (bench: Workbench) =>
    await bench.run([
      resize("vda"),
      bench.snapshotRequest({ vda: "a1.qcow2" }, { relative: true }),
      { kind: "reopen", device: "vda", file: bench.at("other.qcow2"), format: "qcow2", force: true },
    ]),
  "a merge": async (bench: Workbench) =>
    await bench.run({
      kind: "merge",
      devices: ["vdc"],
      from: undefined,
      into: bench.at("c.qcow2"),
      keep: false,
    }),
  "a rollback": async (bench: Workbench) => await bench.rollback(),
} as const;

async function make(root: string): Promise<Workbench> {
  mkdirSync(root);
  const bench = await makeWorkbench(root);
  bench.makeQcow2("other.qcow2", 9);
  await bench.snapshot({ vdc: bench.at("c1.qcow2") }, { relative: true });
  return bench;
}

const CHANGES =
  /^(file\.(write|flush|truncate|setModified)|rename|removeFile|createFile|makeFolder|makeSymlink|flushFolder)$/;

/** Places after the mark at which the process may die: each call that changes something. */
function isAfterMark(): (call: Call) => boolean {
  let isMarked = false;
  return (call) => {
    if (isMarked) return CHANGES.test(call.name);
    isMarked = call.purpose === "commit mark";
    return false;
  };
}

interface Cut {
  readonly copy: Workbench;
  readonly original: string;
}

/** The copy of what a process left that died at the nth such call. Undefined: there are fewer. */
async function cutOff(work: (bench: Workbench) => Promise<unknown>, nth: number): Promise<Cut | undefined> {
  const folder = makeFolder();
  const bench = await make(`${folder}/ws`);
  const isPlace = isAfterMark();
  let count = 0;
  const dying = bench.through(killAt(makeNodeStorage(), (call) => isPlace(call) && (count += 1) === nth));
  const isDone = await work(dying).then(
    () => true,
    () => false,
  );
  if (isDone) return undefined;
  execFileSync("cp", ["-a", bench.root, `${folder}/copy`]);
  return { copy: new Workbench(`${folder}/copy`), original: bench.root };
}

describe.each(Object.entries(WORK))("%s that was cut off after its mark", (_, work) => {
  test("is finished in the copy, wherever it was cut off, or there was nothing left of it to do", async () => {
    const wanted = await make(`${makeFolder()}/ws`);
    await work(wanted);
    const content = await wanted.content();
    let finished = 0;
    for (let nth = 1; ; nth += 3) {
      const cut = await cutOff(work, nth);
      if (!cut) break;
      rmSync(cut.original, { recursive: true });
      const { kept, forgotten } = await adoptWorkspace(cut.copy.storage, cut.copy.root, ADOPT);
      const { recovered } = await cut.copy.session();
      expect(await cut.copy.content(), `at ${nth}: ${JSON.stringify({ forgotten, recovered })}`).toEqual(
        content,
      );
      expect(recovered.filter(({ did }) => did === "waiting")).toEqual([]);
      expect(await cut.copy.open()).toEqual([]);
      expect(readdirSync(cut.copy.root).filter((name) => name.startsWith(".imgtx-"))).toEqual([]);
      finished += kept.length;
    }
    expect(finished).toBeGreaterThan(0);
  });
});

describe("a committed transaction of a copy is forgotten, and changes nothing,", () => {
  async function cutOffResize(): Promise<Cut> {
    const cut = await cutOff(WORK["a resize"], 1);
    if (!cut) throw new Error("a resize has something to do after its mark");
    return cut;
  }

  test.each([
    [
      "where an image is the original's as well",
      ({ copy, original }: Cut) => {
        rmSync(copy.at("a.qcow2"));
        linkSync(`${original}/a.qcow2`, copy.at("a.qcow2"));
      },
    ],
    [
      "where somebody has written to its image",
      ({ copy }: Cut) => {
        const bytes = readFileSync(copy.at("a.qcow2"));
        bytes[72] = 0;
        writeFileSync(copy.at("a.qcow2"), bytes);
      },
    ],
    ["where its redo log is gone", ({ copy }: Cut) => rmSync(logOf(copy))],
    ["where its redo log is damaged", ({ copy }: Cut) => writeFileSync(logOf(copy), "")],
    [
      "where an image leads to the original's",
      ({ copy, original }: Cut) => {
        const bytes = readFileSync(copy.at("a.qcow2"));
        const at = Number(bytes.readBigUInt64BE(8));
        const name = Buffer.from(`${original}/base.raw`);
        name.copy(bytes, at);
        bytes.writeUInt32BE(name.length, 16);
        writeFileSync(copy.at("a.qcow2"), bytes);
      },
    ],
  ])("%s", async (_, spoil) => {
    const cut = await cutOffResize();
    const { copy, original } = cut;
    spoil(cut);
    const images = (root: string) =>
      Object.fromEntries(
        readdirSync(root)
          .filter((name) => /qcow2|raw|redo/.test(name))
          .map((name) => [name, readFileSync(`${root}/${name}`).toString("base64")]),
      );
    const before = [images(copy.root), images(original)];
    const { kept, forgotten } = await adoptWorkspace(copy.storage, copy.root, ADOPT);
    expect({ kept, forgotten }).toMatchObject({ kept: [], forgotten: [{ committed: true }] });
    expect((await copy.session()).recovered).toEqual([]);
    expect([images(copy.root), images(original)]).toEqual(before);
  });

  const logOf = ({ root }: Workbench): string =>
    `${root}/${readdirSync(root).find((name) => name.endsWith(".redo"))}`;
});

test("the original goes on with it by itself, and neither touches the other's files", async () => {
  const cut = await cutOff(WORK["a resize"], 1);
  if (!cut) throw new Error("it was cut off");
  const { copy, original } = cut;
  await adoptWorkspace(copy.storage, copy.root, ADOPT);
  expect((await copy.session()).recovered).toMatchObject([{ did: "finished" }]);
  const finished = readFileSync(copy.at("a.qcow2"));
  expect(readFileSync(`${original}/a.qcow2`).equals(finished)).toBe(false);
  expect((await new Workbench(original).session()).recovered).toMatchObject([{ did: "finished" }]);
  expect(readFileSync(`${original}/a.qcow2`).equals(finished)).toBe(true);
  expect(readFileSync(copy.at("a.qcow2")).equals(finished)).toBe(true);
});

test("an adoption that was cut off anywhere is gone on with, and finishes it all the same", async () => {
  for (let stop = 1; ; stop += 1) {
    const cut = await cutOff(WORK["a resize"], 1);
    if (!cut) throw new Error("it was cut off");
    rmSync(cut.original, { recursive: true });
    let seen = 0;
    const dying = killAt(cut.copy.storage, (call) => CHANGES.test(call.name) && (seen += 1) === stop);
    const isDone = await adoptWorkspace(dying, cut.copy.root, ADOPT).then(
      () => true,
      () => false,
    );
    if (isDone) break;
    // It may lie elsewhere by then.
    renameSync(cut.copy.root, cut.original);
    const there = new Workbench(cut.original);
    await adoptWorkspace(there.storage, there.root, ADOPT);
    const { recovered } = await there.session();
    expect(recovered, `at ${stop}: ${JSON.stringify(recovered)}`).toMatchObject([{ did: "finished" }]);
  }
});
