// No command of img overwrites what it reads from, by whatever name, nor what a device stands on or a snapshot keeps.

import { linkSync, readFileSync, symlinkSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { canSayWorkspaces } from "../../../helpers/attributes.ts";
import { snapshotWorkspace } from "../../../helpers/tree.ts";
import { mirror } from "../../../helpers/transaction/mirroring.ts";
import { makeWorkbench, Workbench } from "../../../helpers/transaction/workbench.ts";
import { makeFolder, runImg } from "../../../helpers/cli/against-qemu.ts";

/** a.qcow2 and its other names, and over.qcow2 on it. */
function makeImages(): Workbench {
  const bench = new Workbench(makeFolder());
  bench.makeQcow2("a.qcow2", 1);
  bench.makeQcow2("over.qcow2", 2, { name: "a.qcow2", format: "qcow2" });
  linkSync(bench.at("a.qcow2"), bench.at("hard.qcow2"));
  symlinkSync("a.qcow2", bench.at("soft.qcow2"));
  return bench;
}

describe("source and target are the same file", () => {
  const names = ["a.qcow2", "./a.qcow2", "hard.qcow2", "soft.qcow2"];
  const commands: Readonly<Record<string, (target: string) => string[]>> = {
    convert: (target) => ["convert", "-O", "qcow2", "a.qcow2", target],
    "convert -U": (target) => ["convert", "-U", "-O", "raw", "a.qcow2", target],
    "convert of a raw view": (target) => ["convert", "-U", "-f", "raw", "-O", "raw", "a.qcow2", target],
    "convert -n": (target) => ["convert", "-n", "-U", "-O", "qcow2", "a.qcow2", target],
    "convert of an overlay": (target) => ["convert", "-O", "qcow2", "over.qcow2", target],
    "convert -U of an overlay": (target) => ["convert", "-U", "-O", "qcow2", "over.qcow2", target],
    dd: (target) => ["dd", "if=a.qcow2", `of=${target}`, "-O", "qcow2"],
    "dd -U": (target) => ["dd", "-U", "-f", "raw", "if=a.qcow2", `of=${target}`, "bs=1M", "count=1"],
    "create -b": (target) => ["create", "-q", "-f", "qcow2", "-b", "over.qcow2", "-F", "qcow2", target],
  };

  test.each(Object.keys(commands))("%s says so by every name, and changes nothing", async (what) => {
    const bench = makeImages();
    const before = snapshotWorkspace(bench.root);
    for (const name of names) {
      const { status, stdout, stderr } = await runImg(bench.root, commands[what]!(name), {
        program: "imgtx",
      });
      expect({ status, stdout }, name).toEqual({ status: 1, stdout: "" });
      expect(stderr).toContain(`imgtx: ${name}: source and target are the same file`);
    }
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("create -u refuses an image as its own backing image by another name", async () => {
    const bench = makeImages();
    const before = snapshotWorkspace(bench.root);
    const words = ["create", "-q", "-u", "-f", "qcow2", "-b", "a.qcow2", "-F", "qcow2", "hard.qcow2", "1M"];
    const { status, stderr } = await runImg(bench.root, words, { program: "imgtx" });
    expect(status).toBe(1);
    expect(stderr).toContain("source and target are the same file");
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });
});

describe("what a device stands on", () => {
  const commands: Readonly<Record<string, (target: string) => string[]>> = {
    create: (target) => ["create", "-q", "-f", "qcow2", target, "1M"],
    convert: (target) => ["convert", "-O", "qcow2", "source.qcow2", target],
    "convert -n": (target) => ["convert", "-n", "-O", "qcow2", "source.qcow2", target],
    dd: (target) => ["dd", "if=source.qcow2", `of=${target}`],
  };

  test.each(Object.keys(commands))("is not overwritten by %s, from wherever that is run", async (what) => {
    const bench = await makeWorkbench();
    await mirror(bench, { vda: "m.qcow2" });
    const source = bench.makeQcow2("source.qcow2", 9);
    const [device] = await bench.devices();
    const images = [...device!.chain.map(({ image }) => image), bench.at("m.qcow2"), bench.at("devices/vda")];
    expect(images.length).toBeGreaterThan(3);
    const before = snapshotWorkspace(bench.root);
    // Into the active layer -n writes as a guest does.
    const refused = what === "convert -n" ? images.slice(1, -1) : images;
    for (const folder of [bench.root, makeFolder()]) {
      for (const image of refused) {
        const words = commands[what]!(image).map((word) => word.replace("source.qcow2", source));
        const { status, stderr } = await runImg(folder, words, { program: "imgtx" });
        expect(status).toBe(1);
        expect(stderr).toContain("device 'vda' of the workspace");
      }
    }
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test("takes new guest data on its active layer, with convert -n", async () => {
    const bench = await makeWorkbench();
    bench.makeQcow2("source.qcow2", 9);
    const words = ["convert", "-n", "-O", "qcow2", "source.qcow2", "a.qcow2"];
    expect(await runImg(bench.root, words)).toMatchObject({ status: 0 });
  });

  test("is free again when the device has gone", async () => {
    const bench = await makeWorkbench();
    await bench.remove("vda");
    const words = ["create", "-q", "-f", "qcow2", "a.qcow2", "1M"];
    const before = readFileSync(bench.at("a.qcow2"));
    expect(await runImg(bench.root, words)).toMatchObject({ status: 0 });
    expect(readFileSync(bench.at("a.qcow2")).equals(before)).toBe(false);
  });
});

/** The first cluster has one reference, and a refcount of 2. */
function leak(image: string): void {
  const bytes = readFileSync(image);
  const table = Number(bytes.readBigUInt64BE(48));
  bytes.writeUInt16BE(2, Number(bytes.readBigUInt64BE(table)));
  writeFileSync(image, bytes);
}

describe("what a snapshot keeps", () => {
  const commands: Readonly<Record<string, (target: string) => string[]>> = {
    create: (target) => ["create", "-q", "-f", "qcow2", target, "1M"],
    convert: (target) => ["convert", "-O", "qcow2", "source.qcow2", target],
    "convert -n": (target) => ["convert", "-n", "-O", "qcow2", "source.qcow2", target],
    dd: (target) => ["dd", "if=source.qcow2", `of=${target}`],
    "bench -w": (target) => ["bench", "-w", "-c", "1", "-f", "qcow2", target],
    resize: (target) => ["resize", target, "+1M"],
    rebase: (target) => ["rebase", "-f", "qcow2", "-b", "", target],
    commit: (target) => ["commit", `${target}.over`],
    snapshot: (target) => ["snapshot", "-c", "now", target],
    bitmap: (target) => ["bitmap", "--add", target, "marks"],
    amend: (target) => ["amend", "-o", "lazy_refcounts=on", "-f", "qcow2", target],
    "check -r": (target) => ["check", "-r", "leaks", target],
  };

  /** a.qcow2 is below the device, by snapshot 1, and a1.qcow2 below none, by snapshot 2; an overlay on each. */
  async function makeSealed(): Promise<Workbench> {
    const bench = await makeWorkbench();
    bench.makeQcow2("source.qcow2", 9);
    leak(bench.at("a.qcow2"));
    await bench.snapshot({ vda: "a1.qcow2" }, { name: "mon" });
    leak(bench.at("a1.qcow2"));
    await bench.rollback("mon");
    for (const name of ["a.qcow2", "a1.qcow2"]) bench.makeQcow2(`${name}.over`, 3, { name, format: "qcow2" });
    return bench;
  }

  test("is written to by no command", async () => {
    const bench = await makeSealed();
    const before = snapshotWorkspace(bench.root);
    const keepers = { "a.qcow2": "snapshot 1 (mon)", "a1.qcow2": "snapshot 2 (before rollback to mon)" };
    for (const [image, keeper] of Object.entries(keepers)) {
      for (const [what, words] of Object.entries(commands)) {
        const { status, stdout, stderr } = await runImg(bench.root, words(image), { program: "imgtx" });
        expect({ status, stdout }, `${what} ${image}`).toEqual({ status: 1, stdout: "" });
        expect(stderr, `${what} ${image}`).toContain(
          `${keeper} of the workspace 'FOLDER' keeps it, of 'vda'`,
        );
        const number = image === "a.qcow2" ? 1 : 2;
        expect(stderr).toContain(`\`imgtx --workspace FOLDER rollback vda --to ${number}\``);
      }
    }
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  });

  test.skipIf(!canSayWorkspaces)("is written to by no command by a hard link elsewhere", async () => {
    const bench = await makeSealed();
    const elsewhere = makeFolder();
    for (const name of ["a.qcow2", "a1.qcow2", "base.raw"]) linkSync(bench.at(name), `${elsewhere}/${name}`);
    const over = new Workbench(elsewhere);
    for (const name of ["a.qcow2", "a1.qcow2"]) over.makeQcow2(`${name}.over`, 3, { name, format: "qcow2" });
    over.makeQcow2("source.qcow2", 9);
    const before = [snapshotWorkspace(bench.root), snapshotWorkspace(elsewhere)];
    for (const image of ["a.qcow2", "a1.qcow2"]) {
      for (const [what, words] of Object.entries(commands)) {
        const { status, stdout, stderr } = await runImg(elsewhere, words(image), { program: "imgtx" });
        expect({ status, stdout }, `${what} ${image}`).toEqual({ status: 1, stdout: "" });
        expect(stderr, `${what} ${image}`).toContain(`of the workspace '${bench.root}' keeps it, of 'vda'`);
      }
    }
    expect([snapshotWorkspace(bench.root), snapshotWorkspace(elsewhere)]).toEqual(before);
  });

  test("is kept when its device has gone, and found by another name", async () => {
    const bench = await makeSealed();
    await bench.remove("vda");
    linkSync(bench.at("a1.qcow2"), bench.at("linked.qcow2"));
    for (const image of ["a.qcow2", "linked.qcow2"]) {
      const { status, stderr } = await runImg(bench.root, ["resize", image, "+1M"], { program: "imgtx" });
      expect(status, image).toBe(1);
      expect(stderr).toMatch(/snapshot \d .* keeps it, of 'vda'/);
      expect(stderr).toMatch(/`imgtx --workspace \S+ snapshot-show \d`/);
    }
  });
});
