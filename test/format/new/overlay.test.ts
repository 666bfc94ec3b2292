import { statSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { OverlayOptions } from "../../../src/format/index.ts";
import type { InheritableLayout } from "../../../src/format/new/overlay.ts";
import { openChain, planOverlay, writeImage } from "../../../src/format/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { makeOverlay, makeRaw } from "../../helpers/make-image.ts";
import { CLUSTER_512, fromHex } from "../../helpers/format/header-samples.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const GIB = 1024 ** 3;
const EXTENDED: InheritableLayout = {
  version: 3,
  clusterSizeBytes: 16_384,
  refcountBits: 8,
  hasExtendedL2: true,
};
const VERSION_2: InheritableLayout = {
  version: 2,
  clusterSizeBytes: 4096,
  refcountBits: 16,
  hasExtendedL2: false,
};

function plan(options: OverlayOptions = {}, header?: InheritableLayout, virtualSizeBytes = GIB) {
  return planOverlay({
    backing: { path: "/images/base", header },
    virtualSizeBytes,
    backingName: "/images/base",
    backingFormat: "raw",
    options,
  });
}

describe("planOverlay", () => {
  test("lays out a disk of 1 GiB as qemu-img does", async () => {
    const { headerBytes, layout, virtualSizeBytes } = await plan();
    expect(headerBytes.subarray(0, 4)).toEqual(Uint8Array.of(0x51, 0x46, 0x49, 0xfb));
    expect(virtualSizeBytes).toBe(GIB);
    expect(layout).toMatchObject({
      refcountTable: { first: 1, count: 1 },
      blocks: [2],
      l1Start: 3,
      l1Size: 2,
      fileSizeBytes: 196_624,
    });
  });

  test("is the same every time", async () => {
    expect(await plan()).toEqual(await plan());
  });

  test("rounds the virtual size up to a sector", async () => {
    expect((await plan({}, undefined, 1000)).virtualSizeBytes).toBe(1024);
  });

  test("has no L1 table for a disk of no bytes", async () => {
    const { layout } = await plan({}, undefined, 0);
    expect(layout).toMatchObject({ l1Size: 0, l1Start: undefined, fileSizeBytes: 196_608 });
  });

  test("counts the clusters of its own refcount structures", async () => {
    // 32 MiB of L1 table are 65,536 clusters; a block of 64-bit refcounts counts 64.
    const { layout } = await plan({ clusterSizeBytes: 512, refcountBits: 64 }, undefined, 128 * GIB);
    const structures = layout.blocks.length + layout.refcountTable.count;
    const used = layout.used.reduce((sum, { count }) => sum + count, 0);
    expect(used).toBe(1 + 65_536 + structures);
    expect(layout.blocks).not.toContain(undefined);
    expect(layout.blocks.length * 64).toBeGreaterThanOrEqual(used);
    expect(layout.refcountTable.count * 64).toBeGreaterThanOrEqual(layout.blocks.length);
  });

  test.each([
    ["nothing chosen", {}, EXTENDED, { clusterBits: 14, refcountOrder: 3, extendedL2: true }],
    ["nothing chosen over version 2", {}, VERSION_2, { version: 2, clusterBits: 12, refcountOrder: 4 }],
    ["version 2 chosen", { compat: "0.10" }, EXTENDED, { version: 2, refcountOrder: 4, extendedL2: false }],
    ["small clusters chosen", { clusterSizeBytes: 4096 }, EXTENDED, { refcountOrder: 3, extendedL2: false }],
    ["extended L2 chosen", { extendedL2: true }, VERSION_2, { version: 3, clusterBits: 14 }],
    ["extended L2 turned off", { extendedL2: false }, EXTENDED, { extendedL2: false, clusterBits: 14 }],
    ["refcount bits chosen", { refcountBits: 1 }, VERSION_2, { version: 3, refcountOrder: 0 }],
    ["version 3 chosen", { compat: "1.1" }, VERSION_2, { version: 3, clusterBits: 12 }],
  ] as const)("inherits what %s leaves open", async (_, options, header, expected) => {
    expect((await plan(options, header)).choices).toMatchObject(expected);
  });

  test.each([
    ["clusters of 1000 bytes", { clusterSizeBytes: 1000 }, "Cluster size must be a power of two"],
    ["clusters of 256 bytes", { clusterSizeBytes: 256 }, "between 512 and 2048k"],
    ["clusters of 4 MiB", { clusterSizeBytes: 4 * 1024 ** 2 }, "between 512 and 2048k"],
    ["clusters of no bytes", { clusterSizeBytes: 0 }, "Cluster size"],
    ["refcounts of 3 bits", { refcountBits: 3 }, "Refcount width must be a power of two"],
    ["refcounts of 128 bits", { refcountBits: 128 }, "may not exceed 64 bits"],
    ["extended L2 in version 2", { compat: "0.10", extendedL2: true }, "compatibility level 1.1"],
    ["refcounts of 8 bits in version 2", { compat: "0.10", refcountBits: 8 }, "compatibility level 1.1"],
    ["extended L2 in small clusters", { clusterSizeBytes: 8192, extendedL2: true }, "at least 16384 bytes"],
  ] as const)("refuses %s in qemu-img's words", async (_, options, words) => {
    const error = await errorFrom(plan(options));
    expect(error).toMatchObject({ code: "E_USAGE", exitCode: 64 });
    expect(error.message).toContain(words);
  });

  test("refuses a virtual size whose L1 table would exceed 32 MiB", async () => {
    const { layout } = await plan({ clusterSizeBytes: 512 }, undefined, 128 * GIB);
    expect(layout.l1Size).toBe(4 * 1024 ** 2);
    const error = await errorFrom(plan({ clusterSizeBytes: 512 }, undefined, 128 * GIB + 512));
    expect(error).toMatchObject({ code: "E_UNSUPPORTED", exitCode: 12 });
    expect(error.message).toContain("too large for file format 'qcow2'");
  });

  test.each([
    ["does not fit its header cluster", { clusterSizeBytes: 512 }, "x".repeat(377), "do not fit"],
    ["has more than 1,023 bytes", {}, "ü".repeat(512), "1024 bytes"],
    ["is a protocol name to QEMU", {}, "nbd:x", "protocol name"],
  ] as const)("refuses a backing file name that %s", async (_, options, backingName, words) => {
    const error = await errorFrom(
      planOverlay({
        backing: { path: "/images/base", header: undefined },
        virtualSizeBytes: GIB,
        backingName,
        backingFormat: "raw",
        options,
      }),
    );
    expect(error).toMatchObject({ code: "E_UNSUPPORTED" });
    expect(error.message).toContain(words);
  });

  test("takes a name that just fits", async () => {
    const fits = { options: { clusterSizeBytes: 512 }, backingName: "x".repeat(376) };
    const backing = { path: "/images/base", header: undefined };
    const { headerBytes } = await planOverlay({
      backing,
      virtualSizeBytes: GIB,
      backingFormat: "raw",
      ...fits,
    });
    expect(headerBytes).toHaveLength(512);
  });
});

describe("an overlay that was planned", () => {
  test("writes byte for byte what qemu-img writes", async () => {
    const path = `${makeFolder()}/o.qcow2`;
    const storage = makeNodeStorage();
    const file = await storage.createFile(path, 0o600);
    const small = await planOverlay({
      backing: { path: "b.raw", header: undefined },
      virtualSizeBytes: 1024,
      backingName: "b.raw",
      backingFormat: "raw",
      options: { clusterSizeBytes: 512 },
    });
    await writeImage({ file }, small);
    const expected = new Uint8Array(0x608);
    expected.set(CLUSTER_512);
    expected.set(fromHex("0000000000000400"), 0x200);
    expected.set(fromHex("0001000100010001"), 0x400);
    const bytes = new Uint8Array(0x1000);
    const lengthBytes = await file.read(bytes, 0);
    await file.close();
    expect(bytes.subarray(0, lengthBytes)).toEqual(expected);
  });

  test("takes three blocks on disk, whatever the virtual size", async () => {
    const path = `${makeFolder()}/o.qcow2`;
    const file = await makeNodeStorage().createFile(path, 0o600);
    await writeImage({ file }, await plan({}, undefined, 8192 * GIB));
    await file.flush("test");
    await file.close();
    expect(statSync(path).size).toBeGreaterThan(196_608);
    expect(statSync(path).blocks * 512).toBeLessThanOrEqual(3 * 4096);
  });

  test("writes what openChain reads back", async () => {
    const folder = makeFolder();
    makeRaw(`${folder}/base.raw`);
    const options = { clusterSizeBytes: 2 ** 21, refcountBits: 1, extendedL2: true } as const;
    const path = await makeOverlay(`${folder}/top.qcow2`, "base.raw", "raw", options);
    const chain = await openChain(makeNodeStorage(), path, {
      format: undefined,
      gate: { allowPaths: [], currentFolder: "/" },
    });
    expect(chain.links[0]?.header).toMatchObject({
      clusterSizeBytes: 2 ** 21,
      refcountBits: 1,
      hasExtendedL2: true,
      backingFileName: "base.raw",
      backingFormat: "raw",
      featureNames: { length: 8 },
    });
    await chain.close();
  });
});
