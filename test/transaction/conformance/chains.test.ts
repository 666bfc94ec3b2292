// The content of every device is what it was, by whatever names its chain hangs together, and QEMU opens it
// by its own path and by devices/NAME.

import { chmodSync, chownSync, mkdirSync, renameSync, statSync, symlinkSync } from "node:fs";
import { describe, expect, onTestFinished, test } from "vitest";
import { openHostImage, readHeader } from "../../helpers/guest-content.ts";
import { oracle } from "../../helpers/oracles.ts";
import { runWell } from "../../helpers/qemu-programs.ts";
import { makeWorkbench, Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");

/** SHA-256 of what QEMU reads, as raw bytes. */
function contentByQemu(image: string, format: string): string {
  const raw = `${makeFolder()}/raw`;
  runWell("qemu-img", "convert", "-f", format, "-O", "raw", image, raw);
  return runWell("sha256sum", raw).slice(0, 64);
}

async function openByQemu(bench: Workbench): Promise<void> {
  for (const { name, image, format, view } of await bench.devices()) {
    const own = contentByQemu(image, format);
    expect(contentByQemu(bench.at(`devices/${name}`), format), name).toBe(own);
    expect(view).toBe(bench.at(`devices/${name}`));
    if (format === "qcow2") runWell("qemu-img", "check", "-q", image);
  }
}

function backingNameOf(image: string): string | undefined {
  return readHeader(openHostImage(image), image).backingName;
}

describe("guest content is what it was", () => {
  test.each([
    ["a snapshot of one device", async (bench: Workbench) => await bench.snapshot({ vda: "a1.qcow2" })],
    [
      "a group snapshot",
      async (bench: Workbench) => await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c1.qcow2" }),
    ],
    [
      "a relative group snapshot",
      async (bench: Workbench) =>
        await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" }, { relative: true }),
    ],
    [
      "a snapshot of a snapshot in one transaction",
      async (bench: Workbench) =>
        await bench.run([
          bench.snapshotRequest({ vda: "a1.qcow2" }),
          bench.snapshotRequest({ vda: "a2.qcow2" }),
        ]),
    ],
    [
      "a rollback of a snapshot",
      async (bench: Workbench) => {
        await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
        await bench.undo();
      },
    ],
  ])("after %s", async (_, action) => {
    const bench = await makeWorkbench();
    const before = await bench.content();
    await action(bench);
    expect(await bench.content()).toEqual(before);
  });

  test("after a removal of another device", async () => {
    const bench = await makeWorkbench();
    const { vdb: _gone, ...before } = await bench.content();
    await bench.remove("vdb");
    expect(await bench.content()).toEqual(before);
  });

  qemu.test("as QEMU reads it, after each action", async () => {
    const bench = await makeWorkbench();
    const read = async () =>
      Object.fromEntries(
        (await bench.devices()).map(({ name, image, format }) => [name, contentByQemu(image, format)]),
      );
    const before = await read();
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2", vdc: "c1.qcow2" });
    expect(await read()).toEqual(before);
    await openByQemu(bench);
    await bench.undo();
    expect(await read()).toEqual(before);
  });

  qemu.test("in the snapshots, when a guest writes to the new active layers", async () => {
    const bench = await makeWorkbench();
    const before = await bench.content();
    await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" }, { relative: true });
    runWell("qemu-io", "-f", "qcow2", "-c", "write -P 0x55 0 192k", bench.at("devices/vda"));
    runWell("qemu-io", "-f", "qcow2", "-c", "write -P 0x66 4k 8k", bench.at("b1.qcow2"));
    const after = await bench.content();
    expect(after["vda"]).not.toBe(before["vda"]);
    await bench.snapshot({ vda: "a2.qcow2" });
    expect(await bench.content()).toEqual(after);
    expect(contentByQemu(bench.at("b.raw"), "raw")).toBe(before["vdb"]);
    expect(contentByQemu(bench.at("a.qcow2"), "qcow2")).toBe(before["vda"]);
  });
});

describe("a chain opens by its own path and by devices/NAME", () => {
  async function makeDeepBench(): Promise<Workbench> {
    const bench = new Workbench(`${makeFolder()}/ws`);
    mkdirSync(bench.root);
    bench.makeRaw("pool/golden/base.raw", 1);
    bench.makeQcow2("pool/mid.qcow2", 2, { name: "golden/base.raw", format: "raw" });
    bench.makeQcow2("vm/one/a.qcow2", 3, { name: "../../pool/mid.qcow2", format: "qcow2" });
    bench.makeQcow2("vm/two/b.qcow2", 4, { name: "./../../pool/../pool/mid.qcow2", format: "qcow2" });
    await bench.add("vda", "vm/one/a.qcow2");
    await bench.add("vdb", "vm/two/b.qcow2");
    return bench;
  }

  qemu.test("with names that climb and go down, several images deep", async () => {
    const bench = await makeDeepBench();
    await openByQemu(bench);
    mkdirSync(bench.at("snaps"));
    await bench.snapshot({ vda: "snaps/a1.qcow2", vdb: "vm/two/b1.qcow2" }, { relative: true });
    expect(backingNameOf(bench.at("snaps/a1.qcow2"))).toBe("../vm/one/a.qcow2");
    expect(backingNameOf(bench.at("vm/two/b1.qcow2"))).toBe("b.qcow2");
    await openByQemu(bench);
  });

  test("and one image has one name in the chains of two devices, whatever names lead to it", async () => {
    const bench = await makeDeepBench();
    const chains = (await bench.devices()).map(({ chain }) => chain.slice(1).map(({ image }) => image));
    const shared = [bench.at("pool/mid.qcow2"), bench.at("pool/golden/base.raw")];
    expect(chains).toEqual([shared, shared]);
  });

  qemu.test("after the workspace was moved, when it was made with relative names", async () => {
    const bench = await makeDeepBench();
    await bench.snapshot({ vda: "a1.qcow2", vdb: "vm/b1.qcow2" }, { relative: true });
    const before = await bench.content();
    const moved = new Workbench(`${bench.root} moved`);
    renameSync(bench.root, moved.root);
    expect(await moved.images()).toEqual({ vda: "a1.qcow2", vdb: "vm/b1.qcow2" });
    expect(await moved.content()).toEqual(before);
    await openByQemu(moved);
    await moved.snapshot({ vda: "a2.qcow2" }, { relative: true });
    await openByQemu(moved);
  });

  test("in an open transaction, when the workspace was moved meanwhile", async () => {
    const bench = await makeDeepBench();
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" }, { relative: true });
    const moved = new Workbench(`${bench.root} moved`);
    renameSync(bench.root, moved.root);
    await moved.commit();
    expect(await moved.images()).toEqual({ vda: "a1.qcow2", vdb: "vm/two/b.qcow2" });
  });

  qemu.test("with absolute names, which lead to the images from anywhere", async () => {
    const bench = await makeWorkbench();
    mkdirSync(bench.at("deep/er"), { recursive: true });
    await bench.snapshot({ vda: "deep/er/a1.qcow2", vdb: "b1.qcow2" });
    expect(backingNameOf(bench.at("deep/er/a1.qcow2"))).toBe(bench.at("a.qcow2"));
    await openByQemu(bench);
  });

  qemu.test("through a symbolic link to a folder, and up from there", async () => {
    const scratch = makeFolder();
    const bench = new Workbench(`${scratch}/ws`);
    mkdirSync(bench.root);
    bench.makeQcow2(`${scratch}/store/base.qcow2`, 1);
    bench.makeQcow2(`${scratch}/store/images/mid.qcow2`, 2, { name: "../base.qcow2", format: "qcow2" });
    bench.makeQcow2("base.qcow2", 9);
    symlinkSync("../store/images", bench.at("images"));
    bench.makeQcow2("a.qcow2", 3, { name: "images/mid.qcow2", format: "qcow2" });
    await bench.add("vda", "a.qcow2");
    await bench.begin();
    await bench.snapshot({ vda: "a1.qcow2" }, { relative: true });
    expect(await bench.commit()).toMatchObject({ changed: true, generation: 2 });
    const [chain] = (await bench.devices()).map((device) => device.chain.length);
    expect(chain).toBe(4);
    await openByQemu(bench);
  });

  qemu.test("whose images have names that a shell or QEMU could misread", async () => {
    const bench = new Workbench(`${makeFolder()}/odd 'ws'"\n é`);
    mkdirSync(bench.root);
    bench.makeQcow2("-a b.qcow2", 1);
    bench.makeQcow2("c:d.qcow2", 2);
    await bench.add("vda", "-a b.qcow2");
    await bench.add("vdb", "c:d.qcow2");
    await bench.snapshot({ vda: "--help", vdb: "json:{}" }, { relative: true });
    await bench.snapshot({ vda: "'\"$(true)\nü.qcow2", vdb: "e,f=g.qcow2" }, { relative: true });
    expect(backingNameOf(bench.at("e,f=g.qcow2"))).toBe("./json:{}");
    await openByQemu(bench);
  });
});

test("a new overlay has the mode of the image below, and its owner may write to it", async () => {
  const bench = await makeWorkbench();
  chmodSync(bench.at("a.qcow2"), 0o640);
  chmodSync(bench.at("b.raw"), 0o444);
  await bench.snapshot({ vda: "a1.qcow2", vdb: "b1.qcow2" });
  expect(statSync(bench.at("a1.qcow2")).mode & 0o777).toBe(0o640);
  expect(statSync(bench.at("b1.qcow2")).mode & 0o777).toBe(0o644);
});

test("it has that mode against the umask too", async () => {
  const bench = await makeWorkbench();
  chmodSync(bench.at("a.qcow2"), 0o660);
  const umask = process.umask(0o077);
  onTestFinished(() => {
    process.umask(umask);
  });
  await bench.snapshot({ vda: "a1.qcow2" });
  expect(statSync(bench.at("a1.qcow2")).mode & 0o777).toBe(0o660);
});

oracle("root").test("and belongs to whom that image belongs, where root makes it", async () => {
  const bench = await makeWorkbench();
  chownSync(bench.at("a.qcow2"), 1234, 2345);
  await bench.snapshot({ vda: "a1.qcow2" });
  expect(statSync(bench.at("a1.qcow2"))).toMatchObject({ uid: 1234, gid: 2345 });
});
