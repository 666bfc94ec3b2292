// The commit looks once more: what changed since the transaction read it or made it stops the commit, says
// what, and leaves the transaction open, to be aborted.

import {
  appendFileSync,
  copyFileSync,
  readFileSync,
  renameSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, test } from "vitest";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

/** Changes a byte of the header, and puts the time back. */
function patchHeader(file: string): void {
  const bytes = readFileSync(file);
  bytes[95] = (bytes[95] ?? 0) ^ 1;
  writeFileSync(file, bytes);
}

function replaceByCopy(file: string): void {
  copyFileSync(file, `${file}.copy`);
  rmSync(file);
  renameSync(`${file}.copy`, file);
}

const CHANGES: readonly [string, (file: string) => void, RegExp][] = [
  ["grew", (file) => appendFileSync(file, "x".repeat(512)), /size \d+ → \d+/],
  ["was touched", (file) => utimesSync(file, 1e9, 1e9), /modified /],
  ["was replaced by a copy", replaceByCopy, /replaced by another file/],
  ["is gone", (file) => rmSync(file), /has gone/],
];

async function expectRefusedCommit(bench: Workbench, image: string, words: RegExp): Promise<void> {
  const before = snapshotWorkspace(bench.root);
  // Twice for good, and as a dry run, which must not promise what the commit will not do.
  for (const dryRun of [true, false, false]) {
    const failure = await failureOf(async () => await bench.commit(undefined, { dryRun }));
    expect(failure).toMatchObject({
      code: "E_CHANGED",
      device: "vda",
      image: bench.at(image),
      changed: false,
    });
    expect(failure.message).toMatch(words);
    expect(failure.hint).toContain("txn abort");
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    expect(await bench.open()).toHaveLength(1);
  }
  await bench.abort();
  expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
}

describe.each([
  ["the base", "base.raw"],
  ["the active layer", "a.qcow2"],
  ["the new overlay", "a1.qcow2"],
])("a commit is refused when %s", (_, image) => {
  test.each(CHANGES)("%s", async (__, change, words) => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
    change(bench.at(image));
    await expectRefusedCommit(bench, image, words);
  });
});

describe("a commit is refused", () => {
  test("when a header changed, whatever the times say", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    patchHeader(bench.at("a1.qcow2"));
    await expectRefusedCommit(bench, "a1.qcow2", /header/);
  });

  test("when the image that a reopen chose changed", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("x.qcow2", 7);
    await bench.begin();
    await bench.reopen("vda", "x.qcow2");
    patchHeader(bench.at("x.qcow2"));
    await expectRefusedCommit(bench, "x.qcow2", /header/);
  });

  test("when an overlay changed between two statements on it", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    patchHeader(bench.at("a1.qcow2"));
    await bench.snapshot({ vda: "a2.qcow2" });
    await expectRefusedCommit(bench, "a1.qcow2", /header/);
  });

  test("and goes through when the change was undone", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" });
    renameSync(bench.at("base.raw"), bench.at("aside.raw"));
    expect((await failureOf(async () => await bench.commit())).code).toBe("E_CHANGED");
    renameSync(bench.at("aside.raw"), bench.at("base.raw"));
    expect(await bench.commit()).toMatchObject({ changed: true, generation: 4 });
  });
});

test("what a savepoint's rollback took back is not looked at any more", async () => {
  const bench = await makeWorkbench();
  await bench.begin();
  await bench.savepoint("here");
  await bench.snapshot({ vdb: "b1.qcow2" });
  await bench.rollbackTo("here");
  appendFileSync(bench.at("b.raw"), "guest data");
  await bench.snapshot({ vda: "a1.qcow2" });
  expect(await bench.commit()).toMatchObject({ changed: true });
});
