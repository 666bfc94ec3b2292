// imgtx img check -r all, where snapshots have more extra data than QEMU reads: what qemu-img makes of a copy.

import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { runCli } from "../../../helpers/cli/harness.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { run, runWell } from "../../../helpers/qemu-programs.ts";
import { makeFolder } from "../../../helpers/temporary-folder.ts";

const qemu = oracle("qemu-img", "qemu-io");
const CLUSTER = 4096;

/** A disk with two snapshots, of which the first gets so many bytes of extra data; the table lies at the file's end. */
function makeDisk(extraBytes: number): string {
  const file = `${makeFolder()}/disk.qcow2`;
  runWell("qemu-img", "create", "-q", "-f", "qcow2", "-o", `cluster_size=${CLUSTER}`, file, "1M");
  runWell("qemu-io", "-c", "write -P 7 0 64k", file);
  for (const name of ["first", "second"]) runWell("qemu-img", "snapshot", "-c", name, file);
  const before = readFileSync(file);
  const at = Number(before.readBigUInt64BE(64));
  const extra = before.readUInt32BE(at + 36);
  const added = Buffer.alloc(extraBytes - extra, 0xab);
  const names = at + 40 + extra;
  const namesEnd = names + before.readUInt16BE(at + 12) + before.readUInt16BE(at + 14);
  const second = at + Math.ceil((namesEnd - at) / 8) * 8;
  const entry = Buffer.concat([before.subarray(at, names), added, before.subarray(names, namesEnd)]);
  entry.writeUInt32BE(extraBytes, 36);
  const table = Buffer.concat([
    entry,
    Buffer.alloc(-entry.length & 7),
    before.subarray(second, at + CLUSTER),
  ]);
  const bytes = Buffer.alloc(Math.ceil(before.length / CLUSTER + extraBytes / CLUSTER + 1) * CLUSTER);
  before.copy(bytes);
  // At the end, where it has room; what it had is left, as a leak.
  const place = Math.ceil(before.length / CLUSTER) * CLUSTER;
  table.copy(bytes, place);
  bytes.writeBigUInt64BE(BigInt(place), 64);
  writeFileSync(file, bytes);
  return file;
}

describe.skipIf(!qemu)("too much extra data of a snapshot", () => {
  test.each([1032, 3000, 9000])("is cut off, of %i bytes, as qemu-img does", async (extraBytes) => {
    const file = makeDisk(extraBytes);
    const copy = `${file}.copy`;
    copyFileSync(file, copy);
    expect(run("qemu-img", "info", file).status).toBe(1);
    expect((await runCli(["img", "check", file])).status).toBe(1);
    expect((await runCli(["img", "check", "-r", "leaks", file])).status).toBe(1);
    const repaired = await runCli(["img", "check", "-r", "all", file]);
    expect([repaired.status, repaired.stderr]).toEqual([
      0,
      expect.stringContaining(`entry 0 (${extraBytes} > 1024)`),
    ]);
    const theirs = run("qemu-img", "check", "-r", "all", copy);
    expect(theirs.output).toContain(`entry 0 (${extraBytes} > 1024)`);
    runWell("qemu-img", "check", file);
    for (const what of [
      ["snapshot", "-l"],
      ["map", "--output=json"],
    ]) {
      const map = (of: string) => run("qemu-img", ...what, of).output.replace(/ *"offset": \d+/g, "");
      expect(map(file)).toBe(map(copy));
    }
    runWell("qemu-img", "snapshot", "-a", "second", file);
    runWell("qemu-io", "-c", "read -P 7 0 64k", file);
  });

  test("is left alone where its clusters are also a guest's", async () => {
    const file = makeDisk(9000);
    const bytes = readFileSync(file);
    const l1 = Number(bytes.readBigUInt64BE(40));
    const l2 = Number(bytes.readBigUInt64BE(l1) & 0x00ff_ffff_ffff_fe00n);
    bytes.writeBigUInt64BE(BigInt(Number(bytes.readBigUInt64BE(64)) + CLUSTER), l2);
    writeFileSync(file, bytes);
    const refused = await runCli(["img", "check", "-r", "all", file]);
    expect([refused.status, refused.stderr]).toEqual([1, expect.stringContaining("shares clusters")]);
    expect(readFileSync(file).equals(bytes)).toBe(true);
  });
});
