import { appendFileSync, copyFileSync, utimesSync, writeFileSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { Fingerprint } from "../../src/format/index.ts";
import { describeChanges, describeContentChanges, takeFingerprint } from "../../src/format/index.ts";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { makeRaw } from "../helpers/make-image.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const storage = makeNodeStorage();

async function fingerprintOf(path: string, hasHeader: boolean): Promise<Fingerprint> {
  const file = await storage.openFile(path, "read");
  try {
    return await takeFingerprint(file, hasHeader);
  } finally {
    await file.close();
  }
}

const BEFORE: Fingerprint = {
  sizeBytes: 196_616,
  modifiedNs: "1795435262000000007",
  inode: "12",
  bornNs: "1795435200000000000",
  headerSha256: "aa",
};

describe("a fingerprint", () => {
  test("is the same for a file that nobody touched, and survives JSON", async () => {
    const path = makeRaw(`${makeFolder()}/base.raw`);
    const before = await fingerprintOf(path, true);
    const now = await fingerprintOf(path, true);
    expect(describeChanges(JSON.parse(JSON.stringify(before)) as Fingerprint, now)).toEqual([]);
    expect(before.headerSha256).toMatch(/^[0-9a-f]{64}$/);
  });

  test("does not look into a raw image", async () => {
    const path = makeRaw(`${makeFolder()}/base.raw`);
    expect((await fingerprintOf(path, false)).headerSha256).toBeNull();
  });

  test("tells that the header changed though size and time are back", async () => {
    const path = `${makeFolder()}/base.raw`;
    writeFileSync(path, "one");
    utimesSync(path, 1000, 1000);
    const before = await fingerprintOf(path, true);
    writeFileSync(path, "two");
    utimesSync(path, 1000, 1000);
    expect(describeChanges(before, await fingerprintOf(path, true))).toEqual(["header"]);
  });

  test("tells that the file grew", async () => {
    const path = makeRaw(`${makeFolder()}/base.raw`, 1000);
    const before = await fingerprintOf(path, false);
    appendFileSync(path, "x");
    const changes = describeChanges(before, await fingerprintOf(path, false));
    expect(changes[0]).toBe("size 1000 → 1001");
    expect(changes[1]).toMatch(/^modified /);
  });

  test("tells a copy from the original, unless which file it is does not count", async () => {
    const folder = makeFolder();
    const path = makeRaw(`${folder}/base.raw`);
    utimesSync(path, 1000, 1000);
    copyFileSync(path, `${folder}/copy.raw`);
    utimesSync(`${folder}/copy.raw`, 1000, 1000);
    const before = await fingerprintOf(path, true);
    const copy = await fingerprintOf(`${folder}/copy.raw`, true);
    expect(describeChanges(before, copy)).toEqual([
      `replaced by another file (inode ${before.inode} → ${copy.inode})`,
    ]);
    expect(describeContentChanges(before, copy)).toEqual([]);
  });

  test.each([
    ["on the same day by the time", "1795435384000000000", "12:01:02 → 12:03:04Z"],
    ["on another day by date and time", "1795521662000000000", "2026-11-23 12:01:02Z → 2026-11-24 12:01:02Z"],
    ["in the same second by the fraction", "1795435262000000008", "12:01:02.000000007 → 12:01:02.000000008Z"],
  ])("tells a change %s", (_, modifiedNs, times) => {
    expect(describeChanges(BEFORE, { ...BEFORE, modifiedNs })).toEqual([`modified ${times}`]);
  });

  test("tells a file that was removed and made again under the same inode", () => {
    expect(describeChanges(BEFORE, { ...BEFORE, bornNs: "5" })).toHaveLength(1);
  });

  test("a volume that became larger has changed a raw image, and none of qcow2", () => {
    const qcow2 = { ...BEFORE, fileSystemId: "device:", headerSha256: "ab" };
    const grown = { ...qcow2, sizeBytes: BEFORE.sizeBytes + 512 };
    expect(describeChanges(qcow2, grown)).toEqual([]);
    expect(describeChanges(grown, qcow2)).toHaveLength(1);
    expect(describeChanges({ ...qcow2, headerSha256: null }, { ...grown, headerSha256: null })).toHaveLength(
      1,
    );
    expect(describeChanges(BEFORE, { ...BEFORE, sizeBytes: BEFORE.sizeBytes + 512 })).toHaveLength(1);
  });
});
