// What is refused, with which code, and that the refusal touches nothing: the whole tree is compared.

import { mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { ErrorCode } from "../../../src/errors/index.ts";
import type { ActionRequest } from "../../../src/transaction/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { startQemuDaemon } from "../../helpers/qemu-programs.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

interface Refusal {
  readonly code: ErrorCode;
  readonly device?: string | undefined;
  readonly image?: string;
  /** In the message. */
  readonly says?: RegExp;
}

/** The action fails so, alone and in an open transaction, and the tree stays as it was. */
async function expectRefusal(
  bench: Workbench,
  request: ActionRequest,
  { code, device, image, says }: Refusal,
): Promise<void> {
  const before = snapshotWorkspace(bench.root);
  const tries = [{}, { transaction: await bench.begin("around") }, { dryRun: true }];
  for (const options of tries) {
    const failure = await failureOf(async () => await bench.run(request, options));
    expect(failure).toMatchObject({ code, changed: false });
    if (device !== undefined) expect(failure.device).toBe(device);
    if (image !== undefined) expect(failure.image).toBe(bench.at(image));
    if (says) expect(failure.message).toMatch(says);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  }
  await bench.abort("around");
  expect(snapshotWorkspace(bench.root)).toEqual(before);
}

describe("a target is refused", () => {
  test.each<[string, (bench: Workbench) => void]>([
    ["that is a file", (bench) => void bench.makeFile("a1.qcow2", "the user's own")],
    ["that is an empty file", (bench) => void bench.makeFile("a1.qcow2", "")],
    ["that is a folder", (bench) => mkdirSync(bench.at("a1.qcow2"))],
    ["that is a symbolic link to nowhere", (bench) => symlinkSync("nowhere", bench.at("a1.qcow2"))],
    ["that is a symbolic link to a device's image", (bench) => symlinkSync("b.raw", bench.at("a1.qcow2"))],
    ["that is another device's overlay already", (bench) => void bench.makeQcow2("a1.qcow2", 8)],
  ])("%s", async (_, prepare) => {
    const bench = await makeWorkbench();
    prepare(bench);
    const request = bench.snapshotRequest({ vdb: "b1.qcow2", vda: "a1.qcow2" });
    await expectRefusal(bench, request, { code: "E_EXISTS", device: "vda", image: "a1.qcow2" });
  });

  test("in a folder that keeps no names, and nothing waits for it", async () => {
    const bench = await makeWorkbench();
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await bench.snapshot({ vda: "/proc/a1.qcow2" }));
    expect([failure.code, failure.message]).toEqual(["E_NOT_FOUND", expect.not.stringContaining("undone")]);
    expect((await bench.session()).recovered).toEqual([]);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test.each([
    ["the active layer itself", "a.qcow2"],
    ["an image of its own chain", "base.raw"],
    ["the image of another device", "c.qcow2"],
  ])("that is %s, with --reuse as well", async (_, file) => {
    const bench = await makeWorkbench();
    await expectRefusal(bench, bench.snapshotRequest({ vda: file }), { code: "E_EXISTS", image: file });
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await bench.snapshot({ vda: file }, { reuse: true }));
    expect(["E_REFUSED", "E_UNSUPPORTED", "E_FORMAT_UNKNOWN", "E_IN_USE", "E_CORRUPT"]).toContain(
      failure.code,
    );
    expect(failure.exitCode).toBeGreaterThan(10);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test.each([
    ["the same path", "x1.qcow2"],
    ["another spelling of the path", "./sub/../x1.qcow2"],
    ["a path through a symbolic link to the folder", "link/x1.qcow2"],
  ])("that two devices of a group share by %s", async (_, spelling) => {
    const bench = await makeWorkbench();
    mkdirSync(bench.at("sub"));
    symlinkSync(".", bench.at("link"));
    const request = bench.snapshotRequest({ vda: "x1.qcow2" });
    const twin = { device: "vdb", file: `${bench.root}/${spelling}`, format: "qcow2" };
    const group = { ...request, kind: "snapshot-group", targets: [...request.targets, twin] } as const;
    await expectRefusal(bench, group, {
      code: "E_DUPLICATE",
      device: "vdb",
      image: "x1.qcow2",
      says: /'vda'/,
    });
  });

  test.each<[string, string, ErrorCode]>([
    ["in a folder that is not there", "missing/a1.qcow2", "E_NOT_FOUND"],
    ["in a file", "b.raw/a1.qcow2", "E_NOT_A_FILE"],
    ["with no name", "sub/..", "E_NOT_A_FILE"],
    ["with a name that is too long", `${"x".repeat(300)}.qcow2`, "E_NOT_FOUND"],
  ])("%s", async (_, file, code) => {
    const bench = await makeWorkbench();
    mkdirSync(bench.at("sub"));
    const before = snapshotWorkspace(bench.root);
    const target = { device: "vda", file: `${bench.root}/${file}`, format: "qcow2" };
    const request = { ...bench.snapshotRequest({}), targets: [target] };
    const failure = await failureOf(async () => await bench.run(request));
    expect(failure.code).toBe(code);
    if (file.startsWith("missing/"))
      expect(failure.message).toBe(`there is no folder '${bench.at("missing")}'`);
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test.each([
    ["the view of the devices", "devices"],
    ["the workspace's own folder", ".imgtx"],
  ])("in %s", async (_, folder) => {
    const bench = await makeWorkbench();
    const request = bench.snapshotRequest({ vdb: "b1.qcow2", vda: `${folder}/a1.qcow2` });
    await expectRefusal(bench, request, { code: "E_REFUSED", device: "vda", says: /imgtx keeps/ });
  });

  test("that would have another format than qcow2", async () => {
    const bench = await makeWorkbench();
    const [target] = bench.snapshotRequest({ vda: "a1.raw" }).targets;
    const request = { ...bench.snapshotRequest({}), targets: [{ ...target!, format: "raw" }] };
    await expectRefusal(bench, request, { code: "E_UNSUPPORTED", device: "vda", says: /format 'raw'/ });
  });
});

describe("a device is refused", () => {
  test("that stands twice in a group", async () => {
    const bench = await makeWorkbench();
    const [first, second] = ["a1.qcow2", "a2.qcow2"].map(
      (file) => bench.snapshotRequest({ vda: file }).targets[0]!,
    );
    const request = { ...bench.snapshotRequest({}), targets: [first!, second!] };
    await expectRefusal(bench, request, { code: "E_DUPLICATE", device: "vda" });
  });

  test("that is not in the table", async () => {
    const bench = await makeWorkbench();
    const request = bench.snapshotRequest({ vda: "a1.qcow2", sda: "s1.qcow2" });
    await expectRefusal(bench, request, { code: "E_NO_DEVICE", device: "sda" });
  });

  test("that is in another open transaction, until that one ends", async () => {
    const bench = await makeWorkbench();
    const one = await bench.begin("one");
    const two = await bench.begin("two");
    await bench.snapshot({ vda: "a1.qcow2" }, {}, { transaction: one });
    const before = snapshotWorkspace(bench.root);
    const group = { vda: "a2.qcow2", vdb: "b1.qcow2" };
    const failure = await failureOf(async () => await bench.snapshot(group, {}, { transaction: two }));
    expect(failure).toMatchObject({ code: "E_TRANSACTION", device: "vda", exitCode: 11 });
    expect(failure.message).toContain("one");
    expect(snapshotWorkspace(bench.root)).toEqual(before);
    const alone = await failureOf(async () => await bench.remove("vda"));
    expect(alone.code).toBe("E_TRANSACTION");
    await bench.abort(one);
    await bench.snapshot(group, {}, { transaction: two });
    await bench.commit(two);
    expect((await bench.images())["vda"]).toBe("a2.qcow2");
  });

  test("whose chain has lost an image, naming it and the overlay that wants it", async () => {
    const bench = await makeWorkbench();
    rmSync(bench.at("base.raw"));
    const request = bench.snapshotRequest({ vdb: "b1.qcow2", vda: "a1.qcow2" });
    await expectRefusal(bench, request, { code: "E_NOT_FOUND", device: "vda", says: /base\.raw/ });
  });

  test("whose active layer a guest has marked corrupt", async () => {
    const bench = await makeWorkbench();
    const bytes = readFileSync(bench.at("c.qcow2"));
    bytes[79] = (bytes[79] ?? 0) | 2;
    writeFileSync(bench.at("c.qcow2"), bytes);
    await expectRefusal(bench, bench.snapshotRequest({ vdc: "c1.qcow2" }), {
      code: "E_CORRUPT",
      device: "vdc",
    });
  });
});

const QCOW_MAGIC = Uint8Array.of(0x51, 0x46, 0x49, 0xfb, 0, 0, 0, 3);

describe("an image is refused", () => {
  test.each<[string, (bench: Workbench) => void, ErrorCode]>([
    ["that is not there", () => undefined, "E_NOT_FOUND"],
    ["that is a folder", (bench) => mkdirSync(bench.at("x")), "E_NOT_A_FILE"],
    ["that is empty, for no format can be told", (bench) => void bench.makeFile("x", ""), "E_FORMAT_UNKNOWN"],
    ["that would have to be guessed as raw", (bench) => void bench.makeRaw("x", 5), "E_FORMAT_UNKNOWN"],
    ["that ends in its header", (bench) => void bench.makeFile("x", QCOW_MAGIC), "E_CORRUPT"],
    ["whose backing image lies elsewhere and is raw", makeGreedyOverlay, "E_OUTSIDE"],
  ])("%s", async (_, prepare, code) => {
    const bench = await makeWorkbench();
    prepare(bench);
    const file = bench.at("x");
    await expectRefusal(
      bench,
      { kind: "reopen", device: "vda", file, format: undefined, force: false },
      { code },
    );
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await bench.add("vdx", "x"));
    expect(failure).toMatchObject({ code, device: "vdx", changed: false });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("that is named through a view, which is taken away later, of this workspace or another", async () => {
    const [bench, neighbour] = [await makeWorkbench(), await makeWorkbench()];
    for (const [device, file] of [
      ["vda", bench.at("devices/vda")],
      ["vdc", neighbour.at("devices/vdc")],
    ] as const) {
      const request = { kind: "reopen", device, file, format: undefined, force: false } as const;
      await expectRefusal(bench, request, { code: "E_REFUSED", device, says: /imgtx keeps/ });
    }
    const failure = await failureOf(async () => await bench.add("vdx", neighbour.at("devices/vdc")));
    expect(failure).toMatchObject({ code: "E_REFUSED", device: "vdx", changed: false });
  });

  test("of another virtual size, unless that is forced", async () => {
    const bench = await makeWorkbench();
    writeFileSync(bench.at("big.raw"), new Uint8Array(1024 * 1024));
    const request = {
      kind: "reopen",
      device: "vda",
      file: bench.at("big.raw"),
      format: "raw",
      force: false,
    } as const;
    await expectRefusal(bench, request, {
      code: "E_REFUSED",
      device: "vda",
      says: /196608 bytes.*1048576 bytes/,
    });
    await bench.run({ ...request, force: true });
    expect((await bench.images())["vda"]).toBe("big.raw");
  });
});

/** What a guest with a hand in its own header would write. */
function makeGreedyOverlay(bench: Workbench): void {
  const secret = bench.makeFile(`${makeFolder()}/secret`, "root:x:0:0");
  bench.makeQcow2("x", 6, { name: secret, format: "raw" });
}

describe("a device name is refused", () => {
  test("that is taken, and says by which image", async () => {
    const bench = await makeWorkbench();
    const failure = await failureOf(async () => await bench.add("vda", "c.qcow2"));
    expect(failure).toMatchObject({ code: "E_EXISTS", device: "vda", image: bench.at("a.qcow2") });
  });
});

const qemu = oracle("qemu-img", "qemu-io", "qemu-storage-daemon");

describe("an image that QEMU has open", () => {
  qemu.test.each([
    ["the active layer", "c.qcow2"],
    ["a backing image", "mid.qcow2"],
  ])("is refused for a whole group when it is %s, and free when QEMU has ended", async (_, held) => {
    const bench = await makeWorkbench();
    bench.makeQcow2("mid.qcow2", 7);
    bench.makeQcow2("d.qcow2", 8, { name: "mid.qcow2", format: "qcow2" });
    await bench.add("vdd", "d.qcow2");
    const files = { vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c1.qcow2", vdd: "d1.qcow2" };
    const daemon = await startQemuDaemon(bench.at(held), makeFolder(), true);
    try {
      const device = held === "c.qcow2" ? "vdc" : "vdd";
      const request = bench.snapshotRequest(files);
      await expectRefusal(bench, request, {
        code: "E_LOCKED",
        device,
        image: held,
        says: /qemu-storage-daemon|qemu-sto/,
      });
    } finally {
      await daemon.stop();
    }
    await bench.snapshot(files);
  });

  qemu.test("at the commit keeps the transaction open", async () => {
    const bench = await makeWorkbench();
    await bench.begin();
    await bench.snapshot({ vdc: "c1.qcow2" });
    const writer = await startQemuDaemon(bench.at("c1.qcow2"), makeFolder(), true);
    try {
      expect((await failureOf(async () => await bench.commit())).code).toBe("E_LOCKED");
    } finally {
      await writer.stop();
    }
    expect(await bench.open()).toHaveLength(1);
    expect((await bench.images())["vdc"]).toBe("c.qcow2");
    await bench.commit();
    expect((await bench.images())["vdc"]).toBe("c1.qcow2");
  });
});
