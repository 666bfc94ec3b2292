// A check where clusters lie side by side, which counts many of them at once: against qemu-img check.

import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { makeFolder, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";
import { oracle } from "../../../helpers/oracles.ts";

const qemu = oracle("qemu-img");

/** What is done to a full image whose L2 tables lead to neighbours: which bits, and how. */
const AMID_NEIGHBOURS: Readonly<Record<string, (image: FullImage) => void>> = {
  "counts that are too low, and too high": (image) =>
    [0, 2, 3].forEach((count, at) => image.count(40 + at, count)),
  "flags that lack, and one that is wrong": (image) => {
    image.entry(70, (word) => word & ~(1n << 63n));
    image.entry(96, (word) => word & ~(1n << 63n));
    image.count(81, 2);
  },
  "one that leads elsewhere, to what is in use": (image) => image.entry(60, () => image.entry(131)),
  "a table that leads where another one does": (image) => {
    for (let at = 0; at < 64; at += 1) image.entry(128 + at, () => image.entry(at));
  },
  "the end of the file": (image) => image.cut(100),
  "holes, and one that is zeros besides": (image) => {
    image.entry(48, () => 0n);
    image.entry(33, (word) => word | 1n);
    image.entry(112, (word) => word | 2n);
  },
};

class FullImage {
  readonly #path: string;
  #bytes: Buffer;
  readonly #clusterBytes: number;

  constructor(path: string) {
    this.#path = path;
    this.#bytes = readFileSync(path);
    this.#clusterBytes = 2 ** this.#bytes.readUInt32BE(20);
  }

  /** The entry of a guest's cluster, or another word in its place. */
  entry(cluster: number, change: (word: bigint) => bigint = (word) => word): bigint {
    const perTable = this.#clusterBytes / 8;
    const l1 = Number(this.#bytes.readBigUInt64BE(40)) + Math.floor(cluster / perTable) * 8;
    const l2 = Number(this.#bytes.readBigUInt64BE(l1) & 0x00ff_ffff_ffff_fe00n);
    const at = l2 + (cluster % perTable) * 8;
    this.#bytes.writeBigUInt64BE(change(this.#bytes.readBigUInt64BE(at)), at);
    return this.#bytes.readBigUInt64BE(at);
  }

  /** Stores another count, of 16 bits, for where a guest's cluster is. */
  count(cluster: number, count: number): void {
    const at = this.#placeOf(cluster) / this.#clusterBytes;
    const perBlock = this.#clusterBytes / 2;
    const table = Number(this.#bytes.readBigUInt64BE(48)) + Math.floor(at / perBlock) * 8;
    this.#bytes.writeUInt16BE(count, Number(this.#bytes.readBigUInt64BE(table)) + (at % perBlock) * 2);
  }

  /** Before where a guest's cluster is. */
  cut(cluster: number): void {
    this.#bytes = this.#bytes.subarray(0, this.#placeOf(cluster));
  }

  write(): void {
    writeFileSync(this.#path, this.#bytes);
  }

  #placeOf(cluster: number): number {
    return Number(this.entry(cluster) & 0x00ff_ffff_ffff_fe00n);
  }
}

describe("check agrees with qemu-img check where clusters lie side by side, but for", () => {
  qemu.test.each(Object.entries(AMID_NEIGHBOURS))("%s", async (_what, damageIt) => {
    const folder = makeFolder();
    shell(folder, "qemu-img create -q -f qcow2 -o cluster_size=1k,preallocation=metadata disk.qcow2 256k");
    const image = new FullImage(`${folder}/disk.qcow2`);
    damageIt(image);
    image.write();
    const words = ["check", "disk.qcow2"];
    const [theirs, ours] = [runQemu(folder, words), await runImg(folder, words)];
    expect(theirs.stdout).toContain("allocated");
    expect({ status: ours.status, stdout: ours.stdout }).toEqual({
      status: theirs.status,
      stdout: theirs.stdout,
    });
  });
});
