import { closeSync, openSync, writeSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { ImageFormat, OverlayOptions } from "../../../src/format/index.ts";
import { checkOverlayIsEmpty, openChain } from "../../../src/format/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { makeOverlay, makeRaw } from "../../helpers/make-image.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

interface Given {
  readonly backingName?: string;
  readonly backingFormat?: ImageFormat;
  readonly options?: OverlayOptions;
  /** Bytes to overwrite in the overlay, after it was made. */
  readonly overwrite?: readonly [at: number, bytes: readonly number[]];
}

/** The objections against an overlay that was made as given, over base.raw. */
async function objectionsTo({ backingName, backingFormat, options, overwrite }: Given): Promise<string[]> {
  const folder = makeFolder();
  makeRaw(`${folder}/base.raw`);
  makeRaw(`${folder}/other.raw`);
  makeRaw(`${folder}/longer.raw`, 2 * 1024 * 1024);
  const path = await makeOverlay(`${folder}/top.qcow2`, backingName ?? "base.raw", backingFormat, options);
  if (overwrite) {
    const file = openSync(path, "r+");
    writeSync(file, Uint8Array.from(overwrite[1]), 0, overwrite[1].length, overwrite[0]);
    closeSync(file);
  }
  const storage = makeNodeStorage();
  const gate = { allowPaths: [], currentFolder: "/" };
  const overlay = await openChain(storage, path, { format: "qcow2", gate });
  const base = await openChain(storage, `${folder}/base.raw`, { format: "raw", gate });
  const [backing] = base.links;
  try {
    return backing ? await checkOverlayIsEmpty(overlay, backing) : ["no base"];
  } finally {
    await overlay.close();
    await base.close();
  }
}

describe("checkOverlayIsEmpty", () => {
  test("has no objection to an empty overlay over the very image, however it names it", async () => {
    expect(await objectionsTo({})).toEqual([]);
    expect(await objectionsTo({ backingName: "./base.raw" })).toEqual([]);
    expect(await objectionsTo({ options: { clusterSizeBytes: 512, compat: "0.10" } })).toEqual([]);
  });

  test("objects to data", async () => {
    expect(await objectionsTo({ overwrite: [0x30007, [1]] })).toEqual([
      expect.stringContaining("holds data"),
    ]);
  });

  test("finds data at the end of a large L1 table", async () => {
    const options = { clusterSizeBytes: 512 };
    // 32 entries of 32 KiB each: 4 clusters of header, refcounts and L1 table before the last entry's end.
    const overwrite = [3 * 512 + 32 * 8 - 1, [1]] as const;
    expect(await objectionsTo({ options, overwrite })).toEqual([expect.stringContaining("holds data")]);
  });

  test("objects to another backing image of the same size", async () => {
    expect(await objectionsTo({ backingName: "other.raw" })).toEqual([
      expect.stringMatching(/its backing file is .*other\.raw, not .*base\.raw/),
    ]);
  });

  test("objects to another virtual size", async () => {
    expect(await objectionsTo({ overwrite: [24, [0, 0, 0, 0, 0, 0x20, 0, 0]] })).toEqual([
      "its virtual size is 2097152, not 1048576",
    ]);
  });

  test("objects to the dirty and the corrupt bit", async () => {
    expect(await objectionsTo({ overwrite: [79, [3]] })).toEqual([
      "its dirty bit is set",
      "its corrupt bit is set",
    ]);
  });

  test("objects to no backing file", async () => {
    expect(await objectionsTo({ overwrite: [8, [0, 0, 0, 0, 0, 0, 0, 0]] })).toEqual([
      "it has no backing file",
    ]);
  });
});
