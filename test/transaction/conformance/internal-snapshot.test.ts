// Internal snapshots of devices: the images are what qemu-img makes of copies, of every layout, for all devices of a
// transaction or for none.

import { guestOffset } from "../../../src/units/index.ts";
import { createHash } from "node:crypto";
import { copyFileSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { openImage } from "../../../src/format/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import type { InternalSnapshotRequest } from "../../../src/transaction/index.ts";
import { listInternalSnapshots } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { createOverlay, run, runWell } from "../../helpers/qemu-programs.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import {
  infoOf,
  judge,
  mirror,
  IDENTICAL,
  redoLogs,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { makeWorkbench, Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const [K, M] = [1024, 1024 ** 2];

type Verb = "create" | "apply" | "delete";
const LETTER: Readonly<Record<Verb, string>> = { create: "-c", apply: "-a", delete: "-d" };

const request = (verb: Verb, devices: readonly string[], snapshot: string): InternalSnapshotRequest => ({
  kind: `internal-snapshot-${verb}`,
  devices,
  snapshot,
});

const LAYOUTS: Readonly<Record<string, string>> = {
  plain: "cluster_size=64k",
  v2: "compat=0.10,cluster_size=4k",
  small: "cluster_size=512,refcount_bits=64",
  large: "cluster_size=2M",
  extended: "cluster_size=16k,extended_l2=on",
  lazy: "cluster_size=4k,lazy_refcounts=on",
  narrow: "cluster_size=64k,refcount_bits=8",
};
const NAMES = Object.keys(LAYOUTS);

function makeImage(folder: string, name: string): string {
  const file = path.join(folder, `${name}.qcow2`);
  runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", LAYOUTS[name]!, file, "3M");
  writeGuest(file, "qcow2", "write -c -P 9 0 2M", "write -P 7 3k 200k", "write -P 8 2047k 700k");
  return file;
}

class Pair {
  readonly bench = new Workbench(makeFolder());
  readonly #others = path.join(this.bench.root, "theirs");

  async make(): Promise<this> {
    this.bench.makeFile("theirs/README", "copies for qemu-img\n");
    for (const name of NAMES) {
      const image = makeImage(this.bench.root, name);
      copyFileSync(image, path.join(this.#others, path.basename(image)));
      await this.bench.add(name, image);
    }
    return this;
  }

  /** imgtx for all images at once, qemu-img one by one. */
  async change(verb: Verb, snapshot: string): Promise<void> {
    await this.bench.run(request(verb, NAMES, snapshot));
    for (const file of this.theirs) runWell("qemu-img", "snapshot", LETTER[verb], snapshot, file);
  }

  write(...commands: string[]): void {
    for (const file of [...this.ours, ...this.theirs]) writeGuest(file, "qcow2", ...commands);
  }

  get ours(): string[] {
    return NAMES.map((name) => this.bench.at(`${name}.qcow2`));
  }

  get theirs(): string[] {
    return NAMES.map((name) => path.join(this.#others, `${name}.qcow2`));
  }

  async judge(): Promise<void> {
    for (const [index, ours] of this.ours.entries()) {
      const theirs = this.theirs[index]!;
      const [told, wanted] = [infoOf(ours), infoOf(theirs)];
      expect(listedIn(told)).toEqual(listedIn(wanted));
      expect(told["virtual-size"]).toBe(wanted["virtual-size"]);
      expect(run("qemu-img", "compare", ours, theirs).output).toContain("identical");
      runWell("qemu-img", "check", "-q", ours);
      for (const { name } of listedIn(told)) {
        expect(await contentOf(ours, name)).toEqual(await contentOf(theirs, name));
      }
    }
    expect(redoLogs(this.bench)).toEqual([]);
  }
}

interface Listed {
  readonly name: string;
}

function listedIn(info: ReturnType<typeof infoOf>): readonly Listed[] {
  const { snapshots = [] } = info as { snapshots?: (Listed & Record<string, unknown>)[] };
  return snapshots.map((one) => ({ ...one, "date-sec": 0, "date-nsec": 0 }));
}

async function contentOf(image: string, snapshot: string): Promise<string> {
  const options = {
    format: "qcow2",
    gate: { allowPaths: ["/"], currentFolder: "/" },
    snapshot: { name: snapshot },
  } as const;
  const opened = await openImage(makeNodeStorage(), image, options);
  const bytes = new Uint8Array(opened.virtualSizeBytes);
  await opened.read(bytes, guestOffset(0));
  await opened.close();
  return createHash("sha256").update(bytes).digest("hex");
}

describe("internal snapshots of a group", () => {
  qemu.test("are what qemu-img makes of copies: taken, gone back to, and taken away", async () => {
    const pair = await new Pair().make();
    await pair.change("create", "one");
    pair.write("write -P 1 100k 300k", "discard 2M 512k", "write -z 3k 8k");
    await pair.change("create", "two");
    pair.write("write -P 2 0 1200k");
    await pair.judge();
    await pair.change("apply", "one");
    pair.write("write -P 3 50k 64k");
    await pair.change("delete", "one");
    await pair.judge();
    await pair.change("create", "three");
    await pair.change("apply", "two");
    await pair.change("delete", "two");
    await pair.judge();
    await pair.change("delete", "three");
    pair.write("write -P 4 0 3M");
    await pair.judge();
  });

  qemu.test(
    "of other sizes are gone back to with their size: snapshot, resize, delete the first",
    async () => {
      const bench = new Workbench(makeFolder());
      const image = makeImage(bench.root, "small");
      await bench.add("vda", image);
      copyFileSync(image, bench.at("before.qcow2"));
      const resized = (sizeBytes: number) =>
        ({ kind: "resize", device: "vda", sizeBytes, isRelative: false, shrink: true, force: true }) as const;
      await bench.run(request("create", ["vda"], "one"));
      await bench.run(resized(40 * M));
      writeGuest(image, "qcow2", "write -P 5 20M 64k", "write -P 6 2M 64k");
      await bench.run(request("create", ["vda"], "two"));
      await bench.run(request("apply", ["vda"], "one"));
      expect(run("qemu-img", "compare", "-s", image, bench.at("before.qcow2")).output).toContain("identical");
      expect((await bench.devices())[0]).toMatchObject({ virtualSizeBytes: 3 * M, state: "ok" });
      await bench.run(request("delete", ["vda"], "one"));
      await bench.run(request("apply", ["vda"], "two"));
      expect(infoOf(image)["virtual-size"]).toBe(40 * M);
      writeGuest(image, "qcow2", "read -P 5 20M 64k", "read -P 6 2M 64k");
      await bench.run(resized(512 * K));
      await bench.run(request("apply", ["vda"], "two"));
      writeGuest(image, "qcow2", "read -P 5 20M 64k", "read -P 7 4k 100k");
      runWell("qemu-img", "check", "-q", image);
    },
  );

  qemu.test("keep their VM state, which no larger disk shows", async () => {
    const bench = new Workbench(makeFolder());
    const image = makeImage(bench.root, "plain");
    writeGuest(image, "qcow2", "write -b -P 66 0 4M");
    runWell("qemu-img", "snapshot", "-c", "saved", image);
    setVmState(image, 4 * M);
    await bench.add("vda", image);
    const [, told] = [await bench.run(request("apply", ["vda"], "saved")), infoOf(image)];
    expect(told["snapshots"]).toMatchObject([{ "vm-state-size": 4 * M }]);
    await bench.run({
      kind: "resize",
      device: "vda",
      sizeBytes: 2 ** 31,
      isRelative: false,
      shrink: false,
      force: false,
    });
    expect(run("qemu-io", "-c", "read -P 0 3M 600M", image).output).not.toContain("failed");
    await bench.run(request("create", ["vda"], "later"));
    await bench.run(request("apply", ["vda"], "saved"));
    runWell("qemu-img", "check", "-q", image);
    // QEMU's own way back brings it along.
    runWell("qemu-img", "snapshot", "-a", "saved", image);
    expect(run("qemu-io", "-c", "read -b -P 66 0 4M", image).output).not.toContain("failed");
    expect((await bench.run(request("delete", ["vda"], "saved"))).actions[0]?.notes.join()).toContain(
      "VM state",
    );
    runWell("qemu-img", "check", "-q", image);
  });

  test("change no image before the commit, and none at all where they are taken back", async () => {
    const bench = await makeWorkbench();
    const before = ["a.qcow2", "c.qcow2"].map((name) => stateOf(bench.at(name)));
    const id = await bench.begin();
    await bench.run(request("create", ["vda", "vdc"], "one"));
    await bench.run(request("create", ["vda"], "two"));
    await bench.savepoint("here", id);
    await bench.run(request("delete", ["vda"], "one"));
    await bench.rollbackTo("here", id);
    expect(["a.qcow2", "c.qcow2"].map((name) => stateOf(bench.at(name)))).toEqual(before);
    await bench.abort(id);
    expect(["a.qcow2", "c.qcow2"].map((name) => stateOf(bench.at(name)))).toEqual(before);
    expect(redoLogs(bench)).toEqual([]);
    await bench.run(request("create", ["vda", "vdc"], "one"));
    const found = await listInternalSnapshots(await bench.session(), ["vdc", "vda"]);
    expect(found.map(({ device, snapshots }) => [device, snapshots.map(({ name }) => name)])).toEqual([
      ["vdc", ["one"]],
      ["vda", ["one"]],
    ]);
  });

  qemu.test("leave a mirror in sync where they are taken, and none where they are gone back to", async () => {
    const bench = await makeWorkbench();
    await bench.run(request("create", ["vda"], "one"));
    writeGuest(bench.at("a.qcow2"), "qcow2", "write -P 9 0 64k");
    await mirror(bench, { vda: "m.qcow2" });
    await bench.run(request("create", ["vda"], "two"));
    expect(await mirror(bench, { vda: undefined })).toMatchObject({ changed: false });
    await bench.run(request("apply", ["vda"], "one"));
    await mirror(bench, { vda: undefined });
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });
});

/** As if a guest had been saved with it. */
function setVmState(image: string, sizeBytes: number): void {
  const bytes = readFileSync(image);
  const at = Number(bytes.readBigUInt64BE(64));
  bytes.writeUInt32BE(sizeBytes, at + 32);
  bytes.writeBigUInt64BE(BigInt(sizeBytes), at + 40);
  new Workbench(path.dirname(image)).makeFile(image, bytes);
}

describe("internal snapshots are refused, and nothing changed,", () => {
  async function refused(
    bench: Workbench,
    one: InternalSnapshotRequest,
    expected: { code: string; message: RegExp },
  ): Promise<void> {
    const before = ["a.qcow2", "b.raw", "c.qcow2"].map((name) => stateOf(bench.at(name)));
    expect(await failureOf(async () => await bench.run(one))).toMatchObject({
      code: expected.code,
      changed: false,
      message: expect.stringMatching(expected.message) as string,
    });
    expect(["a.qcow2", "b.raw", "c.qcow2"].map((name) => stateOf(bench.at(name)))).toEqual(before);
    expect(redoLogs(bench)).toEqual([]);
  }

  test("for all devices where one is raw, has the name, or has it not", async () => {
    const bench = await makeWorkbench();
    await refused(bench, request("create", ["vda", "vdb"], "one"), { code: "E_UNSUPPORTED", message: /raw/ });
    await bench.run(request("create", ["vdc"], "one"));
    await refused(bench, request("create", ["vda", "vdc"], "one"), { code: "E_EXISTS", message: /already/ });
    await refused(bench, request("apply", ["vdc", "vda"], "one"), {
      code: "E_NOT_FOUND",
      message: /no internal/,
    });
    await refused(bench, request("create", ["vda", "vda"], "x"), { code: "E_DUPLICATE", message: /twice/ });
    await refused(bench, request("create", ["vda"], "n".repeat(256)), {
      code: "E_USAGE",
      message: /no internal/,
    });
    await bench.run(request("create", ["vdc"], "1"));
    await refused(bench, request("delete", ["vdc"], "1"), { code: "E_USAGE", message: /one .* or another/ });
  });

  qemu.test("where a bitmap would not know of it, or an overlay stands on the image", async () => {
    const bench = await makeWorkbench();
    await bench.run(request("create", ["vda", "vdc"], "one"));
    runWell("qemu-img", "bitmap", "--add", bench.at("a.qcow2"), "b0");
    const apply = request("apply", ["vdc", "vda"], "one");
    await refused(bench, apply, { code: "E_REFUSED", message: /Device has active dirty bitmaps/ });
    expect(run("qemu-img", "snapshot", "-a", "one", bench.at("a.qcow2")).output).toContain("dirty bitmaps");
    await bench.run(request("create", ["vda"], "two"));
    runWell("qemu-img", "check", "-q", bench.at("a.qcow2"));
    runWell("qemu-img", "bitmap", "--remove", bench.at("a.qcow2"), "b0");
    createOverlay(bench.at("over.qcow2"), { name: "c.qcow2", format: "qcow2" });
    await refused(bench, apply, { code: "E_IN_USE", message: /over\.qcow2' stands on it/ });
  });

  qemu.test("where the refcounts have no room, or a data file holds the data", async () => {
    const bench = await makeWorkbench();
    const narrow = bench.at("narrow.qcow2");
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", "refcount_bits=1", narrow, "1M");
    writeGuest(narrow, "qcow2", "write 0 64k");
    await bench.add("narrow", narrow);
    await refused(bench, request("create", ["vda", "narrow"], "one"), {
      code: "E_UNSUPPORTED",
      message: /1 bits can't count/,
    });
    const data = bench.at("data.qcow2");
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", `data_file=${bench.at("d.raw")}`, data, "1M");
    await bench.add("data", data);
    const create = request("create", ["data"], "one");
    await refused(bench, create, { code: "E_UNSUPPORTED", message: /external data file/ });
  });
});
