// Compressed clusters where the system has neither libdeflate nor libzstd, and Node no zstd.

import { guestOffset } from "../../../src/units/index.ts";
import { createHash } from "node:crypto";
import { afterAll, expect, test, vi } from "vitest";
import { findFixture, unpackFixture } from "../../helpers/fixtures.ts";

// Other files of this process have loaded the true modules already, and go on with them afterwards.
vi.resetModules();
vi.doMock("../../../src/storage/deflate.ts", () => ({ loadDeflateUnpacker: () => undefined }));
vi.doMock("../../../src/storage/zstd.ts", async (importOriginal) => {
  const { loadLibzstd } = await importOriginal<typeof import("../../../src/storage/zstd.ts")>();
  return { loadZstd: () => loadLibzstd("libzstd-that-is-not-there.so.1") };
});
const { openImage } = await import("../../../src/format/index.ts");
const { makeNodeStorage } = await import("../../../src/storage/index.ts");
const { errorFrom } = await import("../../helpers/expect-error.ts");
afterAll(() => {
  vi.doUnmock("../../../src/storage/deflate.ts");
  vi.doUnmock("../../../src/storage/zstd.ts");
  vi.resetModules();
});

async function hashOf(name: string): Promise<string> {
  const path = await unpackFixture(name);
  const image = await openImage(makeNodeStorage(), path, {
    format: "qcow2",
    gate: { allowPaths: [], currentFolder: "/" },
  });
  const bytes = new Uint8Array(image.virtualSizeBytes);
  try {
    await image.read(bytes, guestOffset(0));
  } finally {
    await image.close();
  }
  return createHash("sha256").update(bytes).digest("hex");
}

test.each(["", "-512", "-2m", "-v2"])("zlib reads compressed-zlib%s.qcow2 by itself", async (variant) => {
  const name = `compressed-zlib${variant}.qcow2`;
  expect(await hashOf(name)).toBe(findFixture(name).guest?.sha256);
});

test("a cluster compressed with zstd is refused with its place, and what to install", async () => {
  const error = await errorFrom(hashOf("compressed-zstd.qcow2"));
  expect(error).toMatchObject({ code: "E_UNSUPPORTED", image: expect.stringContaining("compressed-zstd") });
  expect([error.offset, error.hint]).toEqual([expect.any(Number), expect.stringContaining("libzstd1")]);
});
