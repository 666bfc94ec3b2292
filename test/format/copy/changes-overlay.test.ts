// Changes of an image as an overlay, which is merged into it: after any writes to the source, and however often the
// merge is cut off, the old copy has the source's content, by qemu-img's judgement.

import { guestOffset, guestRange } from "../../../src/units/index.ts";
import { execFileSync, spawnSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  CHANGE_UNIT_BYTES,
  findDifferences,
  copyLayers,
  openImage,
  writeChangesOverlay,
} from "../../../src/format/index.ts";
import { MaskedImage } from "../../../src/format/read/masked-image.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { seededRandom, type Random } from "../../helpers/random.ts";
import { killAt } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");
const storage = makeNodeStorage();
const SIZE = 1_300_992;

type Format = "qcow2" | "raw";

function gateFor(folder: string) {
  return { workspaceRoot: folder, currentFolder: folder, allowPaths: [folder] };
}

/** qemu-io commands: data, zeros and discards, on sector boundaries. */
function writesFrom(random: Random, count: number): string[] {
  return Array.from({ length: count }, () => {
    const start = random.below(SIZE / 512 - 1);
    const most = Math.min(SIZE / 512 - start, [1, 16, 400][random.below(3)] ?? 1);
    const range = `${start * 512} ${(1 + random.below(most)) * 512}`;
    const kind = random.below(4);
    if (kind === 0) return `write -z ${range}`;
    return kind === 1 ? `write -z -u ${range}` : `write -P ${1 + random.below(255)} ${range}`;
  });
}

function writeTo(image: string, format: Format, commands: readonly string[]): void {
  execFileSync("qemu-io", ["-f", format, ...commands.flatMap((command) => ["-c", command]), image], {
    stdio: "ignore",
  });
}

interface Pair {
  readonly folder: string;
  readonly source: string;
  readonly copy: string;
  readonly format: Format;
}

/** A source, and what it was before the last writes to it. */
function makePair(format: Format, random: Random, options: string, base: boolean): Pair {
  const folder = makeFolder();
  const [source, copy] = [`${folder}/source.qcow2`, `${folder}/copy`];
  const create = (...words: string[]) =>
    execFileSync("qemu-img", ["create", "-q", ...words], { cwd: folder });
  if (base) {
    create("-f", "raw", "base.raw", "600k");
    writeTo(`${folder}/base.raw`, "raw", ["write -P 200 0 300k", "write -P 201 500k 64k"]);
    create("-f", "qcow2", "-b", "base.raw", "-F", "raw", "source.qcow2", String(SIZE));
  } else create("-f", "qcow2", "source.qcow2", String(SIZE));
  writeTo(source, "qcow2", writesFrom(random, 12));
  const layout = options === "" ? [] : ["-o", options];
  execFileSync("qemu-img", ["convert", "-f", "qcow2", "-O", format, ...layout, source, copy]);
  writeTo(source, "qcow2", writesFrom(random, 12));
  return { folder, source, copy, format };
}

async function makeChanges({ folder, source, copy, format }: Pair): Promise<string> {
  const path = `${folder}/changes`;
  const gate = gateFor(folder);
  const [now, old] = [
    await openImage(storage, source, { format: "qcow2", gate }),
    await openImage(storage, copy, { format, gate }),
  ];
  const file = await storage.createFile(path, 0o600);
  try {
    const ranges = await findDifferences(now, old, { unitBytes: CHANGE_UNIT_BYTES });
    await writeChangesOverlay(storage, { file, path, image: { path: copy, format } }, now, ranges, { gate });
  } finally {
    await Promise.all([file.close(), now.close(), old.close()]);
  }
  return path;
}

async function merge(
  { folder, copy, format }: Pair,
  path: string,
  through: Storage = storage,
): Promise<void> {
  await copyLayers(through, { from: path, into: { path: copy, format } }, { gate: gateFor(folder) });
}

function judge({ source, copy, format }: Pair, mayLeak = false): string {
  const check = format === "raw" ? 0 : spawnSync("qemu-img", ["check", "-q", "-f", format, copy]).status;
  const compare = ["compare", "-f", "qcow2", "-F", format, source, copy];
  const { stdout } = spawnSync("qemu-img", compare, { encoding: "utf8" });
  return check === 0 || (mayLeak && check === 3) ? stdout.trim() : `check ${check}; ${stdout}`;
}

