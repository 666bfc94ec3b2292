// A mirror on a disk that has no room for the difference: found before the commit mark, by what the merge takes at most.

import { mkdirSync, readdirSync, statSync } from "node:fs";
import { describe, expect } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { seededRandom } from "../../helpers/random.ts";
import { snapshotWorkspace } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import {
  IDENTICAL,
  judge,
  mirror,
  stagingFiles,
  stateOf,
  writeGuest,
} from "../../helpers/transaction/mirroring.ts";
import { makeChain, mergeRequest } from "../../helpers/transaction/merging.ts";
import { Workbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");

/** Storage on which so much is free for images, and what was asked for them. */
function withRoom(freeBytes: number): { storage: Storage; asked: { folder: string; lengthBytes: number }[] } {
  const asked: { folder: string; lengthBytes: number }[] = [];
  const storage: Storage = {
    ...makeNodeStorage(),
    reserveSpace: async (folder, lengthBytes, written) => {
      const isImage = written !== undefined && !written.path.includes("/.imgtx/");
      if (isImage && lengthBytes > 0) asked.push({ folder, lengthBytes });
      if (isImage && lengthBytes > freeBytes) throw new ImgtxError("E_NO_SPACE", "full", { image: folder });
      return { release: async () => await Promise.resolve() };
    },
  };
  return { storage, asked };
}

async function makeMirrored(format: "qcow2" | "raw", options: object = {}): Promise<Workbench> {
  const bench = new Workbench(makeFolder());
  mkdirSync(bench.at("backup"));
  bench.makeRaw("a.raw", 1);
  await bench.add("vda", "a.raw", "raw");
  await mirror(bench, { vda: `backup/m.${format}` }, { format, options });
  return bench;
}

qemu.test(
  "a merge of layers that has no room says how much that is, and speaks of no overlay that is made",
  async () => {
    const bench = await makeChain(["base.qcow2", "a.qcow2"]);
    const before = snapshotWorkspace(bench.root);
    const { storage, asked } = withRoom(0);
    const failure = await failureOf(
      async () => await bench.through(storage).run(mergeRequest(bench, ["vda"])),
    );
    expect(failure).toMatchObject({ code: "E_NO_SPACE", changed: false });
    const { lengthBytes } = asked[0] ?? {};
    expect(failure.message).toBe(
      `what is merged into '${bench.at("base.qcow2")}' may need ${lengthBytes} bytes free in '${bench.root}', and fewer are`,
    );
    expect(snapshotWorkspace(bench.root)).toEqual(before);
  },
);

describe("a merge into a mirror", () => {
  qemu.test.each(["qcow2", "raw"] as const)(
    "of %s that has no room is refused before the mark, and leaves nothing",
    async (format) => {
      const bench = await makeMirrored(format);
      writeGuest(bench.at("a.raw"), "raw", "write -P 7 0 192k");
      const before = [snapshotWorkspace(bench.root), stateOf(bench.at(`backup/m.${format}`))];
      const { storage, asked } = withRoom(0);
      const outcome = await mirror(bench.through(storage), { vda: undefined }).catch(
        (error: unknown) => error,
      );
      if (asked.length === 0) {
        // All of it goes over what is there.
        expect(await judge(bench, "vda")).toBe(IDENTICAL);
        return;
      }
      expect(outcome).toMatchObject({ code: "E_NO_SPACE", changed: false });
      const needed = /need (\d+) bytes in '.*' in all: (\d+) for the overlay.*, and (\d+) free/.exec(
        String(outcome),
      );
      const [all = 0, overlay = 0, free = 0] = needed?.slice(1).map(Number) ?? [];
      expect({ all, free }).toEqual({ all: overlay + free, free: asked[0]?.lengthBytes });
      expect(overlay).toBeGreaterThan(0);
      expect([snapshotWorkspace(bench.root), stateOf(bench.at(`backup/m.${format}`))]).toEqual(before);
      expect(stagingFiles(bench)).toEqual([]);
      await mirror(bench, { vda: undefined });
      expect(await judge(bench, "vda")).toBe(IDENTICAL);
    },
  );

  qemu.test("in an open transaction leaves it open, to be committed when there is room", async () => {
    const bench = await makeMirrored("qcow2", { clusterSizeBytes: 4096 });
    await bench.begin();
    writeGuest(bench.at("a.raw"), "raw", "write -z 0 192k", "write -P 7 64k 4k");
    await mirror(bench, { vda: undefined });
    const { storage, asked } = withRoom(0);
    const failure = await failureOf(async () => await bench.through(storage).commit());
    expect(failure.code).toBe("E_NO_SPACE");
    expect(asked.length).toBeGreaterThan(0);
    expect(await bench.open()).toMatchObject([{ state: "open", devices: ["vda"] }]);
    await bench.commit();
    expect(await judge(bench, "vda")).toBe(IDENTICAL);
  });

  qemu.test.each([
    ["qcow2", {}],
    ["qcow2", { clusterSizeBytes: 4096 }],
    ["qcow2", { clusterSizeBytes: 2 ** 20 }],
    ["raw", {}],
  ] as const)("takes no more than was asked for: %s %o", async (format, options) => {
    const random = seededRandom(11);
    for (let round = 0; round < 6; round += 1) {
      const bench = await makeMirrored(format, options);
      const writes = Array.from({ length: 1 + random.below(6) }, () => {
        const offset = random.below(47) * 4;
        return random.below(3) === 0
          ? `write -z ${offset}k 4k`
          : `write -P ${1 + random.below(200)} ${offset}k 4k`;
      });
      writeGuest(bench.at("a.raw"), "raw", ...writes);
      const file = bench.at(`backup/m.${format}`);
      const blocks = () => statSync(file).blocks * 512;
      const before = blocks();
      const { storage, asked } = withRoom(Infinity);
      await mirror(bench.through(storage), { vda: undefined });
      const reserved = asked.reduce((sum, { lengthBytes }) => sum + lengthBytes, 0);
      expect(asked.every(({ folder }) => folder === bench.at("backup"))).toBe(true);
      expect(blocks() - before, writes.join("; ")).toBeLessThanOrEqual(reserved);
      expect(readdirSync(bench.at("backup"))).toEqual([`m.${format}`]);
    }
  });
});
