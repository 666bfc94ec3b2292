// A disk that is full, read-only, or not ours to write to: the real ones, so for root only.

import { execFileSync } from "node:child_process";
import { chmodSync, chownSync, mkdirSync, statfsSync, writeFileSync } from "node:fs";
import { describe, expect, onTestFinished } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const root = oracle("root", "mount", "umount");

function mountTiny(options: string): string {
  const folder = makeFolder();
  execFileSync("mount", ["-t", "tmpfs", "-o", options, "imgtx-test", folder]);
  onTestFinished(() => {
    execFileSync("umount", ["-l", folder]);
  });
  return folder;
}

function fill(folder: string, leaveBytes: number): void {
  const { bavail, bsize } = statfsSync(folder);
  writeFileSync(`${folder}/filler`, new Uint8Array(Math.max(0, bavail * bsize - leaveBytes)));
}

const GROUP = { vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c1.qcow2" };

async function expectRolledBack(bench: Workbench, code: string, file = GROUP): Promise<void> {
  const before = snapshotWorkspace(bench.root);
  const failure = await failureOf(async () => await bench.snapshot(file));
  expect(failure).toMatchObject({ code, changed: false });
  expect((await bench.session()).recovered).toEqual([]);
  expect(snapshotWorkspace(bench.root)).toEqual(before);
}

describe("a full disk", () => {
  root.test.each(Array.from({ length: 16 }, (_, pages) => pages * 4096))(
    "with %i bytes left rolls a group back or takes it whole, and works when there is room again",
    async (left) => {
      const bench = await makeWorkbench(mountTiny("size=4m"));
      const before = snapshotWorkspace(bench.root);
      fill(bench.root, left);
      const outcome = await bench.snapshot(GROUP).then(
        () => "done",
        (error: unknown) => (error as { code?: string }).code,
      );
      // Never "committed, not finished": what needs space is written before the mark.
      expect(["done", "E_NO_SPACE"]).toContain(outcome);
      execFileSync("rm", [`${bench.root}/filler`]);
      await bench.session();
      const isAfter = (await bench.images())["vda"] === "a1.qcow2";
      expect(isAfter).toBe(outcome === "done");
      if (!isAfter) {
        expect(snapshotWorkspace(bench.root)).toEqual(before);
        await bench.snapshot(GROUP);
      }
    },
  );

  root.test("under the images alone rolls back, and an open transaction goes on", async () => {
    const images = mountTiny("size=1m");
    const bench = await makeWorkbench();
    mkdirSync(`${images}/sub`);
    fill(images, 0);
    const files = { vda: "a1.qcow2", vdb: `${images}/b1.qcow2` };
    await expectRolledBack(bench, "E_NO_SPACE", files as unknown as typeof GROUP);
    await bench.begin();
    await bench.snapshot({ vdc: "c1.qcow2" });
    await expectRolledBack(bench, "E_NO_SPACE", files as unknown as typeof GROUP);
    await bench.commit();
    expect(await bench.images()).toMatchObject({ vda: "a.qcow2", vdc: "c1.qcow2" });
  });
});

describe("a disk that can't be written to", () => {
  root.test("under the images is refused", async () => {
    const images = mountTiny("size=1m,ro");
    const bench = await makeWorkbench();
    const files = { vda: "a1.qcow2", vdb: `${images}/b1.qcow2` };
    await expectRolledBack(bench, "E_READ_ONLY", files as unknown as typeof GROUP);
  });

  root.test("under the workspace lets read what is there, and refuses the rest", async () => {
    const folder = mountTiny("size=8m");
    const bench = await makeWorkbench(folder);
    execFileSync("mount", ["-o", "remount,ro", folder]);
    expect(await bench.images()).toEqual({ vda: "a.qcow2", vdb: "b.raw", vdc: "c.qcow2" });
    const dry = await bench.snapshot(GROUP, {}, { dryRun: true });
    expect(dry).toMatchObject({ dryRun: true, changed: false });
    expect((await failureOf(async () => await bench.snapshot(GROUP))).code).toBe("E_READ_ONLY");
    expect((await failureOf(async () => await bench.begin())).code).toBe("E_READ_ONLY");
  });
});

describe("another user's", () => {
  root.test("folder, for one who is not root, is refused with the tree as it was", async () => {
    const bench = await makeWorkbench();
    mkdirSync(bench.at("closed"));
    for (const name of execFileSync("find", [bench.root], { encoding: "utf8" }).trim().split("\n")) {
      chownSync(name, 65_534, 65_534);
    }
    chownSync(bench.at("closed"), 0, 0);
    chmodSync(bench.at("closed"), 0o755);
    const before = snapshotWorkspace(bench.root);
    const { storage } = bench;
    const nobodys = bench.through({ ...storage, host: { ...storage.host, userId: 65_534 } });
    const failure = await asNobody(async () =>
      failureOf(async () => await nobodys.snapshot({ vda: "a1.qcow2", vdb: "closed/b1.qcow2" })),
    );
    expect(failure).toMatchObject({ code: "E_NO_PERMISSION", changed: false });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

async function asNobody<T>(call: () => Promise<T>): Promise<T> {
  const { seteuid } = process;
  if (!seteuid) throw new Error("this system has no users");
  seteuid(65_534);
  try {
    return await call();
  } finally {
    seteuid(0);
  }
}
