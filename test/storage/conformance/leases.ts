// Leases for reading: whether anybody has a file open for writing. That others wait for one is tried with a
// process of its own, in ../leases.test.ts.

import { describe, expect, test } from "vitest";
import type { MakeStorage } from "./subject.ts";

export function describeLeases(makeStorage: MakeStorage): void {
  describe("leases", () => {
    test("a file that nobody has open for writing is leased, whoever reads it", async () => {
      const { storage, root } = await makeStorage();
      await (await storage.createFile(`${root}/a`, 0o600)).close();
      const [file, reader] = [
        await storage.openFile(`${root}/a`, "read"),
        await storage.openFile(`${root}/a`, "read"),
      ];
      expect(file.takeLease()).toBe("held");
      expect(file.takeLease()).toBe("held");
      expect(file.isLeaseWanted()).toBe(false);
      await (await storage.openFile(`${root}/a`, "read")).close();
      expect(file.isLeaseWanted()).toBe(false);
      expect(reader.takeLease()).toBe("held");
      await file.close();
      await reader.close();
    });

    test("a file that somebody has open for writing is not, until that is closed", async () => {
      const { storage, root } = await makeStorage();
      const made = await storage.createFile(`${root}/a`, 0o600);
      const file = await storage.openFile(`${root}/a`, "read");
      expect(file.takeLease()).toBe("writers");
      await made.close();
      const writer = await storage.openFile(`${root}/a`, "write");
      expect(file.takeLease()).toBe("writers");
      await writer.close();
      expect(file.takeLease()).toBe("held");
      await file.close();
    });

    test("a lease beside nobody is had by who is alone with a file, and is in no reader's way", async () => {
      const { storage, root } = await makeStorage();
      const made = await storage.createFile(`${root}/a`, 0o600);
      const file = await storage.openFile(`${root}/a`, "read");
      expect(file.takeLease("nobody")).toBe("writers");
      await made.close();
      expect(file.takeLease("nobody")).toBe("held");
      const reader = await storage.openFile(`${root}/a`, "read");
      expect(file.isLeaseWanted()).toBe(false);
      file.dropLease();
      expect(file.takeLease("nobody")).toBe("writers");
      expect(file.takeLease()).toBe("held");
      // Also where another lease is held already, which goes then.
      expect(file.takeLease("nobody")).toBe("writers");
      await reader.close();
      await (await storage.openFile(`${root}/a`, "write")).close();
      expect(file.takeLease()).toBe("held");
      expect(file.takeLease("nobody")).toBe("held");
      await file.close();
    });

    test("a lease that is given back, by itself or with its file, is in nobody's way", async () => {
      const { storage, root } = await makeStorage();
      await (await storage.createFile(`${root}/a`, 0o600)).close();
      const file = await storage.openFile(`${root}/a`, "read");
      file.dropLease();
      expect(file.takeLease()).toBe("held");
      file.dropLease();
      expect(file.isLeaseWanted()).toBe(false);
      const writer = await storage.openFile(`${root}/a`, "write");
      await writer.close();
      expect(file.takeLease()).toBe("held");
      await file.close();
      file.dropLease();
      await (await storage.openFile(`${root}/a`, "write")).close();
    });
  });
}
