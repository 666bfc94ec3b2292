// QEMU judges the overlays that imgtx writes: qemu-img and qemu-io as the oracle.

import { execFileSync } from "node:child_process";
import { readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { describe, expect } from "vitest";
import type { OverlayOptions } from "../../../src/format/index.ts";
import { openChain, planOverlay, writeImage } from "../../../src/format/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");
const storage = makeNodeStorage();

function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

/** Writes an overlay beside base, named as qemu-img would, and flushes it. */
async function overlayOver(base: string, path: string, options: OverlayOptions): Promise<void> {
  const format = base.endsWith(".raw") ? "raw" : "qcow2";
  const chain = await openChain(storage, base, { format, gate: { allowPaths: [], currentFolder: "/" } });
  const [backing] = chain.links;
  if (!backing) throw new Error("a chain is never empty");
  const { virtualSizeBytes } = backing;
  const backingName = base.slice(base.lastIndexOf("/") + 1);
  const plan = await planOverlay({ backing, virtualSizeBytes, backingName, backingFormat: format, options });
  const file = await storage.createFile(path, 0o600);
  await writeImage({ file }, plan);
  await file.flush("test");
  await file.close();
  await chain.close();
}

function qemuOptions(options: OverlayOptions): string[] {
  const list = [
    options.clusterSizeBytes === undefined ? "" : `cluster_size=${options.clusterSizeBytes}`,
    options.refcountBits === undefined ? "" : `refcount_bits=${options.refcountBits}`,
    options.extendedL2 === undefined ? "" : `extended_l2=${options.extendedL2 ? "on" : "off"}`,
    options.compat === undefined ? "" : `compat=${options.compat}`,
  ].filter((option) => option !== "");
  return list.length === 0 ? [] : ["-o", list.join(",")];
}

function allocatedBytes(path: string): number {
  run("sync", path);
  return statSync(path).blocks * 512;
}

const CLUSTER_SIZES = [512, 4096, 16_384, 65_536, 2 ** 21];
const MATRIX: OverlayOptions[] = [
  ...CLUSTER_SIZES.map((clusterSizeBytes) => ({ clusterSizeBytes, compat: "0.10" as const })),
  ...CLUSTER_SIZES.flatMap((clusterSizeBytes) =>
    [1, 16, 64].map((refcountBits) => ({ clusterSizeBytes, refcountBits })),
  ),
  ...[2, 4, 8, 32].map((refcountBits) => ({ refcountBits })),
  ...CLUSTER_SIZES.filter((size) => size >= 16_384).flatMap((clusterSizeBytes) =>
    [1, 64].map((refcountBits) => ({ clusterSizeBytes, refcountBits, extendedL2: true })),
  ),
];

const ALL_CLUSTER_SIZES = Array.from({ length: 13 }, (_, index) => 2 ** (9 + index));
const ALL_LAYOUTS: OverlayOptions[] = ALL_CLUSTER_SIZES.flatMap((clusterSizeBytes) => [
  { clusterSizeBytes, compat: "0.10" as const },
  ...[1, 2, 4, 8, 16, 32, 64].map((refcountBits) => ({ clusterSizeBytes, refcountBits })),
  ...(clusterSizeBytes < 16_384 ? [] : [{ clusterSizeBytes, extendedL2: true }]),
]);

describe("an overlay is byte for byte what qemu-img makes, with", () => {
  // Of 300 MiB, small clusters need an L1 table that their first refcount block does not count.
  qemu.test.each(ALL_CLUSTER_SIZES)("clusters of %i bytes", async (clusterSizeBytes) => {
    const folder = makeFolder();
    const base = `${folder}/base.raw`;
    run("qemu-img", "create", "-q", "-f", "raw", base, "300M");
    for (const options of ALL_LAYOUTS.filter((each) => each.clusterSizeBytes === clusterSizeBytes)) {
      const [ours, theirs] = [`${folder}/ours.qcow2`, `${folder}/theirs.qcow2`];
      await overlayOver(base, ours, options);
      run(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.raw",
        "-F",
        "raw",
        ...qemuOptions(options),
        theirs,
      );
      expect(readFileSync(ours).equals(readFileSync(theirs)), JSON.stringify(options)).toBe(true);
      rmSync(ours);
    }
  });
});