const IDENTICAL = "Images are identical.";
const SHAPES: readonly (readonly [Format, string, boolean])[] = [
  ["qcow2", "", false],
  ["qcow2", "", true],
  ["qcow2", "cluster_size=512", true],
  ["qcow2", "cluster_size=2M", false],
  ["qcow2", "extended_l2=on,cluster_size=128k", true],
  ["qcow2", "compat=0.10", false],
  ["qcow2", "lazy_refcounts=on", false],
  ["raw", "", false],
  ["raw", "", true],
];

describe.each(SHAPES)("a copy in %s (%s), over a base: %s", (format, options, base) => {
  qemu.test.each([1, 2])(
    "gets random writes, seed %i, by a merge, and by a second one nothing",
    async (seed) => {
      const pair = makePair(format, seededRandom(seed), options, base);
      const before = readFileSync(pair.copy);
      const overlay = await makeChanges(pair);
      expect(readFileSync(pair.copy).equals(before)).toBe(true);
      expect(judge({ ...pair, copy: overlay, format: "qcow2" })).toBe(IDENTICAL);
      await merge(pair, overlay);
      expect(judge(pair)).toBe(IDENTICAL);
      await merge(pair, overlay);
      expect(judge(pair)).toBe(IDENTICAL);
    },
  );

  qemu.test("gets them when the merge is killed again and again", async () => {
    const pair = makePair(format, seededRandom(7), options, base);
    const overlay = await makeChanges(pair);
    for (const nth of [1, 2, 4, 7, 11]) {
      let count = 0;
      const dying = killAt(makeNodeStorage(), ({ name, path }) => {
        if (!/^file\.(write|punchHole|flush)$/.test(name) || path !== pair.copy) return false;
        count += 1;
        return count === nth;
      });
      await merge(pair, overlay, dying).catch((error: unknown) => {
        expect(String(error)).toContain("killed");
      });
    }
    await merge(pair, overlay);
    expect(judge(pair, true)).toBe(IDENTICAL);
  });
});

describe("differences", () => {
  test("are told in whole units, up to the end, and none where there are none", async () => {
    const folder = makeFolder();
    const bytes = Buffer.alloc(1_000_448, 1);
    writeFileSync(`${folder}/a.raw`, bytes);
    bytes[70_000] = 2;
    bytes[131_072] = 2;
    bytes[1_000_447] = 2;
    writeFileSync(`${folder}/b.raw`, bytes);
    const gate = gateFor(folder);
    const open = async (name: string) =>
      await openImage(storage, `${folder}/${name}`, { format: "raw", gate });
    const [a, b, again] = [await open("a.raw"), await open("b.raw"), await open("a.raw")];
    expect(await findDifferences(a, b, { unitBytes: 65_536 })).toEqual([
      { start: 65_536, lengthBytes: 131_072 },
      { start: 983_040, lengthBytes: 17_408 },
    ]);
    expect(await findDifferences(a, again, { unitBytes: 65_536 })).toEqual([]);
    const stop = new AbortController();
    stop.abort(new Error("enough"));
    await expect(findDifferences(a, b, { unitBytes: 65_536, signal: stop.signal })).rejects.toThrow("enough");
    await Promise.all([a.close(), b.close(), again.close()]);
  });
});

describe("a masked image", () => {
  test("has its ranges alone, whatever is asked for, forwards and backwards", async () => {
    const folder = makeFolder();
    writeFileSync(`${folder}/a.raw`, Buffer.alloc(65_536, 1));
    const image = await openImage(storage, `${folder}/a.raw`, { format: "raw", gate: gateFor(folder) });
    const ranges = [guestRange(4096, 4096), guestRange(32_768, 512), guestRange(65_024, 512)];
    const masked = new MaskedImage(image, ranges);
    const isIn = (at: number) =>
      ranges.some(({ start, lengthBytes }) => at >= start && at < start + lengthBytes);
    const random = seededRandom(3);
    for (let round = 0; round < 200; round += 1) {
      const start = random.below(128) * 512;
      const extents = await masked.findExtents(guestRange(start, 65_536 - start));
      let at = start;
      expect(extents.length).toBeGreaterThan(0);
      for (const extent of extents) {
        expect(extent.start).toBe(at);
        for (let byte = at; byte < at + extent.lengthBytes; byte += 512)
          expect(isIn(byte)).toBe(extent.present);
        at += extent.lengthBytes;
      }
    }
    await masked.close();
    const bytes = new Uint8Array(4);
    await masked.read(bytes, guestOffset(4096));
    expect([...bytes]).toEqual([1, 1, 1, 1]);
    await image.close();
  });
});
