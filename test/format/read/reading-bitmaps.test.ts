// Persistent bitmaps: their list, and what they mark.

import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, onTestFinished, test } from "vitest";
import { openChain } from "../../../src/format/index.ts";
import { findMarkedRanges, readBitmapDirectory } from "../../../src/format/qcow2/read/qcow2-bitmaps.ts";
import { type ByteRange, makeNodeStorage } from "../../../src/storage/index.ts";
import { unpackFixture } from "../../helpers/fixtures.ts";
import { oracle } from "../../helpers/oracles.ts";
import { seededRandom } from "../../helpers/random.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const storage = makeNodeStorage();
const qemu = oracle("qemu-img", "qemu-io", "qemu-nbd");

function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"] });
}

function serve(program: string, ...args: string[]): ChildProcess {
  return spawn(program, args, { stdio: "ignore" });
}

async function openLink(path: string) {
  const format = path.endsWith(".raw") ? "raw" : "qcow2";
  const chain = await openChain(storage, path, { format, gate: { allowPaths: [], currentFolder: "/" } });
  onTestFinished(() => chain.close());
  return chain.links[0]!;
}

async function collectRanges(path: string, name: string): Promise<ByteRange[]> {
  const link = await openLink(path);
  const bitmap = (await readBitmapDirectory(link)).find((each) => each.name === name);
  if (bitmap === undefined) throw new Error(`no bitmap ${name}`);
  const ranges: ByteRange[] = [];
  for await (const range of findMarkedRanges(link, bitmap)) ranges.push(range);
  return ranges;
}

/** What a bitmap marks, as qemu-nbd exports it: qemu-img map calls the marked ranges no data. */
async function askQemu(path: string, name: string): Promise<ByteRange[]> {
  const socket = `${path}.socket`;
  const server = serve("qemu-nbd", "-r", "-f", "qcow2", "-B", name, "-k", socket, path);
  const ended = once(server, "exit");
  while (!existsSync(socket)) {
    if (server.exitCode !== null) throw new Error(`qemu-nbd ended with ${server.exitCode}`);
    await sleep(20);
  }
  const source = `driver=nbd,server.type=unix,server.path=${socket},x-dirty-bitmap=qemu:dirty-bitmap:${name}`;
  const map = run("qemu-img", "map", "--output=json", "--image-opts", source);
  server.kill();
  await ended;
  return (JSON.parse(map) as { start: number; length: number; data: boolean }[])
    .filter((entry) => !entry.data)
    .map((entry) => ({ start: entry.start, lengthBytes: entry.length }));
}

describe("persistent bitmaps", () => {
  test("are listed with their flags and granularity", async () => {
    const listed = await readBitmapDirectory(await openLink(await unpackFixture("bitmaps.qcow2")));
    expect(listed).toMatchObject([
      { name: "nightly", granularityBits: 16, isAuto: true, isInUse: false },
      { name: "weekly", granularityBits: 15, isAuto: false, isInUse: false },
    ]);
    const inUse = await readBitmapDirectory(await openLink(await unpackFixture("bitmap-in-use.qcow2")));
    expect(inUse).toMatchObject([{ name: "nightly", isInUse: true }]);
  });

  test("mark what was written", async () => {
    const path = await unpackFixture("bitmaps.qcow2");
    expect(await collectRanges(path, "nightly")).toEqual([{ start: 131_072, lengthBytes: 65_536 }]);
    expect(await collectRanges(path, "weekly")).toEqual([]);
  });

  test.each(["v3.qcow2", "plain.raw", "corrupt/bitmaps-stale.qcow2"])("are none in %s", async (name) => {
    expect(await readBitmapDirectory(await openLink(await unpackFixture(name)))).toEqual([]);
  });

  test.each(["granularity-small", "granularity-large", "type", "name-long", "table-huge"])(
    "that are damaged are refused with their place: %s",
    async (damage) => {
      const path = await unpackFixture(`corrupt/bitmap-${damage}.qcow2`);
      const error = await errorFrom(readBitmapDirectory(await openLink(path)));
      expect(error).toMatchObject({ code: "E_CORRUPT", image: path, field: "bitmap_directory" });
      expect([error.offset, error.hint]).toEqual([expect.any(Number), expect.any(String)]);
    },
  );

  qemu.test.each([
    ["64k", 16, "9M"],
    ["512", 9, "3M"],
    ["4k", 12, "40M"],
    ["2M", 9, "5000000"],
  ] as const)("in clusters of %s, of 2^%i bytes a bit, mark what QEMU says", async (cluster, bits, size) => {
    const path = `${makeFolder()}/disk.qcow2`;
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", `cluster_size=${cluster}`, path, size);
    run("qemu-img", "bitmap", "--add", "-g", `${2 ** bits}`, path, "b0");
    const random = seededRandom(bits);
    const end = Number(size.replace("M", "")) * (size.endsWith("M") ? 2 ** 20 : 1);
    const writes = Array.from({ length: 30 }, () => {
      const offset = random.below(end / 512 - 1) * 512;
      return ["-c", `write -P 1 ${offset} ${Math.min(512 * (1 + random.below(300)), end - offset)}`];
    });
    run("qemu-io", ...writes.flat(), "-c", `write -P 1 ${end - 512} 512`, path);
    const marked = await collectRanges(path, "b0");
    expect(marked.length).toBeGreaterThan(3);
    expect(marked).toEqual(await askQemu(path, "b0"));
  });

  qemu.test("mark all where their clusters are said to be all ones", async () => {
    const path = `${makeFolder()}/disk.qcow2`;
    run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "5M");
    run("qemu-img", "bitmap", "--add", "-g", "512", path, "b0");
    run("qemu-io", "-c", "write -P 1 0 5M", path);
    expect(await collectRanges(path, "b0")).toEqual([{ start: 0, lengthBytes: 5 * 2 ** 20 }]);
  });
});
