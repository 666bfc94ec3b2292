// Active layers that are not put on another backing image: what would be lost, or nobody could answer for.

import { copyFileSync, mkdirSync, readdirSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import type { ActionRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { createOverlay, runWell, startQemuDaemon } from "../../helpers/qemu-programs.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { stateOf } from "../../helpers/transaction/mirroring.ts";
import { pull, rebase } from "../../helpers/transaction/new-backings.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";

const qemu = oracle("qemu-img", "qemu-storage-daemon");

describe("nothing is changed, and said why,", () => {
  async function refused(
    bench: Workbench,
    request: ActionRequest,
    expected: { code: string; message?: RegExp },
  ): Promise<void> {
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await bench.run(request));
    expect(failure).toMatchObject({ code: expected.code, changed: false });
    expect(failure.message).toMatch(expected.message ?? /./);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  }

  qemu.test(
    "where it would stand on itself, on what others write to, or on what they have open",
    async () => {
      const bench = await makeWorkbench();
      createOverlay(bench.at("over.qcow2"), { name: "a.qcow2", format: "qcow2" });
      await refused(bench, rebase("vda", bench.at("a.qcow2")), { code: "E_REFUSED", message: /on itself/ });
      await refused(bench, rebase("vda", bench.at("over.qcow2")), {
        code: "E_REFUSED",
        message: /in the chain of/,
      });
      await refused(bench, rebase("vda", bench.at("c.qcow2")), {
        code: "E_IN_USE",
        message: /active layer of 'vdc'/,
      });
      await bench.remove("vdc");
      const daemon = await startQemuDaemon(bench.at("c.qcow2"), makeFolder(), true);
      await refused(bench, rebase("vda", bench.at("c.qcow2")), { code: "E_LOCKED" });
      await daemon.stop();
      await refused(bench, pull(["vda"], bench.at("c.qcow2")), {
        code: "E_REFUSED",
        message: /does not stand on/,
      });
      await refused(bench, rebase("vdb", bench.at("c.qcow2")), { code: "E_UNSUPPORTED", message: /raw/ });
    },
  );

  qemu.test("where it is frozen", async () => {
    const bench = await makeWorkbench();
    await bench.run({ kind: "freeze", devices: ["vda"], strict: false });
    await refused(bench, pull(["vda"]), { code: "E_REFUSED", message: /frozen/ });
  });

  qemu.test("where internal snapshots would show something else: with qemu-img they do", async () => {
    const bench = await makeWorkbench();
    const top = bench.at("a.qcow2");
    runWell("qemu-img", "snapshot", "-c", "one", top);
    await refused(bench, pull(["vda"]), { code: "E_REFUSED", message: /internal snapshots.*"one"/ });
    const snapshot = () => {
      runWell("qemu-img", "convert", "-l", "snapshot.name=one", "-O", "raw", top, bench.at("content"));
      return stateOf(bench.at("content")).at(-1);
    };
    const before = snapshot();
    runWell("qemu-img", "rebase", "-b", "", top);
    expect(snapshot()).not.toBe(before);
  });

  qemu.test("where a header has no room for the name, or its data file has all by itself", async () => {
    const bench = await makeWorkbench();
    const folder = bench.at("long-".repeat(40));
    mkdirSync(folder);
    const far = `${folder}/${"long-".repeat(40)}name.qcow2`;
    copyFileSync(bench.at("c.qcow2"), far);
    const small = bench.at("small.qcow2");
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", small, "192k");
    await bench.add("small", small);
    await refused(bench, rebase("small", far), { code: "E_UNSUPPORTED", message: /name too long/ });
    const data = ["-o", `data_file=${bench.at("d.data")},data_file_raw=on`];
    runWell("qemu-img", "create", "-q", "-f", "qcow2", ...data, bench.at("d.qcow2"), "192k");
    await bench.add("data", "d.qcow2");
    await refused(bench, rebase("data", far), { code: "E_REFUSED", message: /data file holds all/ });
  });

  test("where there is no room, which is told before anything is written", async () => {
    const bench = await makeWorkbench();
    const storage: Storage = {
      ...makeNodeStorage(),
      reserveSpace: async (folder) =>
        await Promise.reject(new ImgtxError("E_NO_SPACE", "full", { image: folder })),
    };
    const before = stateOf(bench.at("a.qcow2"));
    const failure = await failureOf(async () => await bench.through(storage).run(pull(["vda"])));
    expect(failure).toMatchObject({ code: "E_NO_SPACE", changed: false });
    expect(stateOf(bench.at("a.qcow2"))).toEqual(before);
    expect(readdirSync(bench.root).filter((name) => name.startsWith(".imgtx-"))).toEqual([]);
  });
});
