// A larger disk: judged by QEMU, and by a power cut at any moment.

import { statSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { planImage, writeImage } from "../../../../src/format/new/create.ts";
import { resizeImage } from "../../../../src/format/qcow2/change/resize-image.ts";
import { makeNodeStorage } from "../../../../src/storage/index.ts";
import { DiskStates } from "../../../crash/simulated/disk-states.ts";
import { Tree } from "../../../crash/simulated/disk-tree.ts";
import { imageIn } from "../../../crash/judges/observation.ts";
import { SimulatedMachine } from "../../../crash/simulated/simulated-disk.ts";
import { startProcess } from "../../../crash/simulated/simulated-process.ts";
import { isFilledWith } from "../../../helpers/filled.ts";
import { openGuest } from "../../../helpers/guest-content.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { structureProblems } from "../../../helpers/qcow2-structure.ts";
import { createOverlay, runWell } from "../../../helpers/qemu-programs.ts";
import { errorFrom } from "../../../helpers/expect-error.ts";
import { makeFolder } from "../../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");
const K = 1024;

const grow = (path: string, sizeBytes: number) =>
  resizeImage(
    makeNodeStorage(),
    path,
    { format: undefined, gate: { allowPaths: ["/"], currentFolder: "/" } },
    sizeBytes,
  );

async function contentOf(folder: string, image: string): Promise<string> {
  runWell("qemu-img", "convert", "-O", "raw", image, `${folder}/content`);
  return runWell("sha256sum", `${folder}/content`).slice(0, 64);
}

describe("a grown disk", () => {
  qemu.test.each([
    "cluster_size=512",
    "cluster_size=512,refcount_bits=64",
    "cluster_size=512,refcount_bits=1",
    "cluster_size=4k,compat=0.10",
    "cluster_size=16k,extended_l2=on",
    "cluster_size=4k,lazy_refcounts=on",
  ])("holds what it held, then zeros, and is sound to qemu-img check: %s", async (options) => {
    const folder = makeFolder();
    const image = `${folder}/a.qcow2`;
    for (const path of [image, `${folder}/theirs.qcow2`]) {
      runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, "1M");
      runWell("qemu-io", "-f", "qcow2", "-c", "write -P 7 3k 200k", "-c", "write -P 8 1000k 24k", path);
    }
    await grow(image, 200 * K * K);
    runWell("qemu-img", "resize", "-q", `${folder}/theirs.qcow2`, "200M");
    runWell("qemu-img", "check", "-q", image);
    expect(await contentOf(folder, image)).toBe(await contentOf(folder, `${folder}/theirs.qcow2`));
    runWell("qemu-io", "-f", "qcow2", "-c", "write -P 9 199M 1M", image);
    runWell("qemu-img", "check", "-q", image);
  });

  qemu.test("shows nothing of a longer backing image", async () => {
    const folder = makeFolder();
    const [image, theirs, base] = ["a.qcow2", "b.qcow2", "base.raw"].map((name) => `${folder}/${name}`);
    runWell("qemu-img", "create", "-q", "-f", "raw", base!, "8M");
    runWell("qemu-io", "-f", "raw", "-c", "write -P 5 0 8M", base!);
    for (const path of [image!, theirs!]) {
      createOverlay(path, { name: base!, format: "raw" }, "1022k", "-o", "cluster_size=4k");
    }
    await grow(image!, 6 * K * K);
    runWell("qemu-img", "resize", "-q", theirs!, "6M");
    runWell("qemu-img", "check", "-q", image!);
    expect(await contentOf(folder, image!)).toBe(await contentOf(folder, theirs!));
  });

  qemu.test("keeps its internal snapshots, and is refused where version 2 has some", async () => {
    const folder = makeFolder();
    for (const compat of ["1.1", "0.10"]) {
      const image = `${folder}/${compat}.qcow2`;
      runWell(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        `compat=${compat},cluster_size=512`,
        image,
        "1M",
      );
      runWell("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 100k", image);
      runWell("qemu-img", "snapshot", "-c", "one", image);
      if (compat === "0.10") {
        expect(await errorFrom(grow(image, 64 * K * K))).toMatchObject({
          code: "E_UNSUPPORTED",
          message: expect.stringMatching(/v2 image which has snapshots/) as string,
        });
        continue;
      }
      await grow(image, 64 * K * K);
      runWell("qemu-img", "check", "-q", image);
      runWell("qemu-img", "snapshot", "-a", "one", image);
      runWell("qemu-img", "check", "-q", image);
    }
  });

  test("of a raw image is its file, of whatever size", async () => {
    const folder = makeFolder();
    const storage = makeNodeStorage();
    const file = await storage.createFile(`${folder}/a.raw`, 0o644);
    await file.truncate(4096);
    await file.close();
    const raw = (sizeBytes: number) =>
      resizeImage(
        storage,
        `${folder}/a.raw`,
        { format: "raw", gate: { allowPaths: [], currentFolder: "/" } },
        sizeBytes,
      );
    await raw(5000);
    expect((await storage.stat(`${folder}/a.raw`))?.sizeBytes).toBe(5000);
    await raw(8192);
    expect(statSync(`${folder}/a.raw`).size).toBe(8192);
  });
});

