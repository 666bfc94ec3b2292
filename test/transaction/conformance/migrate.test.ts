// migrate, mirror and reopen: a chain moves to another place while a guest writes to it.

import { chmodSync, existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { oracle } from "../../helpers/oracles.ts";
import { snapshotTree, snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import {
  chainByQemu,
  isSameToGuest,
  makeFolderIn,
  migrate,
  mountFileSystem,
  startGuest,
} from "../../helpers/transaction/migrating.ts";
import { mirror, mirrorRequest, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const QEMU = ["qemu-img", "qemu-io", "timeout"];
const qemu = oracle(...QEMU);
const loops = oracle(...QEMU, "loops", "mkfs.ext4");

async function chainOf(bench: Workbench, name: string): Promise<string[]> {
  const device = (await bench.devices()).find((each) => each.name === name);
  return device?.chain.map(({ image }) => path.relative(bench.root, image)) ?? [];
}

async function mirrorOf(bench: Workbench, name: string): Promise<string | undefined> {
  return (await bench.devices()).find((each) => each.name === name)?.mirror?.image;
}

describe("a live migration", () => {
  async function moveWithGuest(bench: Workbench, there: string, device: string, parent: string) {
    const [top, dest] = [bench.at("top.qcow2"), path.join(there, "top.qcow2")];
    await bench.run(migrate(bench, device, dest, top));
    const guest = await startGuest(top);
    const copied = mirror(bench, { [device]: undefined });
    await guest.write("write -P 7 4k 60k");
    await copied;
    await guest.write("write -P 9 64k 12k");
    expect(await failureOf(async () => await bench.reopen(device, dest))).toMatchObject({
      code: "E_LOCKED",
      exitCode: 10,
      image: top,
      changed: false,
    });
    await guest.stop();
    const content = (await bench.content())[device];
    await bench.reopen(device, dest);
    expect((await bench.content())[device]).toBe(content);
    expect(isSameToGuest(top, dest)).toBe(true);
    expect(chainByQemu(dest)).toEqual([dest, path.join(there, parent)]);
    expect(await mirrorOf(bench, device)).toBeUndefined();
    // The new place is whole without the old one, and takes what the guest writes next.
    writeGuest(dest, "qcow2", "write -P 3 0 16k");
    expect(isSameToGuest(top, dest)).toBe(false);
  }

  const DEVICES = [
    ["over a chain", "vda", "a.qcow2"],
    ["raw", "vdb", "b.raw"],
    ["of one image", "vdc", "c.qcow2"],
  ] as const;

  qemu.test.each(DEVICES)("to another folder keeps a guest's disk, %s", async (_, device, parent) => {
    const bench = await makeWorkbench();
    await moveWithGuest(bench, makeFolderIn(bench, "there"), device, parent);
  });

  loops.test.each(DEVICES)("to another file system keeps a guest's disk, %s", async (_, device, parent) => {
    const bench = await makeWorkbench(mountFileSystem());
    await moveWithGuest(bench, mountFileSystem(), device, parent);
  });

  qemu.test.each([
    ["spaces", "the disk of vda.qcow2"],
    ["quotes", `it's "a".qcow2`],
    ["a colon", "nbd:a.qcow2"],
    ["a word for JSON", "json:{}.qcow2"],
    ["letters of elsewhere", "диск-磁盘.qcow2"],
    ["a line break", "a\nb.qcow2"],
    ["a leading dash", "-a.qcow2"],
    ["percent signs", "%s%n.qcow2"],
  ])("finds the copy of a parent whose name has %s", async (_, name) => {
    const bench = await makeWorkbench();
    bench.makeQcow2(name, 21);
    await bench.add("vdx", name);
    await moveWithGuest(bench, makeFolderIn(bench, `th:ere ${name}`), "vdx", name);
  });
});

describe("the steps of a migration", () => {
  test("leave the device's old chain as it was", async () => {
    const bench = await makeWorkbench();
    const there = makeFolderIn(bench, "there");
    const read = () => ["base.raw", "a.qcow2"].map((name) => readFileSync(bench.at(name)).toString("base64"));
    const before = read();
    await bench.run(migrate(bench, "vda", "there/top.qcow2", "top.qcow2"));
    await mirror(bench, { vda: undefined });
    await bench.reopen("vda", path.join(there, "top.qcow2"));
    expect(read()).toEqual(before);
    expect(await chainOf(bench, "vda")).toEqual(["there/top.qcow2", "there/a.qcow2"]);
  });

  test("need no copy where DEST is in the folder of its parent", async () => {
    const bench = await makeWorkbench();
    const content = await bench.content();
    // Written to at this very moment, which is waited out.
    chmodSync(bench.at("base.raw"), 0o640);
    await bench.run(migrate(bench, "vda", "twin.qcow2", "top.qcow2"));
    expect(await mirror(bench, { vda: undefined })).toMatchObject({ changed: false });
    await bench.reopen("vda", "twin.qcow2");
    expect(await chainOf(bench, "vda")).toEqual(["twin.qcow2", "a.qcow2", "base.raw"]);
    expect(await bench.content()).toEqual(content);
  });

  test("are not done in another order: reopen waits for the copy, with a hint", async () => {
    const bench = await makeWorkbench();
    makeFolderIn(bench, "there");
    await bench.run(migrate(bench, "vda", "there/top.qcow2", "top.qcow2"));
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await bench.reopen("vda", "there/top.qcow2"));
    expect(failure).toMatchObject({ code: "E_REFUSED", exitCode: 14, changed: false });
    expect(failure.message).toContain(bench.at("there/a.qcow2"));
    expect(failure.hint).toContain("imgtx mirror vda");
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  qemu.test("may have snapshots and writes between them", async () => {
    const bench = await makeWorkbench();
    makeFolderIn(bench, "there");
    await bench.run(migrate(bench, "vda", "there/top.qcow2", "top.qcow2"));
    writeGuest(bench.at("top.qcow2"), "qcow2", "write -P 4 8k 8k");
    await bench.snapshot({ vda: "top-2.qcow2" });
    writeGuest(bench.at("top-2.qcow2"), "qcow2", "write -z 0 12k");
    await mirror(bench, { vda: undefined });
    await bench.snapshot({ vda: "top-3.qcow2" });
    writeGuest(bench.at("top-3.qcow2"), "qcow2", "write -P 5 100k 4k");
    const content = await bench.content();
    await bench.reopen("vda", "there/top.qcow2");
    expect(await bench.content()).toEqual(content);
    expect(isSameToGuest(bench.at("top-3.qcow2"), bench.at("there/top.qcow2"))).toBe(true);
    expect(await chainOf(bench, "vda")).toEqual(["there/top.qcow2", "there/a.qcow2"]);
  });

  qemu.test("may have a sync between them, that the guest writes behind", async () => {
    const bench = await makeWorkbench();
    makeFolderIn(bench, "there");
    await bench.run(migrate(bench, "vdc", "there/top.qcow2", "top.qcow2"));
    await mirror(bench, { vdc: undefined });
    writeGuest(bench.at("top.qcow2"), "qcow2", "write -P 4 8k 8k");
    await mirror(bench, { vdc: undefined });
    expect(isSameToGuest(bench.at("top.qcow2"), bench.at("there/top.qcow2"))).toBe(true);
    writeGuest(bench.at("top.qcow2"), "qcow2", "discard 8k 4k");
    await bench.reopen("vdc", "there/top.qcow2");
    expect(isSameToGuest(bench.at("top.qcow2"), bench.at("there/top.qcow2"))).toBe(true);
  });

  test("may be actions of one transaction, which its abort takes back without a trace", async () => {
    const bench = await makeWorkbench();
    makeFolderIn(bench, "there");
    const [before, content] = [snapshotTree(bench.root, [".imgtx"]), await bench.content()];
    const runAll = async () => {
      await bench.begin();
      await bench.run(migrate(bench, "vda", "there/top.qcow2", "top.qcow2"));
      await mirror(bench, { vda: undefined });
      await bench.reopen("vda", "there/top.qcow2");
    };
    await runAll();
    expect(await chainOf(bench, "vda")).toEqual(["a.qcow2", "base.raw"]);
    await bench.abort();
    expect(snapshotTree(bench.root, [".imgtx"])).toEqual(before);
    await runAll();
    await bench.commit();
    expect(await chainOf(bench, "vda")).toEqual(["there/top.qcow2", "there/a.qcow2"]);
    expect(await bench.content()).toEqual(content);
    expect(await bench.generation()).toBe(4);
  });

  test("of one command are planned by a dry run, which makes nothing", async () => {
    const bench = await makeWorkbench();
    makeFolderIn(bench, "there");
    const before = snapshotTree(bench.root);
    const requests = [
      migrate(bench, "vda", "there/top.qcow2", "top.qcow2"),
      mirrorRequest(bench, { vda: undefined }),
    ];
    const planned = await bench.run(requests, { dryRun: true });
    expect(
      planned.actions.flatMap(({ files }) => files.map((file) => path.relative(bench.root, file.path))),
    ).toEqual(["top.qcow2", "there/top.qcow2", "there/a.qcow2"]);
    expect(snapshotTree(bench.root)).toEqual(before);
    await bench.run(requests);
    expect(existsSync(bench.at("there/a.qcow2"))).toBe(true);
  });

  test("leave a frozen device frozen", async () => {
    const bench = await makeWorkbench();
    makeFolderIn(bench, "there");
    const content = await bench.content();
    await bench.run({ kind: "freeze", devices: ["vda"], strict: false });
    await bench.run(migrate(bench, "vda", "there/top.qcow2", "top.qcow2"));
    await mirror(bench, { vda: undefined });
    await bench.reopen("vda", "there/top.qcow2");
    expect((await bench.devices()).filter(({ frozen }) => frozen).map(({ name }) => name)).toEqual(["vda"]);
    await bench.run({ kind: "unfreeze", devices: ["vda"], force: false });
    expect(await bench.content()).toEqual(content);
    expect(await chainOf(bench, "vda")).toEqual(["there/top.qcow2", "there/a.qcow2"]);
  });
});

describe("a migration is refused, and leaves all as it was,", () => {
  const cases: [string, string, (bench: Workbench) => Promise<[dest: string, top: string]>][] = [
    [
      "where the name of its parent is taken in the new place",
      "E_EXISTS",
      async (bench) => {
        bench.makeFile("there/a.qcow2", "somebody's own\n");
        return ["there/top.qcow2", "top.qcow2"];
      },
    ],
    [
      "where DEST exists",
      "E_EXISTS",
      async (bench) => {
        bench.makeFile("there/top.qcow2", "somebody's own\n");
        return ["there/top.qcow2", "top.qcow2"];
      },
    ],
    [
      "where FILE exists",
      "E_EXISTS",
      async (bench) => {
        bench.makeFile("top.qcow2", "somebody's own\n");
        return ["there/top.qcow2", "top.qcow2"];
      },
    ],
    ["where DEST has its parent's name", "E_REFUSED", async () => ["there/a.qcow2", "top.qcow2"]],
    ["where FILE takes the parent's name", "E_REFUSED", async () => ["there/top.qcow2", "there/a.qcow2"]],
    ["where both are one file", "E_DUPLICATE", async () => ["top.qcow2", "top.qcow2"]],
    ["where the folder of DEST is missing", "E_NOT_FOUND", async () => ["nowhere/top.qcow2", "top.qcow2"]],
    [
      "where the device has a mirror",
      "E_REFUSED",
      async (bench) => {
        await bench.run(mirrorRequest(bench, { vda: "copy.qcow2" }));
        return ["there/top.qcow2", "top.qcow2"];
      },
    ],
  ];

  test.each(cases)("%s", async (_, code, prepare) => {
    const bench = await makeWorkbench();
    makeFolderIn(bench, "there");
    const [dest, top] = await prepare(bench);
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await bench.run(migrate(bench, "vda", dest, top)));
    expect(failure).toMatchObject({ code, exitCode: 14, device: "vda", changed: false });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("where a file takes the parent's name before the copy is made", async () => {
    const bench = await makeWorkbench();
    makeFolderIn(bench, "there");
    await bench.run(migrate(bench, "vda", "there/top.qcow2", "top.qcow2"));
    bench.makeFile("there/a.qcow2", "somebody's own\n");
    const before = snapshotWorkspace(bench.root);
    const failure = await failureOf(async () => await mirror(bench, { vda: undefined }));
    expect(failure).toMatchObject({ code: "E_EXISTS", exitCode: 14, changed: false });
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  qemu.test("while a guest writes to the device", async () => {
    const bench = await makeWorkbench();
    const there = makeFolder();
    const guest = await startGuest(bench.at("a.qcow2"));
    const failure = await failureOf(
      async () => await bench.run(migrate(bench, "vda", path.join(there, "top.qcow2"), "top.qcow2")),
    );
    await guest.stop();
    expect(failure).toMatchObject({ code: "E_LOCKED", exitCode: 10 });
    expect(existsSync(bench.at("top.qcow2"))).toBe(false);
  });
});
