// A device that goes over to its mirror dies amid the merge, and before recovery the mirror is another file: moved to a
// new disk, restored from a backup, or on a file system that makes up inode numbers at each mount.

import { execFileSync } from "node:child_process";
import { copyFileSync, readdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { oracle } from "../../helpers/oracles.ts";
import { atNthAfterMark, IDENTICAL, mirror, writeGuest } from "../../helpers/transaction/mirroring.ts";
import { Killed, killAt } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench, type Workbench } from "../../helpers/transaction/workbench.ts";

const qemu = oracle("qemu-img", "qemu-io");

const SAMPLES = [
  ["vdb", "b.raw", "raw"],
  ["vdc", "c.qcow2", "qcow2"],
] as const;
type Sample = (typeof SAMPLES)[number];
const CASES = [
  [...SAMPLES[0], "file.write", 1],
  [...SAMPLES[0], "file.flush", 1],
  [...SAMPLES[1], "file.write", 1],
  [...SAMPLES[1], "file.write", 2],
  [...SAMPLES[1], "file.write", 3],
  [...SAMPLES[1], "file.flush", 1],
] as const;

/** Reopens to a mirror that is behind, in a process that dies at its nth such call on it. */
async function dieAmidMerge(
  device: Sample[0],
  image: string,
  format: string,
  call = "file.write",
  nth = 1,
): Promise<Workbench> {
  const bench = await makeWorkbench();
  await mirror(bench, { [device]: "m.img" });
  // The last 64 KiB stay what they were.
  writeGuest(bench.at(image), format, "write -P 1 0 30k", "write -P 2 100k 20k");
  copyFileSync(bench.at("m.img"), bench.at("backup"));
  const storage = killAt(makeNodeStorage(), atNthAfterMark(call, "m.img", nth));
  const request = {
    kind: "reopen" as const,
    device,
    file: bench.at("m.img"),
    format: undefined,
    force: false,
  };
  const failure: unknown = await bench
    .through(storage)
    .run(request)
    .catch((error: unknown) => error);
  expect(failure instanceof Killed || (failure as Error).cause instanceof Killed).toBe(true);
  return bench;
}

/** Puts a copy in the place of a file, by another inode. */
function replace(bench: Workbench, from: string): void {
  copyFileSync(bench.at(from), bench.at("copy"));
  renameSync(bench.at("copy"), bench.at("m.img"));
}

function compare(bench: Workbench, image: string, format: string): string {
  const words = ["compare", "-f", format, "-F", format, bench.at(image), bench.at("m.img")];
  return execFileSync("qemu-img", words, { encoding: "utf8" }).trim();
}

const overlays = (bench: Workbench): string[] =>
  readdirSync(bench.root).filter((name) => name.startsWith(".imgtx-"));

describe("a mirror that a merge was cut off in, and that is another file by then", () => {
  qemu.test.each(CASES)(
    "of %s, a copy of what was there, is merged into: %s, %s, cut off at %s %i",
    async (device, image, format, call, nth) => {
      const bench = await dieAmidMerge(device, image, format, call, nth);
      replace(bench, "m.img");
      const [note] = (await bench.session()).recovered;
      expect(note).toMatchObject({ did: "finished" });
      expect(note?.text).not.toContain("stays");
      expect((await bench.images())[device]).toBe("m.img");
      expect(compare(bench, image, format)).toBe(IDENTICAL);
      expect(overlays(bench)).toEqual([]);
    },
  );

  qemu.test.each(SAMPLES)(
    "of %s, put back from before, is merged into: %s, %s",
    async (device, image, format) => {
      const bench = await dieAmidMerge(device, image, format);
      replace(bench, "backup");
      expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
      expect((await bench.images())[device]).toBe("m.img");
      expect(compare(bench, image, format)).toBe(IDENTICAL);
    },
  );

  qemu.test.each(SAMPLES)(
    "of %s that holds something else is waited for: %s, %s",
    async (device, image, format) => {
      const bench = await dieAmidMerge(device, image, format);
      copyFileSync(bench.at("m.img"), bench.at("good"));
      copyFileSync(bench.at("backup"), bench.at("other"));
      writeGuest(bench.at("other"), format, "write -P 77 150k 512");
      replace(bench, "other");
      const before = readFileSync(bench.at("m.img"));
      const [note] = (await bench.session()).recovered;
      expect(note).toMatchObject({ did: "waiting" });
      expect(note?.text).toMatch(/would not hold what the device holds.*imgtx recover --give-up/);
      expect((await bench.images())[device]).toBe(image);
      expect(readFileSync(bench.at("m.img")).equals(before)).toBe(true);
      expect(overlays(bench)).toHaveLength(1);
      writeFileSync(bench.at("m.img"), readFileSync(bench.at("good")));
      expect((await bench.session()).recovered).toMatchObject([{ did: "finished" }]);
      expect((await bench.images())[device]).toBe("m.img");
      expect(compare(bench, image, format)).toBe(IDENTICAL);
    },
  );
});