describe("an overlay over a raw base", () => {
  qemu.test.each(MATRIX.map((options) => [JSON.stringify(options), options] as const))(
    "of %s is clean, sparse, and works with qemu-io",
    async (_, options) => {
      const folder = makeFolder();
      const base = `${folder}/base.raw`;
      const path = `${folder}/top.qcow2`;
      run("qemu-img", "create", "-q", "-f", "raw", base, "3M");
      run("qemu-io", "-f", "raw", "-c", "write -P 0x5a 512k 600k", base);
      await overlayOver(base, path, options);

      run("qemu-img", "check", "-q", path);
      const info = JSON.parse(run("qemu-img", "info", "--output=json", path)) as object;
      expect(info).toMatchObject({
        "virtual-size": 3 * 1024 * 1024,
        "cluster-size": options.clusterSizeBytes ?? 65_536,
        "backing-filename": "base.raw",
        "backing-filename-format": "raw",
        "format-specific": {
          data: {
            compat: options.compat ?? "1.1",
            "refcount-bits": options.refcountBits ?? 16,
            ...(options.compat === "0.10" ? {} : { "extended-l2": options.extendedL2 ?? false }),
          },
        },
      });
      run("qemu-img", "compare", "-q", path, "-F", "raw", base);

      const theirs = `${folder}/theirs.qcow2`;
      run(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-b",
        "base.raw",
        "-F",
        "raw",
        ...qemuOptions(options),
        theirs,
      );
      expect(statSync(path).size).toBe(statSync(theirs).size);
      expect(allocatedBytes(path)).toBeLessThanOrEqual(allocatedBytes(theirs));

      run("qemu-io", "-f", "qcow2", "-c", "write -P 0xa5 1M 1M", "-c", "write -P 0x11 3145216 512", path);
      run("qemu-img", "check", "-q", path);
      run("qemu-io", "-f", "qcow2", "-c", "read -P 0xa5 1M 1M", "-c", "read -P 0x5a 512k 512k", path);
    },
  );

  qemu.test(
    "of clusters of 512 bytes and an L1 table of 32 MiB is clean, and takes writes at both ends",
    async () => {
      const folder = makeFolder();
      const base = `${folder}/base.raw`;
      const path = `${folder}/top.qcow2`;
      run("qemu-img", "create", "-q", "-f", "raw", base, "128G");
      await overlayOver(base, path, { clusterSizeBytes: 512, refcountBits: 64 });
      run("qemu-img", "check", "-q", path);
      expect(allocatedBytes(path)).toBeLessThan(1024 * 1024);
      run("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 4k", "-c", "write -P 2 137438949376 4k", path);
      run("qemu-img", "check", "-q", path);
    },
  );

  qemu.test.each([0, 1000])("of %i bytes has the virtual size that qemu-img gives it", async (sizeBytes) => {
    const folder = makeFolder();
    const base = `${folder}/base.raw`;
    run("truncate", "-s", String(sizeBytes), base);
    await overlayOver(base, `${folder}/top.qcow2`, {});
    run("qemu-img", "check", "-q", `${folder}/top.qcow2`);
    run("qemu-img", "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", `${folder}/theirs.qcow2`);
    const sizes = ["top", "theirs"].map(
      (name) => JSON.parse(run("qemu-img", "info", "--output=json", `${folder}/${name}.qcow2`)) as object,
    );
    expect(sizes[0]).toHaveProperty("virtual-size", Math.ceil(sizeBytes / 512) * 512);
    expect(sizes[1]).toHaveProperty("virtual-size", Math.ceil(sizeBytes / 512) * 512);
  });
});

describe("an overlay over a qcow2 image", () => {
  qemu.test.each([
    ["cluster_size=512"],
    ["cluster_size=2M,refcount_bits=1"],
    ["extended_l2=on,cluster_size=128k"],
    ["compat=0.10,cluster_size=4k"],
    ["compression_type=zstd"],
    ["lazy_refcounts=on"],
  ])("made with %s inherits its layout, and reads the same", async (creation) => {
    const folder = makeFolder();
    const base = `${folder}/base.qcow2`;
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", creation, base, "2M");
    run("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 700k 300k", base);
    const path = `${folder}/top.qcow2`;
    await overlayOver(base, path, {});
    run("qemu-img", "check", "-q", path);
    run("qemu-img", "compare", "-q", path, "-F", "qcow2", base);
    const [ours, theirs] = [path, base].map((image) => {
      const info = JSON.parse(run("qemu-img", "info", "--output=json", image)) as Record<string, unknown>;
      const specific = info["format-specific"] as { data: Record<string, unknown> };
      const { compat, "refcount-bits": refcountBits, "extended-l2": extendedL2 } = specific.data;
      return { clusterSize: info["cluster-size"], compat, refcountBits, extendedL2 };
    });
    expect(ours).toEqual(theirs);
  });

  qemu.test("has the virtual size that qemu-img gives it where the header's is odd", async () => {
    const folder = makeFolder();
    const base = `${folder}/base.qcow2`;
    run("qemu-img", "create", "-q", "-f", "qcow2", base, "1M");
    const file = await storage.openFile(base, "write");
    await file.write(Uint8Array.of(0, 0, 0, 0, 0, 0, 7, 232), 24);
    await file.close();
    await overlayOver(base, `${folder}/top.qcow2`, {});
    run(
      "qemu-img",
      "create",
      "-q",
      "-f",
      "qcow2",
      "-b",
      "base.qcow2",
      "-F",
      "qcow2",
      `${folder}/theirs.qcow2`,
    );
    for (const name of ["top", "theirs"]) {
      const info = JSON.parse(run("qemu-img", "info", "--output=json", `${folder}/${name}.qcow2`)) as object;
      expect(info).toHaveProperty("virtual-size", 1536);
    }
  });
});

describe("a header that imgtx accepts", () => {
  qemu.test("is one that QEMU opens", async () => {
    const folder = makeFolder();
    const path = `${folder}/top.qcow2`;
    run("qemu-img", "create", "-q", "-f", "qcow2", path, "1M");
    const pristine = readFileSync(path);
    let accepted = 0;
    for (let at = 8; at < 128; at += 4) {
      for (const value of [0, 1, 5, 9, 0x30, 0x10000, 0x80000000]) {
        const bytes = Uint8Array.from(pristine);
        new DataView(bytes.buffer).setUint32(at, value);
        writeFileSync(path, bytes);
        if (!(await opens(path))) continue;
        accepted += 1;
        expect(() => run("qemu-img", "info", "-f", "qcow2", path), `${value} at ${at}`).not.toThrow();
      }
    }
    expect(accepted).toBeGreaterThan(20);
  });
});

async function opens(path: string): Promise<boolean> {
  try {
    const gate = { allowPaths: [], currentFolder: "/" };
    await (await openChain(storage, path, { format: "qcow2", gate })).close();
    return true;
  } catch (error) {
    expect(error).toHaveProperty("name", "ImgtxError");
    return false;
  }
}
