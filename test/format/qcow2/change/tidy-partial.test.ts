// A writer that was cut off: what it counted too much is given back before the image is written to once more.

import { readFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { checkQcow2 } from "../../../../src/format/qcow2/check/check.ts";
import { tidyCutOff } from "../../../../src/format/qcow2/change/tidy-partial.ts";
import { openForWriting } from "../../../../src/format/open/open-for-writing.ts";
import { makeNodeStorage } from "../../../../src/storage/index.ts";
import { guestOffset } from "../../../../src/units/index.ts";
import { command } from "../../../helpers/loop-disk.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { sampleQcow2 } from "../../../helpers/sample-image.ts";
import { makeFolder } from "../../../helpers/temporary-folder.ts";

const CLUSTER = 65_536;
const storage = makeNodeStorage();
const gate = { allowPaths: ["/"], currentFolder: "/" };

/** An image in which these clusters are counted, and used by nothing. Its file ends after six. */
function imageCounting(clusters: readonly number[]): string {
  const path = `${makeFolder()}/image.qcow2`;
  const options = { virtualSizeBytes: 4 * CLUSTER, dataClusters: [1], seed: 1, clusterBits: 16 };
  const bytes = Buffer.from(sampleQcow2(options));
  const block = Number(bytes.readBigUInt64BE(CLUSTER));
  for (const cluster of clusters) bytes.writeUInt16BE(1, block + 2 * cluster);
  writeFileSync(path, bytes);
  return path;
}

async function tidy(path: string, keepsBitmaps = false): Promise<void> {
  const file = await storage.openFile(path, "read");
  await tidyCutOff(storage, file, { gate, signal: undefined, isFenced: false, keepsBitmaps });
  await file.close();
}

async function writeAndCheck(path: string): Promise<{ readonly leaks: number; readonly clusters: number }> {
  const image = await openForWriting(storage, path, { format: "qcow2", gate });
  for (const cluster of [0, 2, 3]) {
    await image.write(new Uint8Array(CLUSTER).fill(7), guestOffset(cluster * CLUSTER));
  }
  await image.close();
  const file = await storage.openFile(path, "read");
  const { leaks, corruptions } = await checkQcow2(file, () => undefined);
  expect(corruptions).toBe(0);
  const clusters = (await file.stat()).sizeBytes / CLUSTER;
  await file.close();
  return { leaks, clusters };
}

test("what it counted after the end of the file is given back, as what it counted before that", async () => {
  const path = imageCounting([6, 8]);
  await tidy(path);
  expect(await writeAndCheck(path)).toEqual({ leaks: 0, clusters: 9 });
});

test("without that it leaks as soon as the file has grown over it", async () => {
  expect(await writeAndCheck(imageCounting([6, 8]))).toEqual({ leaks: 2, clusters: 11 });
});

test("what is counted too far away for a crash makes no file larger, and a sound image stays as it is", async () => {
  for (const counted of [[20_000], []]) {
    const path = imageCounting(counted);
    const before = readFileSync(path);
    await tidy(path);
    expect(readFileSync(path).equals(before)).toBe(true);
  }
});

oracle("qemu-img").test(
  "bitmaps count on where whoever goes on sees to them, and their clusters are no leaks",
  async () => {
    const path = `${makeFolder()}/image.qcow2`;
    command("qemu-img", "create", "-q", "-f", "qcow2", path, "1M");
    command("qemu-img", "bitmap", "--add", path, "night");
    // A cluster behind its last one is counted, and used by nothing.
    const leak = (): void => {
      const bytes = readFileSync(path);
      const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))));
      bytes.writeUInt16BE(1, block + 2 * Math.ceil(bytes.length / CLUSTER));
      writeFileSync(path, bytes);
    };
    const autoclear = (): bigint => readFileSync(path).readBigUInt64BE(88);
    leak();
    await tidy(path, true);
    command("qemu-img", "check", "-q", path);
    expect(autoclear()).toBe(1n);
    leak();
    await tidy(path);
    expect(autoclear()).toBe(0n);
  },
);
