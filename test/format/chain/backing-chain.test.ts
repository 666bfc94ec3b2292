import { mkdirSync, openSync, writeSync, closeSync, symlinkSync } from "node:fs";
import { describe, expect, test } from "vitest";
import { CHAIN_DEPTH_MAX, openChain } from "../../../src/format/index.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { makeOverlay, makeRaw, VIRTUAL_SIZE_BYTES } from "../../helpers/make-image.ts";
import { makeFolder, watchStorage } from "../../helpers/temporary-folder.ts";

const GATE = { allowPaths: [], currentFolder: "/" };

function overwrite(path: string, at: number, bytes: Uint8Array): void {
  const file = openSync(path, "r+");
  writeSync(file, bytes, 0, bytes.length, at);
  closeSync(file);
}

describe("openChain", () => {
  test("gives the active layer first and the base last, with names, paths and sizes", async () => {
    const folder = makeFolder();
    mkdirSync(`${folder}/bases`);
    makeRaw(`${folder}/bases/base.raw`, 1000);
    await makeOverlay(`${folder}/middle.qcow2`, "bases/base.raw");
    await makeOverlay(`${folder}/top.qcow2`, "./middle.qcow2", "qcow2");
    const { storage, countOpen } = watchStorage();
    const chain = await openChain(storage, `${folder}/top.qcow2`, { format: "qcow2", gate: GATE });
    expect(chain.links).toMatchObject([
      { path: `${folder}/top.qcow2`, name: undefined, format: "qcow2", virtualSizeBytes: VIRTUAL_SIZE_BYTES },
      { path: `${folder}/./middle.qcow2`, name: "./middle.qcow2", format: "qcow2", warnings: [] },
      { path: `${folder}/./bases/base.raw`, name: "bases/base.raw", format: "raw", virtualSizeBytes: 1024 },
    ]);
    expect(chain.links.map((link) => link.header?.backingFormat)).toEqual(["qcow2", "raw", undefined]);
    expect(countOpen()).toBe(3);
    await chain.close();
    await chain.close();
    expect(countOpen()).toBe(0);
  });

  test("recognises a qcow2 active layer by its magic", async () => {
    const folder = makeFolder();
    makeRaw(`${folder}/base.raw`);
    await makeOverlay(`${folder}/top.qcow2`, "base.raw");
    const chain = await openChain(watchStorage().storage, `${folder}/top.qcow2`, {
      format: undefined,
      gate: GATE,
    });
    expect(chain.links[0]?.format).toBe("qcow2");
    await chain.close();
  });

  test("never guesses raw", async () => {
    const path = makeRaw(`${makeFolder()}/disk.img`);
    const { storage, countOpen } = watchStorage();
    const error = await errorFrom(openChain(storage, path, { format: undefined, gate: GATE }));
    expect(error).toMatchObject({ code: "E_FORMAT_UNKNOWN", image: path, exitCode: 14 });
    expect(error.hint).toContain("--format raw");
    expect(countOpen()).toBe(0);
  });

  test("takes a disk for raw where that is stated, and warns of a foreign magic in it", async () => {
    const folder = makeFolder();
    makeRaw(`${folder}/base.raw`);
    const path = await makeOverlay(`${folder}/disk.img`, "/etc/passwd");
    const chain = await openChain(watchStorage().storage, path, { format: "raw", gate: GATE });
    expect(chain.links).toHaveLength(1);
    expect(chain.links[0]).toMatchObject({ format: "raw", header: undefined });
    expect(chain.links[0]?.warnings).toEqual([{ code: "used as raw", image: path, looksLike: "qcow2" }]);
    await chain.close();
  });

  test("warns of an overlay without a backing format, and says how to mend it", async () => {
    const folder = makeFolder();
    makeRaw(`${folder}/base.raw`);
    await makeOverlay(`${folder}/middle.qcow2`, "base.raw");
    const path = await makeOverlay(`${folder}/top.qcow2`, "middle.qcow2", "qcow2");
    // An unknown extension in the place of the backing format.
    overwrite(path, 112, Uint8Array.of(0x12, 0x34, 0x56, 0x78));
    const chain = await openChain(watchStorage().storage, path, { format: "qcow2", gate: GATE });
    expect(chain.links[1]?.format).toBe("qcow2");
    expect(chain.links[1]?.warnings).toEqual([
      { code: "format not stated", image: path, name: "middle.qcow2" },
    ]);
    await chain.close();
  });

  test("finds backing images beside a symbolic link, as QEMU does, not beside what it leads to", async () => {
    const folder = makeFolder();
    mkdirSync(`${folder}/store`);
    mkdirSync(`${folder}/links`);
    makeRaw(`${folder}/store/base.raw`, 512);
    makeRaw(`${folder}/links/base.raw`, 1024);
    await makeOverlay(`${folder}/store/top.qcow2`, "base.raw");
    symlinkSync("../store/top.qcow2", `${folder}/links/top.qcow2`);
    const chain = await openChain(watchStorage().storage, `${folder}/links/top.qcow2`, {
      format: "qcow2",
      gate: GATE,
    });
    expect(chain.links[1]?.virtualSizeBytes).toBe(1024);
    await chain.close();
  });

  test("names the overlay, the stored name and the resolved path of a missing backing image", async () => {
    const folder = makeFolder();
    const path = await makeOverlay(`${folder}/top.qcow2`, "../gone.qcow2", "qcow2");
    const { storage, countOpen } = watchStorage();
    const error = await errorFrom(openChain(storage, path, { format: "qcow2", gate: GATE }));
    expect(error).toMatchObject({ code: "E_NOT_FOUND", image: path, field: "backing_file_name" });
    expect(error.message).toContain('"../gone.qcow2"');
    expect(error.message).toContain(`"${folder}/../gone.qcow2"`);
    expect(error.hint).toContain("rebase");
    expect(countOpen()).toBe(0);
  });

  test("says which overlay names a folder or a device as its backing file", async () => {
    const path = await makeOverlay(`${makeFolder()}/top.qcow2`, "/dev/null", "qcow2");
    const error = await errorFrom(openChain(watchStorage().storage, path, { format: "qcow2", gate: GATE }));
    expect(error).toMatchObject({ code: "E_NOT_A_FILE", image: "/dev/null" });
    expect(error.hint).toContain(path);
  });

  test.each([
    ["itself", "top.qcow2"],
    ["itself by another name", "alias.qcow2"],
    ["an overlay of its own", "other.qcow2"],
  ])("finds that an image stands on %s, by inode", async (_, backingName) => {
    const folder = makeFolder();
    const path = await makeOverlay(`${folder}/top.qcow2`, backingName, "qcow2");
    await makeOverlay(`${folder}/other.qcow2`, "top.qcow2", "qcow2");
    symlinkSync("top.qcow2", `${folder}/alias.qcow2`);
    const { storage, countOpen } = watchStorage();
    const error = await errorFrom(openChain(storage, path, { format: "qcow2", gate: GATE }));
    expect(error).toMatchObject({ code: "E_LOOP", exitCode: 14 });
    expect(countOpen()).toBe(0);
  });

  test("opens as many images as the depth allows, and not one more", async () => {
    const folder = makeFolder();
    makeRaw(`${folder}/0`);
    for (let index = 1; index <= CHAIN_DEPTH_MAX; index += 1) {
      await makeOverlay(`${folder}/${index}`, `${index - 1}`, index === 1 ? "raw" : "qcow2");
    }
    const { storage, countOpen } = watchStorage();
    const deepest = `${folder}/${CHAIN_DEPTH_MAX - 1}`;
    const chain = await openChain(storage, deepest, { format: "qcow2", gate: GATE });
    expect(chain.links).toHaveLength(CHAIN_DEPTH_MAX);
    await chain.close();
    const tooDeep = `${folder}/${CHAIN_DEPTH_MAX}`;
    const error = await errorFrom(openChain(storage, tooDeep, { format: "qcow2", gate: GATE }));
    expect(error).toMatchObject({ code: "E_LOOP", image: tooDeep });
    expect(countOpen()).toBe(0);
  });

  test("reads an image's header once where it fits the first read", async () => {
    const folder = makeFolder();
    makeRaw(`${folder}/base.raw`);
    const path = await makeOverlay(`${folder}/top.qcow2`, "base.raw", "raw", { clusterSizeBytes: 2 ** 21 });
    const { storage, opened } = watchStorage();
    const chain = await openChain(storage, path, { format: "qcow2", gate: GATE });
    expect(opened).toEqual([path, `${folder}/base.raw`]);
    await chain.close();
  });

  test("exposes the dirty and the corrupt bit, and leaves it to the caller to judge them", async () => {
    const folder = makeFolder();
    makeRaw(`${folder}/base.raw`);
    const path = await makeOverlay(`${folder}/top.qcow2`, "base.raw");
    overwrite(path, 79, Uint8Array.of(3));
    const chain = await openChain(watchStorage().storage, path, { format: "qcow2", gate: GATE });
    expect(chain.links[0]?.header).toMatchObject({ isDirty: true, isCorrupt: true });
    await chain.close();
  });

  test("refuses a feature that it does not know by the name that the image gives it", async () => {
    const folder = makeFolder();
    makeRaw(`${folder}/base.raw`);
    const path = await makeOverlay(`${folder}/top.qcow2`, "base.raw");
    overwrite(path, 72, Uint8Array.of(0x80));
    // The table's first entry, "dirty bit", becomes that of bit 63, with an escape sequence in its name.
    overwrite(path, 136, Uint8Array.of(0, 63, 0x1b));
    const error = await errorFrom(openChain(watchStorage().storage, path, { format: "qcow2", gate: GATE }));
    expect(error).toMatchObject({ code: "E_UNSUPPORTED", image: path, field: "incompatible_features" });
    expect(error.message).toBe("Unsupported qcow2 feature(s): \\u{1b}irty bit");
  });

  test.each([
    [1, "AES"],
    [9, "method 9"],
  ])("refuses encryption %i as %s", async (method, name) => {
    const path = await makeOverlay(`${makeFolder()}/top.qcow2`, "base.raw");
    overwrite(path, 35, Uint8Array.of(method));
    const error = await errorFrom(openChain(watchStorage().storage, path, { format: "qcow2", gate: GATE }));
    expect(error.code).toBe("E_UNSUPPORTED");
    expect(error.message).toContain(name);
  });
});
