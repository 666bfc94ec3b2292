import { guestOffset, hostOffset } from "../../../../src/units/index.ts";
import { describe, expect, test } from "vitest";
import { compareImages } from "../../../../src/format/copy/compare.ts";
import { findDifference, findNonZero } from "../../../../src/format/read/zero-blocks.ts";
import type { Extent, Image } from "../../../../src/format/image.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { makeFolder, runBoth, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = `
qemu-img create -q -f qcow2 a.qcow2 8M
qemu-io -f qcow2 -c 'write -P 5 0 1M' -c 'write -P 6 3M 64k' -c 'write -z 5M 1M' a.qcow2 > io
qemu-img convert -O qcow2 -c a.qcow2 compressed.qcow2
qemu-img convert -O qcow2 -o cluster_size=4k,extended_l2=off a.qcow2 small.qcow2
qemu-img convert -O raw a.qcow2 a.raw
cp a.raw grown.raw; truncate -s 9M grown.raw
cp grown.raw tail.raw; printf x | dd of=tail.raw bs=1 seek=9000000 conv=notrunc status=none
cp a.raw late.raw; printf x | dd of=late.raw bs=1 seek=3146000 conv=notrunc status=none
cp a.raw inzero.raw; printf x | dd of=inzero.raw bs=1 seek=5300000 conv=notrunc status=none
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 over.qcow2
qemu-img create -q -f qcow2 -b a.qcow2 -F qcow2 over2.qcow2
qemu-io -f qcow2 -c 'write -P 7 2M 64k' over2.qcow2 > io
qemu-img create -q -f qcow2 empty.qcow2 8M
qemu-img create -q -f qcow2 -b none.qcow2 -F qcow2 -u orphan.qcow2 8M
rm io
`;

describe("compare prints and ends as qemu-img does", () => {
  qemu.test.each([
    "a.qcow2 a.qcow2",
    "a.qcow2 compressed.qcow2",
    "a.qcow2 small.qcow2",
    "a.qcow2 a.raw",
    "a.raw a.qcow2",
    "-f raw -F qcow2 a.raw a.qcow2",
    "a.raw grown.raw",
    "grown.raw a.qcow2",
    "a.raw tail.raw",
    "a.qcow2 late.raw",
    "late.raw compressed.qcow2",
    "a.qcow2 inzero.raw",
    "inzero.raw a.raw",
    "a.qcow2 over.qcow2",
    "over.qcow2 over2.qcow2",
    "a.qcow2 empty.qcow2",
    "empty.qcow2 inzero.raw",
    "-s a.qcow2 a.qcow2",
    "-s a.qcow2 over.qcow2",
    "-s a.qcow2 empty.qcow2",
    "-s empty.qcow2 a.raw",
    "-s a.raw grown.raw",
    "-s a.qcow2 compressed.qcow2",
    "-q a.qcow2 empty.qcow2",
    "-q a.qcow2 over.qcow2",
    "-T none -U a.qcow2 over.qcow2",
    "--image-opts driver=qcow2,file.filename=a.qcow2 driver=raw,file.filename=a.raw",
    "--image-opts driver=qcow2,file.filename=over2.qcow2,backing.driver=qcow2,backing.file.filename=empty.qcow2 file.filename=a.raw",
    "a.qcow2",
    "a.qcow2 a.raw empty.qcow2",
    "none.qcow2 a.raw",
    "a.raw none",
    "orphan.qcow2 a.raw",
    "-f qcow2 a.raw a.qcow2",
    "-f foo a.raw a.qcow2",
    "-T foo a.raw a.qcow2",
    "--image-opts a.qcow2 a.raw",
    "-x a.raw a.qcow2",
  ])("compare %s", async (line) => {
    const { qemu: theirs, ours } = await runBoth(IMAGES, ["compare", ...line.split(" ")]);
    expect(ours).toEqual(theirs);
  });

  qemu.test("and shows the same progress at its ends", async () => {
    const folder = makeFolder();
    shell(folder, IMAGES);
    for (const words of [
      ["compare", "-p", "a.qcow2", "a.qcow2"],
      ["compare", "-p", "empty.qcow2", "a.qcow2"],
      ["compare", "-p", "-q", "a.qcow2", "a.qcow2"],
    ]) {
      const ends = ({ stdout }: { stdout: string }): string[] => {
        const parts = stdout.split("\r");
        return [parts[0] ?? "", ...parts.slice(-2)];
      };
      expect(ends(await runImg(folder, words))).toEqual(ends(runQemu(folder, words)));
    }
  });
});

describe("a difference", () => {
  test("is found in its sector", () => {
    const one = Buffer.alloc(1024 * 1024 + 512);
    for (const at of [0, 511, 512, 700_000, 1024 * 1024, 1024 * 1024 + 511]) {
      const other = Buffer.from(one);
      other[at] = 1;
      expect(findDifference(one, other)).toBe(Math.floor(at / 512) * 512);
      expect(findNonZero(other)).toBe(Math.floor(at / 512) * 512);
    }
    expect(findDifference(one, Buffer.from(one))).toBeUndefined();
    expect(findNonZero(one)).toBeUndefined();
  });

  test("that comes first counts, whichever read ends first", async () => {
    const sizeBytes = 16 * 1024 * 1024;
    const data = (differsFrom: number, slowBelow: number): Image =>
      fakeImage(sizeBytes, async (target, offset) => {
        if (offset < slowBelow) await new Promise((resolve) => setTimeout(resolve, 20));
        target.fill(offset >= differsFrom ? 1 : 2);
      });
    const result = await compareImages(data(4 * 1024 * 1024, 6 * 1024 * 1024), data(sizeBytes, 0), {
      strict: false,
    });
    expect(result).toEqual({ kind: "content-differs", offset: 4 * 1024 * 1024, beyond: false });
  });
});

test("data in one place of one file is not read to be compared", async () => {
  const never = async (): Promise<void> => {
    throw new Error("it was read");
  };
  const image = fakeImage(1024 * 1024, never);
  expect(await compareImages(image, image, { strict: true })).toEqual({
    kind: "identical",
    sizesDiffer: false,
  });
});

function fakeImage(sizeBytes: number, read: Image["read"]): Image {
  const extent: Extent = {
    start: guestOffset(0),
    lengthBytes: sizeBytes,
    kind: "data",
    depth: 0,
    present: true,
    isData: true,
    hostOffset: hostOffset(0),
  };
  const identity = {
    fileSystem: "1",
    inode: read.toString().includes("it was read") ? "7" : String(count++),
  };
  const dataFile = { stat: async () => identity } as never;
  return {
    path: "/x",
    format: "raw",
    virtualSizeBytes: sizeBytes,
    layers: [{ path: "/x", format: "raw", virtualSizeBytes: sizeBytes, dataFile }],
    findExtents: async ({ start }) => [
      { ...extent, start: guestOffset(start), hostOffset: hostOffset(start), lengthBytes: sizeBytes - start },
    ],
    read,
    close: async () => undefined,
  };
}

let count = 100;
