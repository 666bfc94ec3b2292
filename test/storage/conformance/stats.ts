// What stat tells.

import { describe, expect, test } from "vitest";
import type { FileStat } from "../../../src/storage/index.ts";
import { BLOCK, makeFileWith, pattern, type MakeStorage } from "./subject.ts";

/** Whether the times are settled changes by itself, as the clock goes on between two calls. */
function timeless(stat: FileStat | undefined): unknown {
  return stat && { ...stat, settled: null };
}

export function describeStats(makeStorage: MakeStorage): void {
  describe("stat", () => {
    test("tells files, folders and links apart, and follows links only when asked to", async () => {
      const { storage, root } = await makeStorage();
      await (await makeFileWith(storage, `${root}/a`, pattern(10))).close();
      await storage.makeSymlink("a", `${root}/link`);
      await storage.makeSymlink("none", `${root}/dangling`);
      expect((await storage.stat(root))?.kind).toBe("folder");
      expect(await storage.stat(`${root}/a`)).toMatchObject({ kind: "file", sizeBytes: 10 });
      expect(timeless(await storage.stat(`${root}/link`))).toEqual(timeless(await storage.stat(`${root}/a`)));
      expect((await storage.statLink(`${root}/link`))?.kind).toBe("symlink");
      expect(await storage.stat(`${root}/dangling`)).toBeUndefined();
      expect((await storage.statLink(`${root}/dangling`))?.kind).toBe("symlink");
      expect(await storage.stat(`${root}/none`)).toBeUndefined();
      expect(await storage.statLink(`${root}/a/below-a-file`)).toBeUndefined();
      await storage.makeSymlink("circle", `${root}/circle`);
      expect(await storage.statLink(`${root}/circle/below`)).toBeUndefined();
    });

    test("of a path and of its open file agree", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(10));
      expect(timeless(await file.stat())).toEqual(timeless(await storage.stat(`${root}/a`)));
      await file.close();
    });

    test("two files differ in inode, and share the file system", async () => {
      const { storage, root } = await makeStorage();
      await (await storage.createFile(`${root}/a`, 0o600)).close();
      await (await storage.createFile(`${root}/b`, 0o640)).close();
      const a = await storage.stat(`${root}/a`);
      const b = await storage.stat(`${root}/b`);
      expect(a).toMatchObject({ mode: 0o600, ownerId: storage.host.userId });
      expect(b).toMatchObject({ mode: 0o640, fileSystem: a?.fileSystem });
      expect(b?.inode).not.toBe(a?.inode);
    });

    test("a write moves the time of modification and not that of birth", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(10));
      const before = await file.stat();
      await storage.host.sleep(20);
      await file.write(pattern(10, 2), 0);
      const after = await file.stat();
      expect(BigInt(after.modifiedNs)).toBeGreaterThan(BigInt(before.modifiedNs));
      expect(after.bornNs).toBe(before.bornNs);
      await file.close();
    });

    test("a time of modification can be put back, to the nanosecond", async () => {
      const { storage, root } = await makeStorage();
      const file = await makeFileWith(storage, `${root}/a`, pattern(10));
      const before = await file.stat();
      const times = ["1700000000123456789", "1000000000", "1"];
      for (const modifiedNs of times) {
        expect(await file.setModified(modifiedNs)).toBe(true);
        const after = await file.stat();
        const { changedNs, settled } = after;
        expect(after).toEqual({ ...before, modifiedNs, changedNs, settled });
      }
      await file.write(pattern(10, 2), 0);
      expect((await file.stat()).modifiedNs).not.toBe("1");
      await file.setModified(before.modifiedNs);
      await file.flush("time");
      const { changedNs } = await file.stat();
      // It may settle between the two looks.
      const named = await storage.stat(`${root}/a`);
      expect(named).toEqual({ ...before, changedNs, settled: named?.settled });
      await file.close();
    });

    test("a sparse file takes less than its size", async () => {
      const { storage, root } = await makeStorage();
      const file = await storage.createFile(`${root}/a`, 0o600);
      await file.truncate(1024 * BLOCK);
      expect(await file.stat()).toMatchObject({ sizeBytes: 1024 * BLOCK });
      expect((await file.stat()).allocatedBytes).toBeLessThan(2 * BLOCK);
      await file.close();
    });
  });
}
