// A block device is a file of fixed size: both disks have them, and do alike.

import { describe, expect, type TestAPI } from "vitest";
import type { Storage } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { KIB, makeFileWith, pattern, readAll } from "./subject.ts";

interface DeviceUnderTest {
  readonly storage: Storage;
  /** Absolute path of an empty folder. */
  readonly root: string;
  /** Of its node. It holds `pattern(DEVICE_BYTES)`. */
  readonly device: string;
}

const DEVICE = { mayBeDevice: true };

export const DEVICE_BYTES = 256 * KIB;

async function contentOf(storage: Storage, device: string): Promise<Uint8Array> {
  const file = await storage.openFile(device, "read", DEVICE);
  try {
    return await readAll(file);
  } finally {
    await file.close();
  }
}

/** Without the time that it takes to compare so many bytes one by one. */
function expectSame(bytes: Uint8Array, expected: Uint8Array): void {
  expect(Buffer.compare(bytes, expected)).toBe(0);
}

export function describeDevices(name: string, test: TestAPI, make: () => Promise<DeviceUnderTest>): void {
  describe(`block devices of ${name}`, () => {
    test("are told by stat, and opened only where that is allowed", async () => {
      const { storage, device } = await make();
      expect(await storage.stat(device)).toMatchObject({ kind: "device", sizeBytes: DEVICE_BYTES });
      for (const access of ["read", "write"] as const) {
        expect((await failureOf(() => storage.openFile(device, access))).code).toBe("E_NOT_A_FILE");
      }
    });

    test("hold what is written, by whatever sector it begins, and are the same file by path and open", async () => {
      const { storage, device } = await make();
      const file = await storage.openFile(device, "write", DEVICE);
      await file.write(pattern(1000, 9), 700);
      await file.flush("test");
      const { settled: _one, ...opened } = await file.stat();
      const { settled: _other, ...named } = (await storage.stat(device)) ?? { settled: false };
      expect(opened).toEqual(named);
      await file.close();
      const expected = pattern(DEVICE_BYTES);
      expected.set(pattern(1000, 9), 700);
      expectSame(await contentOf(storage, device), expected);
    });

    test("take nothing past their end, and nothing of it is written before it", async () => {
      const { storage, device } = await make();
      const file = await storage.openFile(device, "write", DEVICE);
      const attempts = [
        () => file.write(pattern(KIB, 3), DEVICE_BYTES - 512),
        () => file.truncate(DEVICE_BYTES + 1),
        () => file.allocate({ start: DEVICE_BYTES - 1, lengthBytes: 2 }),
        () => file.copyRangeFrom(file, 0, DEVICE_BYTES - 512, KIB),
      ];
      for (const attempt of attempts) expect((await failureOf(attempt)).code).toBe("E_NO_SPACE");
      expectSame(await readAll(file), pattern(DEVICE_BYTES));
      await file.close();
    });

    test("are never cut, so that nobody takes what stands there for zeros", async () => {
      const { storage, device } = await make();
      const file = await storage.openFile(device, "write", DEVICE);
      for (const size of [0, DEVICE_BYTES - 512]) {
        expect((await failureOf(() => file.truncate(size))).code).toBe("E_UNSUPPORTED");
      }
      await file.truncate(DEVICE_BYTES);
      expectSame(await readAll(file), pattern(DEVICE_BYTES));
      await file.close();
    });

    test("read as zeros where a hole was punched, to the byte, and have no hole for all that", async () => {
      const { storage, device } = await make();
      const file = await storage.openFile(device, "write", DEVICE);
      const expected = pattern(DEVICE_BYTES);
      for (const [start, lengthBytes] of [
        [700, 100],
        [5000, 70 * KIB],
        [100 * KIB, 8 * KIB],
        [DEVICE_BYTES - 600, 5000],
      ] as const) {
        await file.punchHole({ start, lengthBytes });
        expected.fill(0, start, start + lengthBytes);
      }
      expectSame(await readAll(file), expected);
      expect([await file.seekData(5000), await file.seekHole(0)]).toEqual([5000, DEVICE_BYTES]);
      expect([await file.seekData(DEVICE_BYTES), await file.seekHole(DEVICE_BYTES)]).toEqual([
        undefined,
        DEVICE_BYTES,
      ]);
      await file.close();
    });

    test("get zeros for the holes of what is copied to them, whatever stood there", async () => {
      const { storage, device, root } = await make();
      const source = await makeFileWith(storage, `${root}/sparse`, pattern(10, 4));
      await source.truncate(128 * KIB);
      await source.write(pattern(10, 5), 128 * KIB - 10);
      const file = await storage.openFile(device, "write", DEVICE);
      await file.copyRangeFrom(source, 0, 4096, 128 * KIB);
      const expected = pattern(DEVICE_BYTES);
      expected.set(await readAll(source), 4096);
      expectSame(await readAll(file), expected);
      await Promise.all([source.close(), file.close()]);
    });

    test("share locks between all who have them open, and have no lease", async () => {
      const { storage, device } = await make();
      const [one, other] = [
        await storage.openFile(device, "write", DEVICE),
        await storage.openFile(device, "read", DEVICE),
      ];
      expect(one.lock({ start: 100, lengthBytes: 2 }, "exclusive")).toBe(true);
      expect(other.wouldConflict({ start: 101, lengthBytes: 1 }, "shared")).toBe(true);
      expect(other.lock({ start: 101, lengthBytes: 1 }, "shared")).toBe(false);
      expect(other.takeLease()).toBe("unavailable");
      await Promise.all([one.close(), other.close()]);
    });

    test("keep their name: no file is made in their place, and they have no times and owners to be set", async () => {
      const { storage, device } = await make();
      expect((await failureOf(() => storage.createFile(device, 0o600))).code).toBe("E_EXISTS");
      const file = await storage.openFile(device, "write", DEVICE);
      const before = await file.stat();
      const access = { mode: 0o777, ownerId: 1, groupId: 1 };
      expect((await failureOf(() => file.setAccess(access))).code).toBe("E_UNSUPPORTED");
      expect(await file.setModified("1")).toBe(true);
      expect(await file.setAttribute("security.selinux", new Uint8Array(1))).toBe(false);
      expect(await file.stat()).toEqual(before);
      await file.close();
    });
  });
}
