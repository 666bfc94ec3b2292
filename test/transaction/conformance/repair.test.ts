// Repaired devices: what qemu-img check -r makes of copies, for all devices of a transaction or for none; and what else is
// damaged is left alone.

import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { RepairRequest } from "../../../src/transaction/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { run, runWell } from "../../helpers/qemu-programs.ts";
import { redoLogs, stateOf } from "../../helpers/transaction/mirroring.ts";
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

  /** The cluster that a guest's cluster is in. */
  clusterOf(guest: number): number {
    return Number(this.bytes.readBigUInt64BE(this.l2 + guest * 8) & OFFSET) / 4096;
  }

  toggleCopied(guest: number): this {
    this.bytes[this.l2 + guest * 8] = 0x80 ^ (this.bytes[this.l2 + guest * 8] ?? 0);
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
    if (isWhole) expect(verdictOf(image)).toBe(verdictOf(bench.at("theirs.qcow2")));
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

  test("are none where more is damaged, or one is raw", async () => {
    const bench = await makeWorkbench();
    const image = bench.at("c.qcow2");
    const tampered = new Tampered(image);
    tampered.bytes[tampered.l2 + 3 * 8 + 7] = 2;
    tampered.setCount(20, 1).write();
    const before = stateOf(image);
    for (const [devices, message] of [
      [["vda", "vdc"], /reserved bits set/],
      [["vda", "vdb"], /does not support checks/],
    ] as const) {
      expect(await failureOf(async () => await bench.run(request(devices)))).toMatchObject({
        code: "E_UNSUPPORTED",
        changed: false,
        message: expect.stringMatching(message) as string,
      });
    }
    expect(stateOf(image)).toEqual(before);
  });
});
