// What of a stat lasts as long as its file does.

import { statSync } from "node:fs";
import { expect, test } from "vitest";
import { describeStat } from "../../../src/storage/disk/file-stat.ts";
import type { FileStat } from "../../../src/storage/index.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const HARD_DISK = 0x801n;
const IN_MEMORY = 0x2an;

function look(fileSystemId: string, device: bigint): FileStat {
  const stats = Object.assign(statSync(makeFolder(), { bigint: true }), { dev: device, birthtimeNs: 5n });
  return describeStat("/a", stats, {
    nowMs: 0,
    bootId: () => "",
    findPlace: () => ({ fileSystemId, mountId: "" }),
  });
}

test("a file of an overlay, which its first writer copies, is not told by its birth", () => {
  expect({ ...look("overlay:1", IN_MEMORY) }.bornNs).toBe("0");
  expect({ ...look("tmpfs:1", IN_MEMORY) }.bornNs).toBe("5");
  expect({ ...look("ext:1", HARD_DISK) }.bornNs).toBe("5");
});
