// What would keep a step after the commit mark from being done, and can be known before it: a file that may not become as
// large, or may not be written to at all, and a disk that has too few inodes. Nothing is changed then.

import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import type { Storage } from "../../../src/storage/index.ts";
import type { ActionRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { runWell } from "../../helpers/qemu-programs.ts";
import { withFileLimit } from "../../helpers/storage/file-limit.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { compareWithBefore, makeChain, mergeRequest } from "../../helpers/transaction/merging.ts";
import { pull } from "../../helpers/transaction/new-backings.ts";
import { makeWorkbench, Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io", "prlimit");
const root = oracle("qemu-img", "qemu-io", "root", "mount", "umount");

const MERGE = { kind: "merge", from: undefined, into: undefined, keep: false } as const;
const GROW = { kind: "resize", sizeBytes: 64 * 1024, isRelative: true, shrink: false, force: false } as const;

/** Each with the image that grows by it. */
const ACTIONS: readonly [string, string, (bench: Workbench) => ActionRequest][] = [
  ["merge", "base.qcow2", (bench) => mergeRequest(bench, ["vda"])],
  ["pull", "a.qcow2", () => pull(["vda"])],
  [
    "bitmap",
    "a.qcow2",
    () => ({ kind: "bitmap-add", devices: ["vda"], bitmap: "b", isDisabled: false, sources: [] }),
  ],
  [
    "internal snapshot",
    "a.qcow2",
    () => ({ kind: "internal-snapshot-create", devices: ["vda"], snapshot: "s" }),
  ],
];

describe("a file that may become no larger", () => {
  qemu.test.each(ACTIONS)(
    "%s is refused before its mark, and works without that",
    async (_, image, action) => {
      const bench = await makeChain(["base.qcow2", "a.qcow2"]);
      const before = snapshotWorkspace(bench.root);
      const { size } = statSync(bench.at(image));
      const failure = await withFileLimit(
        size,
        async () => await failureOf(async () => await bench.run(action(bench))),
      );
      expect(failure).toMatchObject({
        code: "E_IO",
        changed: false,
        image: bench.at(image),
        hint: expect.stringContaining("ulimit -f"),
      });
      expect(snapshotWorkspace(bench.root)).toEqual(before);
      await bench.run(action(bench));
      expect(statSync(bench.at(image)).size).toBeGreaterThan(size);
      expect(await compareWithBefore(bench)).toBe("Images are identical.");
    },
  );

  qemu.test("one that is larger already is changed where it may be written to", async () => {
    const bench = await makeChain(["base.qcow2", "a.qcow2"]);
    truncateSync(bench.at("base.qcow2"), 64 * 2 ** 20);
    const request = pull(["vda"]);
    await withFileLimit(32 * 2 ** 20, async () => await bench.run(request));
    expect(await compareWithBefore(bench)).toBe("Images are identical.");
  });
});

describe("a disk that has few inodes", () => {
  root.test.each(ACTIONS.slice(0, 2))(
    "%s is done, or refused before its mark",
    async (_name, _image, action) => {
      const outcomes = new Set<string | undefined>();
      const folder = makeFolder();
      for (let free = 4; !outcomes.has("done"); free += 1) {
        execFileSync("mount", ["-t", "tmpfs", "-o", "size=64m", "imgtx-test", folder]);
        try {
          const bench = await makeChain(["base.qcow2", "a.qcow2"], {}, folder);
          const used = Number(
            execFileSync("df", ["--output=iused", folder], { encoding: "utf8" }).split("\n")[1],
          );
          execFileSync("mount", ["-o", `remount,nr_inodes=${used + free}`, folder]);
          const outcome = await bench.run(action(bench)).then(
            () => "done",
            (error: unknown) => (error as { code?: string }).code,
          );
          outcomes.add(outcome);
          expect(await bench.open()).toEqual([]);
          expect(await compareWithBefore(bench)).toBe("Images are identical.");
        } finally {
          execFileSync("umount", ["-l", folder]);
        }
      }
      expect([...outcomes]).toEqual(["E_NO_SPACE", "done"]);
    },
  );
});

describe("an image that may not be written to", () => {
  const CHANGES: readonly [string, readonly string[], ActionRequest][] = [
    ["raw, and is merged into", ["b1.qcow2"], { ...MERGE, devices: ["vdb"] }],
    ["raw, and is resized", [], { ...GROW, device: "vdb" }],
    ["version 2, and is resized", [], { ...GROW, device: "old" }],
  ];
  qemu.test.each(CHANGES)("%s is told before the mark", async (_, [overlay], request) => {
    const bench = await makeWorkbench();
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", bench.at("old.qcow2"), "192k");
    await bench.add("old", "old.qcow2");
    if (overlay !== undefined) await bench.snapshot({ vdb: overlay });
    const before = snapshotWorkspace(bench.root);
    const storage: Storage = {
      ...bench.storage,
      openFile: async (path, access, options) => {
        const isShut = access === "write" && /\/(?:b\.raw|old\.qcow2)$/.test(path);
        if (isShut) throw new ImgtxError("E_NO_PERMISSION", "Permission denied", { image: path });
        return await bench.storage.openFile(path, access, options);
      },
    };
    const failure = await failureOf(async () => await bench.through(storage).run(request));
    expect(failure).toMatchObject({ code: "E_NO_PERMISSION", changed: false });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    await bench.run(request);
  });
});

root.test("a rehearsal has no image copied out of the lower layer of an overlay file system", async () => {
  const folder = makeFolder();
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=64m", "imgtx-test", folder]);
  try {
    const [lower, upper, work, both] = ["lower", "upper", "work", "both"].map((name) => `${folder}/${name}`);
    for (const layer of [lower, upper, work, both]) mkdirSync(layer ?? "");
    writeFileSync(`${lower}/a.raw`, new Uint8Array(64 * 1024));
    const layers = `lowerdir=${lower},upperdir=${upper},workdir=${work}`;
    execFileSync("mount", ["-t", "overlay", "-o", layers, "imgtx-test", both ?? ""]);
    const bench = new Workbench(both ?? "");
    await bench.add("vda", "a.raw", "raw");
    await bench.begin();
    await bench.run({ ...GROW, device: "vda" });
    await bench.commit(undefined, { dryRun: true });
    const isCopied = existsSync(`${upper}/a.raw`);
    await bench.commit();
    expect([isCopied, statSync(`${upper}/a.raw`).size]).toEqual([false, 128 * 1024]);
  } finally {
    execFileSync("umount", ["-R", "-l", folder]);
  }
});

qemu.test("a folder where the log of a pull may not be made is told of before the mark", async () => {
  const bench = await makeChain(["base.qcow2", "a.qcow2"]);
  const before = snapshotWorkspace(bench.root);
  const storage: Storage = {
    ...bench.storage,
    reserveSpace: async (folder, lengthBytes, written) => {
      const isForNew = folder === bench.root && written === undefined;
      if (isForNew) throw new ImgtxError("E_NO_PERMISSION", "Permission denied", { image: folder });
      return await bench.storage.reserveSpace(folder, lengthBytes, written);
    },
  };
  const failure = await failureOf(async () => await bench.through(storage).run(pull(["vda"])));
  expect(failure).toMatchObject({ code: "E_NO_PERMISSION", changed: false });
  expect(snapshotWorkspace(bench.root)).toEqual(before);
});
