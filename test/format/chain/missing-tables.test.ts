// Images of which a part is not in the file: what reading them gives, whatever they were cut off at.

import { guestOffset, guestRange } from "../../../src/units/index.ts";
import { copyFileSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, expect, test } from "vitest";
import { ImgtxError } from "../../../src/errors/index.ts";
import { openForInfo } from "../../../src/format/open/open-for-info.ts";
import { openForWriting } from "../../../src/format/open/open-for-writing.ts";
import { openImage } from "../../../src/format/open/open-image.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { unpackFixture } from "../../helpers/fixtures.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { makeRaw } from "../../helpers/make-image.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const storage = makeNodeStorage();
const CLUSTER = 65_536;

function gateOf(path: string) {
  return { allowPaths: [dirname(path)], currentFolder: dirname(path) };
}

async function readAll(path: string): Promise<Buffer> {
  const image = await openImage(storage, path, { format: "qcow2", gate: gateOf(path) });
  try {
    const bytes = Buffer.alloc(Math.min(image.virtualSizeBytes, 4 * 1024 * 1024));
    await image.read(bytes, guestOffset(0));
    await image.findExtents(guestRange(0, image.virtualSizeBytes));
    return bytes;
  } finally {
    await image.close();
  }
}

/** As a library in Go makes it: the L1 table is to be at cluster 7, and the file ends with cluster 2. */
function makeWithoutL1(path: string, { counted = [0, 1, 2], backing = "" } = {}): string {
  const file = Buffer.alloc(3 * CLUSTER);
  file.write("QFI\xfb", "latin1");
  file.writeUInt32BE(3, 4);
  file.writeBigUInt64BE(backing === "" ? 0n : 512n, 8);
  file.writeUInt32BE(backing.length, 16);
  file.writeUInt32BE(16, 20);
  file.writeBigUInt64BE(2n ** 36n, 24);
  file.writeUInt32BE(128, 36);
  file.writeBigUInt64BE(BigInt(7 * CLUSTER), 40);
  file.writeBigUInt64BE(BigInt(CLUSTER), 48);
  file.writeUInt32BE(1, 56);
  file.writeUInt32BE(4, 96);
  file.writeUInt32BE(104, 100);
  if (backing !== "") {
    file.writeUInt32BE(0xe2792aca, 104);
    file.writeUInt32BE(3, 108);
    file.write("raw", 112);
    file.write(backing, 512);
  }
  file.writeBigUInt64BE(BigInt(2 * CLUSTER), CLUSTER);
  for (const cluster of counted) file.writeUInt16BE(1, 2 * CLUSTER + 2 * cluster);
  writeFileSync(path, file);
  return path;
}

describe("an image whose L1 table was never written", () => {
  test("reads as zeros where nothing is counted as used", async () => {
    const path = makeWithoutL1(`${makeFolder()}/alone.qcow2`);
    expect((await readAll(path)).every((byte) => byte === 0)).toBe(true);
  });

  test("shows what it stands on, and says so", async () => {
    const folder = makeFolder();
    makeRaw(`${folder}/base.raw`);
    const path = makeWithoutL1(`${folder}/over.qcow2`, { backing: "base.raw" });
    expect((await readAll(path)).toString("latin1", 0, 13)).toBe("guest content");
    const image = await openImage(storage, path, { format: "qcow2", gate: gateOf(path) });
    expect(image.chain.links[0]!.warnings).toEqual([{ code: "L1 table past end", image: path }]);
    await image.close();
  });

  test.each([
    ["a cluster of the file", [0, 1, 2, 3]],
    ["a cluster past its end", [0, 1, 2, 4000]],
  ])("is refused where the refcounts say that %s is in use: it had data", async (_, counted) => {
    const path = makeWithoutL1(`${makeFolder()}/lost.qcow2`, { counted });
    const error = await errorFrom(readAll(path));
    expect(error).toMatchObject({ code: "E_CORRUPT", image: path, field: "l1_table_offset" });
    expect(error.message).toContain(
      "bytes 0x30000 onward are missing: the file has 196608 bytes; its tables need 459776",
    );
  });

  test("is not written to", async () => {
    const path = makeWithoutL1(`${makeFolder()}/alone.qcow2`);
    const error = await errorFrom(openForWriting(storage, path, { format: "qcow2", gate: gateOf(path) }));
    expect(error.code).toBe("E_CORRUPT");
    expect(statSync(path).size).toBe(3 * CLUSTER);
  });
});

describe("an image that was cut off", () => {
  test.each(["v3.qcow2", "v2.qcow2", "compressed-zlib.qcow2", "extended-l2.qcow2"])(
    "reads as it was, or names the bytes that lack: at each cluster of %s",
    async (name) => {
      const whole = await unpackFixture(name, makeFolder());
      const content = await readAll(whole);
      const path = `${makeFolder()}/cut.qcow2`;
      let refusals = 0;
      for (let end = CLUSTER; end < statSync(whole).size; end += CLUSTER) {
        copyFileSync(whole, path);
        truncateSync(path, end);
        try {
          expect((await readAll(path)).equals(content), `cut at ${end}`).toBe(true);
        } catch (error) {
          if (!(error instanceof ImgtxError)) throw error;
          expect(error.code).toBe("E_CORRUPT");
          expect(error.message).toMatch(
            new RegExp(
              `bytes 0x[0-9a-f]+ onward are missing: the file has ${end} bytes; its tables need \\d+`,
            ),
          );
          refusals += 1;
        }
        const info = await openForInfo(storage, path, "qcow2", { allowPaths: [], currentFolder: "/" });
        expect(info.virtualSizeBytes).toBeGreaterThan(0);
        await info.file.close();
      }
      expect(refusals).toBeGreaterThan(3);
    },
  );
});
