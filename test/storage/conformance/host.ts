// The host: names, time, holders.

import { describe, expect, test } from "vitest";
import { type MakeStorage } from "./subject.ts";

export function describeHost(makeStorage: MakeStorage): void {
  describe("host", () => {
    test("random names are ten characters, and differ", async () => {
      const { storage } = await makeStorage();
      const names = Array.from({ length: 50 }, () => storage.host.randomName());
      for (const name of names) expect(name).toMatch(/^[a-z0-9]{10}$/);
      expect(new Set(names).size).toBe(50);
    });

    test("sleep lets time pass", async () => {
      const { storage } = await makeStorage();
      const before = storage.host.now();
      await storage.host.sleep(30);
      expect(storage.host.now() - before).toBeGreaterThanOrEqual(29);
    });

    test("nobody but this process is found to hold a file of its own", async () => {
      const { storage, root } = await makeStorage();
      const file = await storage.createFile(`${root}/a`, 0o600);
      file.lock({ start: 0, lengthBytes: 1 }, "exclusive");
      expect(await storage.findHolders(await file.stat())).toEqual([]);
      await file.close();
    });
  });
}