const [PATH, BASE] = ["/disks/top.qcow2", "/disks/base.raw"];
const [OLD_BYTES, BASE_BYTES] = [63 * K, 128 * K];
/** The cluster of the L1 table has room for the first, and not for the second. */
const [IN_PLACE_BYTES, MOVED_BYTES] = [400 * K, 2100 * K];

async function recordGrowing(newBytes: number, ...muted: readonly string[]): Promise<SimulatedMachine> {
  const first = new SimulatedMachine({ durable: new Tree() });
  const storage = startProcess(first);
  await storage.makeFolder("/disks", 0o755);
  const base = await storage.createFile(BASE, 0o644);
  await base.write(new Uint8Array(BASE_BYTES).fill(5), 0);
  await base.close();
  const options = { clusterSizeBytes: 512, refcountBits: 64, backingFileName: BASE, backingFormat: "raw" };
  const plan = await planImage({ format: "qcow2", virtualSizeBytes: OLD_BYTES, options });
  const file = await storage.createFile(PATH, 0o644);
  await writeImage({ file }, plan);
  await file.close();
  const machine = new SimulatedMachine({ durable: first.tree, mutedPurposes: new Set(muted) });
  await resizeImage(
    startProcess(machine),
    PATH,
    { format: "qcow2", gate: { allowPaths: ["/"], currentFolder: "/" } },
    newBytes,
  );
  return machine;
}

/** What is wrong with the image on a disk that lost its power; undefined where nothing is. */
function judge(tree: Tree): string | undefined {
  const open = (path: string) => imageIn(tree, path);
  try {
    const problem = structureProblems(open(PATH), PATH).find((each) => !/is leaked/.test(each));
    if (problem !== undefined) return problem;
    const guest = openGuest(open, PATH, "qcow2");
    if (![OLD_BYTES, IN_PLACE_BYTES, MOVED_BYTES].includes(guest.sizeBytes))
      return `${guest.sizeBytes} bytes`;
    const seen = guest.read(0, Math.min(guest.sizeBytes, 2 * BASE_BYTES));
    if (!isFilledWith(5, seen.subarray(0, OLD_BYTES))) return "the old part has changed";
    return isFilledWith(0, seen.subarray(OLD_BYTES)) ? undefined : "the backing image shows";
  } catch (error) {
    return String(error);
  }
}

function findViolation(machine: SimulatedMachine): string | undefined {
  const states = new DiskStates(machine.durable);
  for (const [call, change] of machine.log.entries()) {
    states.advance(change);
    for (const state of states.states({ exhaustiveItems: 6, randomSubsets: 12, most: 60 }, 1000 + call)) {
      const problem = judge(state.tree);
      if (problem !== undefined) return `after call ${call + 1}: ${problem}`;
    }
  }
  return undefined;
}

describe("a power cut while a disk grows", () => {
  test.each([IN_PLACE_BYTES, MOVED_BYTES])(
    "leaves the old size or the new one, %d, and leaks clusters at worst",
    async (newBytes) => {
      expect(findViolation(await recordGrowing(newBytes))).toBeUndefined();
    },
  );

  test.each([
    ["l1-entries-before-header", IN_PLACE_BYTES],
    ["l1-table-before-header", MOVED_BYTES],
    ["header-before-old-l1-table", MOVED_BYTES],
    ["zeros-before-size", IN_PLACE_BYTES],
  ] as const)("would do harm without the flush of %s", async (purpose, newBytes) => {
    expect(findViolation(await recordGrowing(newBytes, purpose))).not.toBeUndefined();
  });
});
