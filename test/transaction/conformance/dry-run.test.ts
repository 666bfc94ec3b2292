// A dry run of several actions: each sees the images as the ones before it would leave them, and nothing is changed.

import { readdirSync } from "node:fs";
import { expect, test } from "vitest";
import type { ActionRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { freeze, makeOldBench, unfreeze } from "../../helpers/transaction/freezing.ts";
import { mirrorRequest, stateOf } from "../../helpers/transaction/mirroring.ts";
import type { Workbench } from "../../helpers/transaction/workbench.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const cancel: ActionRequest = { kind: "mirror-cancel", devices: ["vda"] };

function larger(bytes: number): ActionRequest {
  return { kind: "resize", device: "vda", sizeBytes: bytes, isRelative: true, shrink: false, force: false };
}

const track = (bench: Workbench): ActionRequest => mirrorRequest(bench, { vda: "m.qcow2" }, { bitmap: true });

/** What a dry run says, which leaves the workspace and the folder for temporary files as they were. */
async function tryOut(bench: Workbench, requests: readonly ActionRequest[]) {
  const temporaryFolder = makeFolder();
  const { storage } = bench;
  const dry = bench.through({ ...storage, host: { ...storage.host, temporaryFolder } });
  const before = [snapshotWorkspace(bench.root), stateOf(bench.at("a.qcow2"))];
  try {
    return (await dry.run([...requests], { dryRun: true })).actions;
  } finally {
    expect([snapshotWorkspace(bench.root), stateOf(bench.at("a.qcow2"))]).toEqual(before);
    expect(readdirSync(temporaryFolder)).toEqual([]);
  }
}

test("a disk that grows twice grows from where the first has left it", async () => {
  const bench = await makeOldBench();
  const actions = await tryOut(bench, [larger(65_536), larger(131_072)]);
  const sizes = actions.map(({ notes }) =>
    [...notes.join().matchAll(/\((\d+) bytes\)/g)].map(([, n]) => Number(n)),
  );
  expect(sizes[1]?.[0]).toBe(sizes[0]?.[1]);
  expect((sizes[1]?.[1] ?? 0) - (sizes[0]?.[0] ?? 0)).toBe(196_608);
});

test("a device is frozen anew that is unfrozen first", async () => {
  const bench = await makeOldBench();
  await bench.run(freeze(["vda"]));
  const actions = await tryOut(bench, [unfreeze(["vda"]), freeze(["vda"]), unfreeze(["vda"])]);
  expect(actions.map(({ files }) => files.map(({ change }) => change))).toEqual([
    ["unfence"],
    ["fence"],
    ["unfence"],
  ]);
  expect(actions.flatMap(({ notes }) => notes)).toEqual([]);
});

test("what a later action would be refused for is found, and by which", async () => {
  const bench = await makeOldBench();
  const failure = await failureOf(
    async () => await tryOut(bench, [larger(65_536), track(bench), larger(-512)]),
  );
  expect(failure).toMatchObject({ code: "E_REFUSED", device: "vda" });
  expect(failure.message).toContain("--shrink");
});

test("in an open transaction its redo logs stay as they are", async () => {
  const bench = await makeOldBench();
  const id = await bench.begin();
  await bench.run(track(bench));
  await tryOut(bench, [cancel, larger(65_536), larger(65_536), freeze(["vda"])]);
  await bench.commit(id);
  expect((await bench.devices()).find(({ name }) => name === "vda")).toMatchObject({ frozen: false });
});
