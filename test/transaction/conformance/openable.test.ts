// What imgtx takes for a device, QEMU opens; and a chain never gets deeper than what can be opened.

import { readFileSync, truncateSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { CHAIN_DEPTH_MAX } from "../../../src/format/index.ts";
import { unpackFixture } from "../../helpers/fixtures.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { mirrorRequest } from "../../helpers/transaction/mirroring.ts";
import { makeWorkbench, Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

/** Too much extra data in the first entry of its snapshot table. */
function damageSnapshots(image: string): void {
  const bytes = readFileSync(image);
  bytes.writeUInt32BE(2000, Number(bytes.readBigUInt64BE(64)) + 36);
  writeFileSync(image, bytes);
}

async function makeBenchWithSnapshots(): Promise<Workbench> {
  const bench = await makeWorkbench();
  await unpackFixture("snapshots.qcow2", bench.root);
  return bench;
}

test("a file called raw that a guest may have given a header is taken for qcow2 only where somebody says so", async () => {
  const bench = await makeWorkbench();
  bench.makeQcow2("guest.raw", 7);
  const before = snapshotWorkspace(bench.root);
  const reopen = { kind: "reopen", device: "vda", file: bench.at("guest.raw"), force: true } as const;
  for (const attempt of [
    async () => await bench.add("vde", "guest.raw"),
    async () => await bench.run({ ...reopen, format: undefined }),
  ]) {
    const failure = await failureOf(attempt);
    expect(failure).toMatchObject({ code: "E_REFUSED", image: bench.at("guest.raw"), changed: false });
    expect(failure.hint).toContain("--format raw");
  }
  expect(snapshotWorkspace(bench.root)).toEqual(before);
  await bench.run({ ...reopen, format: "qcow2" });
  expect((await bench.devices())[0]).toMatchObject({ image: bench.at("guest.raw"), format: "qcow2" });
});

describe("an image that QEMU does not open for its internal snapshots", () => {
  const refusal = {
    code: "E_CORRUPT",
    exitCode: 15,
    changed: false,
    field: "extra_data_size",
  };

  test("is neither added as a device nor taken by reopen", async () => {
    const bench = await makeBenchWithSnapshots();
    damageSnapshots(bench.at("snapshots.qcow2"));
    const before = snapshotWorkspace(bench.root);
    for (const attempt of [
      async () => await bench.add("vde", "snapshots.qcow2", "qcow2"),
      async () =>
        await bench.run({
          kind: "reopen",
          device: "vda",
          file: bench.at("snapshots.qcow2"),
          format: "qcow2",
          force: true,
        }),
    ]) {
      const failure = await failureOf(attempt);
      expect(failure).toMatchObject({ ...refusal, image: bench.at("snapshots.qcow2") });
      expect(failure.hint).toContain(`qemu-img check -r all ${bench.at("snapshots.qcow2")}`);
    }
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("gets no overlay, be it the active layer or below", async () => {
    const bench = await makeBenchWithSnapshots();
    await bench.add("vde", "snapshots.qcow2", "qcow2");
    await bench.snapshot({ vde: "e1.qcow2" });
    damageSnapshots(bench.at("snapshots.qcow2"));
    const failure = await failureOf(async () => await bench.snapshot({ vde: "e2.qcow2" }));
    expect(failure).toMatchObject({ ...refusal, device: "vde", image: bench.at("snapshots.qcow2") });
  });
});

test("a device on an image whose end is missing is told so when it is added", async () => {
  const bench = await makeWorkbench();
  const image = await unpackFixture("v3.qcow2", bench.root);
  truncateSync(image, 0x60000);
  const outcome = await bench.add("vde", "v3.qcow2", "qcow2");
  const [report] = outcome.actions;
  expect(report!.notes.join()).toMatch(/is not whole: bytes 0x60000 onward are missing/);
});

describe("a chain", () => {
  /** A device on so many images. */
  async function makeDeep(images: number): Promise<Workbench> {
    const bench = new Workbench(makeFolder());
    bench.makeQcow2("i1.qcow2", 1);
    for (let index = 2; index <= images; index += 1) {
      bench.makeQcow2(`i${index}.qcow2`, index, { name: `i${index - 1}.qcow2`, format: "qcow2" });
    }
    await bench.add("vda", `i${images}.qcow2`);
    return bench;
  }

  test("gets as deep as can be opened, and no deeper; then it still lists, mirrors and reopens", async () => {
    const bench = await makeDeep(CHAIN_DEPTH_MAX - 1);
    await bench.snapshot({ vda: "last.qcow2" });
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await bench.snapshot({ vda: "one-too-many.qcow2" }));
    expect(failure).toMatchObject({ code: "E_REFUSED", exitCode: 14, device: "vda", changed: false });
    expect(failure.hint).toContain("imgtx pull vda");
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    for (const sync of ["top", "none"] as const) {
      const deep = await failureOf(
        async () => await bench.run(mirrorRequest(bench, { vda: "m.qcow2" }, { sync })),
      );
      expect(deep).toMatchObject({ code: "E_REFUSED", device: "vda", changed: false });
      expect(deep.hint).toContain("--sync full");
    }
    const [content] = Object.values(await bench.content());
    expect((await bench.devices())[0]!.chain).toHaveLength(CHAIN_DEPTH_MAX);
    await bench.run(mirrorRequest(bench, { vda: "flat.qcow2" }));
    await bench.reopen("vda", "flat.qcow2");
    expect((await bench.devices())[0]!.chain).toHaveLength(1);
    expect(Object.values(await bench.content())).toEqual([content]);
    await bench.snapshot({ vda: "again.qcow2" });
  });

  test("of more than 30 images is told to be deep, and one of 30 is not", async () => {
    const bench = await makeDeep(29);
    const quiet = await bench.snapshot({ vda: "n30.qcow2" });
    expect(quiet.actions[0]!.notes.join()).not.toContain("30 images");
    const told = await bench.snapshot({ vda: "n31.qcow2" });
    expect(told.actions[0]!.notes.join()).toContain("the chain has 31 images now");
  });
});
