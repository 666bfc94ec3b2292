// Repaired devices: what qemu-img check -r makes of copies, for all devices of a transaction or for none; and what else is
// damaged is left alone.

import { copyFileSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { RepairRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell } from "../../helpers/qemu-programs.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { atNthAfterMark, infoOf, redoLogs, stateOf } from "../../helpers/transaction/mirroring.ts";
import { makeWorkbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");
const request = (devices: readonly string[], scope: RepairRequest["scope"] = "all"): RepairRequest => ({
  kind: "repair",
  devices,
  scope,
});

const OFFSET = 0x00ff_ffff_ffff_fe00n;

/** An image's bytes, and where its structures lie. */
class Tampered {
  /** With a cluster that nothing uses at its end, the 20th. */
  readonly bytes = Buffer.alloc(21 * 4096);
  readonly #file: string;

  constructor(file: string) {
    this.#file = file;
    readFileSync(file).copy(this.bytes);
  }

  get l2(): number {
    return Number(this.bytes.readBigUInt64BE(Number(this.bytes.readBigUInt64BE(40))) & OFFSET);
  }

  /** Of the nth cluster of the file. */
  setCount(cluster: number, count: number): this {
    const block = Number(this.bytes.readBigUInt64BE(Number(this.bytes.readBigUInt64BE(48))));
    this.bytes.writeUInt16BE(count, block + cluster * 2);
    return this;
  }

  countOf(cluster: number): number {
    const block = Number(this.bytes.readBigUInt64BE(Number(this.bytes.readBigUInt64BE(48))));
    return this.bytes.readUInt16BE(block + cluster * 2);
  }

  /** The cluster that a guest's cluster is in. */
  clusterOf(guest: number): number {
    return Number(this.bytes.readBigUInt64BE(this.l2 + guest * 8) & OFFSET) / 4096;
  }

  toggleCopied(guest: number): this {
    this.bytes[this.l2 + guest * 8] = 0x80 ^ (this.bytes[this.l2 + guest * 8] ?? 0);
    return this;
  }

  /** Entry of the refcount table. */
  setBlock(index: number, entry: bigint): this {
    this.bytes.writeBigUInt64BE(entry, Number(this.bytes.readBigUInt64BE(48)) + index * 8);
    return this;
  }

  /** Where the header says that the refcount table is. */
  setTable(offset: number | "L1 table", clusters = 1): this {
    const place = offset === "L1 table" ? this.bytes.readBigUInt64BE(40) : BigInt(offset);
    this.bytes.writeBigUInt64BE(place, 48);
    this.bytes.writeUInt32BE(clusters, 56);
    return this;
  }

  mark(bits: number): this {
    this.bytes[79] = bits | (this.bytes[79] ?? 0);
    return this;
  }

  write(): void {
    writeFileSync(this.#file, this.bytes);
  }
}

function verdictOf(image: string): unknown {
  return run("qemu-img", "check", image).status;
}

const [DIRTY, CORRUPT] = [1, 2];

/** The image c.qcow2 has the guest's clusters 0, 3 and 40. */
const DAMAGES: Readonly<Record<string, (image: Tampered) => Tampered>> = {
  "a leak": (image) => image.setCount(20, 1),
  "a count that is too high": (image) => image.setCount(image.clusterOf(3), 5),
  "a cluster that nobody counted": (image) => image.setCount(image.clusterOf(40), 0),
  "a flag that lacks, and one too many": (image) => image.toggleCopied(0).setCount(image.clusterOf(3), 2),
  "a block that lies on a table": (image) => image.setBlock(0, BigInt(image.l2)),
  "a block that is not there": (image) => image.setBlock(0, 0n),
  "a block that the file does not have": (image) => image.setBlock(0, 1n << 30n),
  "a block in two places": (image) =>
    image.setBlock(1, image.bytes.readBigUInt64BE(Number(image.bytes.readBigUInt64BE(48)))),
  "a block off its place, and a flag that lacks": (image) => image.setBlock(0, 0x4200n).toggleCopied(0),
  "no refcount table": (image) => image.setTable(0, 0),
  "a refcount table on the header": (image) => image.setTable(0),
  "a refcount table on the L1 table": (image) => image.setTable("L1 table").toggleCopied(3),
  "a refcount table that the file does not have": (image) => image.setTable(2 ** 30, 2),
  "all of it, and the marks of it": (image) =>
    image
      .setCount(20, 7)
      .setCount(image.clusterOf(40), 0)
      .setCount(image.clusterOf(3), 2)
      .toggleCopied(0)
      .mark(DIRTY | CORRUPT),
};

async function makeDamaged(damage: string) {
  const bench = await makeWorkbench();
  const image = bench.at("c.qcow2");
  const content = await bench.content();
  DAMAGES[damage]!(new Tampered(image)).write();
  copyFileSync(image, bench.at("theirs.qcow2"));
  return { bench, image, content };
}

describe("repaired devices", () => {
  qemu.test.each(
    Object.keys(DAMAGES).flatMap((damage) => [[damage, "all"] as const, [damage, "leaks"] as const]),
  )("have the verdict of qemu-img check -r: %s, %s", async (damage, scope) => {
    const { bench, image, content } = await makeDamaged(damage);
    const before = [stateOf(image), stateOf(bench.at("a.qcow2"))];
    const planned = await bench.run(request(["vda", "vdc"], scope), { dryRun: true });
    expect([stateOf(image), stateOf(bench.at("a.qcow2"))]).toEqual(before);
    const done = await bench.run(request(["vda", "vdc"], scope));
    expect(done.actions.map(({ notes }) => notes)).toEqual(planned.actions.map(({ notes }) => notes));
    if (verdictOf(image) === 2) {
      expect(done.actions[1]?.notes.at(-1)).toMatch(/errors? stays?, which -r all repairs$/);
    }
    run("qemu-img", "check", "-r", scope, bench.at("theirs.qcow2"));
    // A dirty image is repaired whole by QEMU, when it opens it to repair its leaks.
    const isWhole = scope === "all" || !damage.startsWith("all of it");
    // QEMU's new blocks may leave the old ones as leaks.
    if (scope === "all") expect([0, 3]).toContain(verdictOf(bench.at("theirs.qcow2")));
    else if (isWhole) expect(verdictOf(image)).toBe(verdictOf(bench.at("theirs.qcow2")));
    if (scope === "all") expect(verdictOf(image)).toBe(0);
    if (isWhole) expect(await bench.content()).toEqual(content);
    expect(stateOf(bench.at("a.qcow2"))).toEqual(before[1]);
    expect(redoLogs(bench)).toEqual([]);
    const again = await bench.run(request(["vda", "vdc"], scope));
    if (scope === "all") expect(again).toMatchObject({ changed: false });
  });

  qemu.test("list each change before, and have none where they are taken back", async () => {
    const { bench, image } = await makeDamaged("all of it, and the marks of it");
    const before = stateOf(image);
    const id = await bench.begin();
    const { actions } = await bench.run(request(["vdc"]));
    expect(actions[0]?.notes).toEqual([
      "the refcount of the cluster at 0x5000 becomes 1, from 2",
      "the refcount of the cluster at 0x6000 becomes 1, from 0",
      "the refcount of the cluster at 0x14000 becomes 0, from 7",
      "a COPIED flag is set right",
      "the image is not marked dirty any more",
      "the image is not marked corrupt any more",
    ]);
    expect(stateOf(image)).toEqual(before);
    await bench.abort(id);
    expect(stateOf(image)).toEqual(before);
    const again = await bench.begin();
    await bench.run(request(["vdc"]));
    await bench.run({
      kind: "bitmap-add",
      devices: ["vdc"],
      bitmap: "b0",
      isDisabled: false,
      sources: [],
    });
    await bench.commit(again);
    runWell("qemu-img", "check", "-q", image);
  });

  qemu.test.each(["all of it, and the marks of it", "a block that is not there", "no refcount table"])(
    "are taken back by the file that was kept, to the byte: %s",
    async (damage) => {
      const { bench, image } = await makeDamaged(damage);
      const [before, undo] = [readFileSync(image), bench.at("vdc.undo")];
      const { actions } = await bench.run({ ...request(["vdc"]), keepUndo: undo });
      expect(actions[0]?.notes.at(-1)).toBe(
        `\`imgtx repair --undo ${undo} vdc\` takes it back, until the image changes`,
      );
      expect(verdictOf(image)).toBe(0);
      const back = { kind: "repair-undo", device: "vdc", file: undo } as const;
      const id = await bench.begin();
      await bench.run(back);
      await bench.abort(id);
      expect(verdictOf(image)).toBe(0);
      await bench.run(back);
      expect(readFileSync(image).equals(before)).toBe(true);
    },
  );

  qemu.test("get a new refcount table whole, cut off or not; until then QEMU is kept out", async () => {
    let finished = 0;
    for (const [call, nth] of [
      ["file.write", 1],
      ["file.write", 2],
      ["file.flush", 1],
      ["file.write", 3],
    ] as const) {
      const { bench, image, content } = await makeDamaged("a refcount table on the L1 table");
      const dying = bench.through(killAt(makeNodeStorage(), atNthAfterMark(call, "c.qcow2", nth)));
      const isDead = await dying.run(request(["vdc"])).then(
        () => false,
        (error: unknown) => String(error).includes("killed"),
      );
      if (isDead) expect(run("qemu-img", "check", image).output).toContain("Unsupported qcow2 feature");
      await bench.run(request(["vda"]));
      expect([verdictOf(image), redoLogs(bench)]).toEqual([0, []]);
      expect(await bench.content()).toEqual(content);
      finished += isDead ? 1 : 0;
    }
    expect(finished).toBeGreaterThan(2);
  });

  qemu.test("are not taken back where the image or the file is another one by then", async () => {
    const { bench, image } = await makeDamaged("all of it, and the marks of it");
    const undo = bench.at("vdc.undo");
    const [id, before] = [await bench.begin(), stateOf(image)];
    await bench.run({ ...request(["vdc"]), keepUndo: undo });
    await bench.abort(id);
    expect([stateOf(image), existsSync(undo)]).toEqual([before, false]);
    await bench.run({ ...request(["vdc"]), keepUndo: undo });
    const attempt = async (file: string): Promise<unknown> =>
      await failureOf(async () => await bench.run({ kind: "repair-undo", device: "vdc", file }));
    const kept = readFileSync(undo);
    const damaged = Buffer.from(kept);
    damaged[200] = 1 ^ (damaged[200] ?? 0);
    for (const [bytes, message] of [
      [damaged, /it is damaged$/],
      [kept.subarray(0, kept.length - 1), /it is cut off$/],
      [readFileSync(image), /it is no file of --keep-undo$/],
    ] as const) {
      writeFileSync(bench.at("other.undo"), bytes);
      const refused = {
        code: "E_CORRUPT",
        changed: false,
        message: expect.stringMatching(message) as string,
      };
      expect(await attempt(bench.at("other.undo"))).toMatchObject(refused);
    }
    // What a guest writes in place may stay; what it allocates would be lost.
    runWell("qemu-io", "-c", "write -P 9 0 4k", image);
    runWell("qemu-io", "-c", "write -P 9 80k 4k", image);
    expect(await attempt(undo)).toMatchObject({
      code: "E_CHANGED",
      changed: false,
      message: "the image is not what the repair left: it was changed since, or it is another",
    });
    expect(
      await failureOf(async () => await bench.run({ ...request(["vdc"]), keepUndo: undo })),
    ).toMatchObject({
      code: "E_EXISTS",
    });
  });

  qemu.test("keep what looks lost where an entry can't be followed, and QEMU gives it away", async () => {
    const bench = await makeWorkbench();
    const image = bench.at("c.qcow2");
    const tampered = new Tampered(image);
    const [lost, low] = [tampered.clusterOf(3), tampered.clusterOf(40)];
    // The guest's cluster 3 is still in the file, and nothing leads there.
    tampered.bytes[tampered.l2 + 3 * 8 + 3] = 0x7f;
    tampered.setCount(low, 0).write();
    const contentAt = (file: string, cluster: number): Buffer =>
      readFileSync(file).subarray(cluster * 4096, (cluster + 1) * 4096);
    const content = contentAt(image, lost);
    const theirs = bench.at("theirs.qcow2");
    copyFileSync(image, theirs);
    expect(run("qemu-img", "check", "-r", "all", theirs).status).toBe(2);
    const { actions } = await bench.run(request(["vda", "vdc"]));
    expect(actions[1]?.notes).toEqual([
      `the refcount of the cluster at 0x${(low * 4096).toString(16)} becomes 1, from 0`,
      "what can't be true stays, and with it all that looks lost: something refers to what the file does not have",
    ]);
    expect([image, theirs].map((one) => contentAt(one, lost).equals(content))).toEqual([true, false]);
    expect([lost, low].map((cluster) => new Tampered(image).countOf(cluster))).toEqual([1, 1]);
    const before = stateOf(image);
    expect(await bench.run(request(["vdc"], "leaks"))).toMatchObject({ changed: false });
    new Tampered(image).setBlock(0, 0n).write();
    expect(await failureOf(async () => await bench.run(request(["vdc"])))).toMatchObject({
      code: "E_UNSUPPORTED",
      changed: false,
      message: expect.stringMatching(/^its refcounts are lost, and so may be clusters/) as string,
    });
    expect(stateOf(image)).not.toEqual(before);
  });

  qemu.test("keep a snapshot whose table can't be true, and QEMU gives its clusters away", async () => {
    const bench = await makeWorkbench();
    const image = bench.at("c.qcow2");
    runWell("qemu-img", "snapshot", "-c", "s0", image);
    runWell("qemu-io", "-c", "write -P 7 0 192k", image);
    const bytes = readFileSync(image);
    bytes.writeUInt32BE(0xffff_ffff, Number(bytes.readBigUInt64BE(64)) + 8);
    writeFileSync(image, bytes);
    const theirs = bench.at("theirs.qcow2");
    copyFileSync(image, theirs);
    run("qemu-img", "check", "-r", "all", theirs);
    expect(await bench.run(request(["vdc"]))).toMatchObject({ changed: false });
    for (const one of [image, theirs]) {
      const there = readFileSync(one);
      there.writeUInt32BE(1, Number(there.readBigUInt64BE(64)) + 8);
      writeFileSync(one, there);
    }
    expect([verdictOf(image), verdictOf(theirs)]).toEqual([0, 2]);
  });

  qemu.test("give an entry of the snapshot table the size of its disk, as QEMU does", async () => {
    const bench = await makeWorkbench();
    const image = bench.at("c.qcow2");
    runWell("qemu-img", "snapshot", "-c", "s0", image);
    const bytes = readFileSync(image);
    const table = Number(bytes.readBigUInt64BE(64));
    // Version 3 asks for 16 bytes of extra data.
    bytes.writeUInt32BE(0, table + 36);
    bytes.copyWithin(table + 40, table + 64, table + 128);
    writeFileSync(image, bytes);
    copyFileSync(image, bench.at("theirs.qcow2"));
    expect((await bench.run(request(["vdc"]))).actions[0]?.notes).toEqual([
      "an entry of the snapshot table gets the size of its disk",
    ]);
    runWell("qemu-img", "check", "-r", "all", bench.at("theirs.qcow2"));
    expect(verdictOf(image)).toBe(0);
    const [ours, others] = [image, bench.at("theirs.qcow2")].map((one) => infoOf(one)["snapshots"]);
    expect(ours).toEqual(others);
  });

  qemu.test("set the flags of a data file's clusters right, as QEMU does", async () => {
    const bench = await makeWorkbench();
    const image = bench.at("d.qcow2");
    const options = `data_file=${bench.at("d.raw")},cluster_size=4k`;
    runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, image, "192k");
    runWell("qemu-io", "-c", "write -P 7 8k 8k", image);
    new Tampered(image).toggleCopied(2).write();
    await bench.add("vdd", image);
    expect(verdictOf(image)).toBe(2);
    expect((await bench.run(request(["vdd"]))).actions[0]?.notes).toEqual(["a COPIED flag is set right"]);
    expect(verdictOf(image)).toBe(0);
    runWell("qemu-io", "-c", "read -P 7 8k 8k", image);
  });

  test("are none where one device is raw", async () => {
    const { bench, image } = await makeDamaged("a leak");
    const before = stateOf(image);
    expect(await failureOf(async () => await bench.run(request(["vda", "vdc", "vdb"])))).toMatchObject({
      code: "E_UNSUPPORTED",
      changed: false,
      message: "This image format does not support checks",
    });
    expect(stateOf(image)).toEqual(before);
  });
});
