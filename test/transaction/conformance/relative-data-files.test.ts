// Images with an external data file by a relative name, which QEMU looks for in the current folder: whoever goes on with a
// command looks for it where that command was, and not where it runs itself.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import {
  type ActionRequest,
  commitTransaction,
  openSession,
  runActions,
} from "../../../src/transaction/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { mergeRequest } from "../../helpers/transaction/merging.ts";
import { IDENTICAL, mirror, mirrorRequest } from "../../helpers/transaction/mirroring.ts";
import { pull, rebase } from "../../helpers/transaction/new-backings.ts";
import { NO_WAIT, RUN_ALONE, Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const NAMES = ["low", "top"];

/** Where commands run later: with other files of the same names, which would be taken for the image's own. */
const ELSEWHERE = "elsewhere";

function inFolder(folder: string, program: string, ...words: readonly string[]): string {
  return execFileSync(program, words, { cwd: folder, encoding: "utf8" });
}

/** low ← top, each with a data file beside it by its plain name; and a mirror that is such an image, and behind. */
async function makeDisk(): Promise<Workbench> {
  const bench = new Workbench(makeFolder());
  const { root } = bench;
  for (const [index, name] of NAMES.entries()) {
    const below = index === 0 ? [] : ["-b", `${NAMES[index - 1]}.qcow2`, "-F", "qcow2"];
    const words = ["-q", "-f", "qcow2", "-o", `data_file=${name}.data`, ...below, `${name}.qcow2`, "4M"];
    inFolder(root, "qemu-img", "create", ...words);
    inFolder(root, "qemu-io", "-c", `write -P ${index + 1} ${index * 300}k 500k`, `${name}.qcow2`);
  }
  inFolder(root, "qemu-img", "create", "-q", "-f", "raw", "bare.raw", "4M");
  inFolder(root, "qemu-img", "convert", "-O", "qcow2", "-o", "data_file=m.data", "top.qcow2", "m.qcow2");
  inFolder(root, "qemu-img", "convert", "-O", "raw", "top.qcow2", "before.raw");
  mkdirSync(bench.at(ELSEWHERE));
  for (const name of [...NAMES, "m"]) {
    writeFileSync(bench.at(`${ELSEWHERE}/${name}.data`), Buffer.alloc(4 * 2 ** 20, 9));
  }
  await bench.add("vda", "top.qcow2");
  return bench;
}

/** A command's session in a folder of the workspace, in a process that is there too. */
async function sessionIn(bench: Workbench, folder: string, storage: Storage = makeNodeStorage()) {
  const there = { ...storage.host, currentFolder: bench.at(folder) };
  const moved = new Proxy(storage, {
    get: (target, name): unknown => (name === "host" ? there : Reflect.get(target, name, target)),
  });
  return await openSession(moved, {
    ...NO_WAIT,
    startFolder: bench.at(folder),
    workspace: bench.root,
    createHere: false,
  });
}

/** In a process that dies after the mark, when it is about to write to the data file, or to move the table. */
async function dieBefore(bench: Workbench, request: ActionRequest, file: string): Promise<void> {
  let isMarked = false;
  const dying = killAt(makeNodeStorage(), ({ name, path, purpose }) => {
    isMarked ||= purpose === "commit mark";
    return isMarked && /^rename$|^file\.(write|copy|share|clone)/.test(name) && path.endsWith(file);
  });
  const session = await sessionIn(bench, ".", dying);
  await expect(runActions(session, [request], RUN_ALONE)).rejects.toThrow("killed");
}

function expectAsBefore(bench: Workbench, image: string): void {
  expect(inFolder(bench.root, "qemu-img", "compare", `${image}.qcow2`, "before.raw").trim()).toBe(IDENTICAL);
  inFolder(bench.root, "qemu-img", "check", "-q", `${image}.qcow2`);
  for (const name of [...NAMES, "m"]) {
    expect(readFileSync(bench.at(`${ELSEWHERE}/${name}.data`)).every((byte) => byte === 9)).toBe(true);
  }
}

const REQUESTS: Readonly<
  Record<string, { request: (bench: Workbench) => ActionRequest; into: string; image: string }>
> = {
  merge: { request: (bench) => mergeRequest(bench, ["vda"]), into: "low.data", image: "low" },
  pull: { request: () => pull(["vda"]), into: "top.data", image: "top" },
  rebase: {
    request: (bench) => rebase("vda", bench.at("bare.raw"), { format: "raw" }),
    into: "top.data",
    image: "top",
  },
};

describe("a data file by a relative name", () => {
  qemu.test.each(Object.keys(REQUESTS))("is found by whoever goes on with a %s elsewhere", async (kind) => {
    const { request, into, image } = REQUESTS[kind]!;
    const bench = await makeDisk();
    await dieBefore(bench, request(bench), into);
    expect((await sessionIn(bench, ELSEWHERE)).recovered).toMatchObject([{ did: "finished" }]);
    expectAsBefore(bench, image);
  });

  qemu.test("is found by whoever goes on with bringing a mirror in sync elsewhere", async () => {
    const bench = await makeDisk();
    await mirror(bench, { vda: "m.qcow2" }, { reuse: true });
    inFolder(bench.root, "qemu-io", "-c", "write -P 7 2M 100k", "top.qcow2");
    inFolder(bench.root, "qemu-img", "convert", "-O", "raw", "top.qcow2", "before.raw");
    await dieBefore(bench, mirrorRequest(bench, { vda: undefined }), "m.data");
    expect((await sessionIn(bench, ELSEWHERE)).recovered).toMatchObject([{ did: "finished" }]);
    expectAsBefore(bench, "m");
  });

  qemu.test(
    "is found by whoever syncs a mirror anew elsewhere, before its device goes over to it",
    async () => {
      const bench = await makeDisk();
      await mirror(bench, { vda: "m.qcow2" }, { reuse: true });
      const file = bench.at("m.qcow2");
      const reopen = { kind: "reopen", device: "vda", file, format: undefined, force: false } as const;
      await dieBefore(bench, reopen, ".imgtx/table.json");
      // No fence keeps anybody from the data file.
      for (const image of ["top.data", "before.raw"]) {
        inFolder(bench.root, "qemu-io", "-f", "raw", "-c", "write -P 7 400k 8k", image);
      }
      const [note] = (await sessionIn(bench, ELSEWHERE)).recovered;
      expect(note?.text).toContain("anew before the move");
      expectAsBefore(bench, "m");
    },
  );

  qemu.test("is found by a commit of the transaction from elsewhere", async () => {
    const bench = await makeDisk();
    await bench.begin();
    await bench.run(mergeRequest(bench, ["vda"]));
    await commitTransaction(await sessionIn(bench, ELSEWHERE), undefined, RUN_ALONE);
    expectAsBefore(bench, "low");
  });

  qemu.test("is found in a workspace that was moved meanwhile", async () => {
    const bench = await makeDisk();
    await dieBefore(bench, mergeRequest(bench, ["vda"]), "low.data");
    const moved = new Workbench(`${makeFolder()}/ws`);
    renameSync(bench.root, moved.root);
    expect((await sessionIn(moved, ELSEWHERE)).recovered).toMatchObject([{ did: "finished" }]);
    expectAsBefore(moved, "low");
  });
});
