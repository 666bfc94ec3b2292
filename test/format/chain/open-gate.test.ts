import { mkdirSync, rmSync, symlinkSync } from "node:fs";
import { describe, expect, test } from "vitest";
import type { GateOptions } from "../../../src/format/index.ts";
import { openChain } from "../../../src/format/index.ts";
import { decodeHeader } from "../../../src/format/qcow2/codec/header.ts";
import { encodeHeaderCluster } from "../../../src/format/qcow2/codec/header-cluster.ts";
import { hostOffset } from "../../../src/units/index.ts";
import { makeOverlay, makeRaw } from "../../helpers/make-image.ts";
import { HEADER_V3 } from "../../helpers/format/header-samples.ts";
import { makeFolder, watchStorage } from "../../helpers/temporary-folder.ts";

const CLOSED: GateOptions = { allowPaths: [], currentFolder: "/" };

/** Opens the chain of an image, and says what was opened on the way. */
async function tryOpen(path: string, gate: GateOptions): Promise<{ opened: string[]; error: unknown }> {
  const { storage, opened, countOpen } = watchStorage();
  let error: unknown;
  try {
    await (await openChain(storage, path, { format: "qcow2", gate })).close();
  } catch (thrown) {
    error = thrown;
  }
  expect(countOpen()).toBe(0);
  return { opened, error };
}

/** images/ with an overlay, and elsewhere/ with a raw image that it names. */
async function makeOutsider(): Promise<{ root: string; overlay: string; outsider: string }> {
  const root = makeFolder();
  mkdirSync(`${root}/images/below`, { recursive: true });
  mkdirSync(`${root}/elsewhere`);
  const outsider = makeRaw(`${root}/elsewhere/base.raw`);
  const overlay = await makeOverlay(`${root}/images/top.qcow2`, "../elsewhere/base.raw");
  return { root, overlay, outsider };
}

describe("the gate for raw backing images", () => {
  test("refuses one outside, and opens nothing there", async () => {
    const { overlay, outsider } = await makeOutsider();
    const { opened, error } = await tryOpen(overlay, CLOSED);
    expect(error).toMatchObject({ code: "E_OUTSIDE", image: overlay, field: "backing_file_name" });
    expect((error as Error).message).toContain(outsider);
    expect(error).toHaveProperty("hint", expect.stringContaining(`--allow-path ${outsider}`));
    expect(opened).toEqual([overlay]);
  });

  test.each([
    ["in the workspace", (root: string) => ({ allowPaths: [], currentFolder: "/", workspaceRoot: root })],
    ["below an allowed path", (root: string) => ({ allowPaths: [`${root}/elsewhere`], currentFolder: "/" })],
    [
      "that is itself allowed",
      (root: string) => ({ allowPaths: ["/nowhere", `${root}/elsewhere/base.raw`], currentFolder: "/" }),
    ],
  ])("opens one %s", async (_, gate) => {
    const { root, overlay } = await makeOutsider();
    expect((await tryOpen(overlay, gate(root))).error).toBeUndefined();
  });

  test("opens one beside the overlay or below it", async () => {
    const root = makeFolder();
    mkdirSync(`${root}/below`);
    makeRaw(`${root}/base.raw`);
    makeRaw(`${root}/below/base.raw`);
    for (const name of ["base.raw", "below/base.raw", `${root}/base.raw`, "below/../base.raw"]) {
      const overlay = await makeOverlay(`${root}/top.qcow2`, name);
      expect((await tryOpen(overlay, CLOSED)).error).toBeUndefined();
      rmSync(overlay);
    }
  });

  test("is not fooled by a folder whose name begins like an allowed one", async () => {
    const { root, overlay } = await makeOutsider();
    const { error } = await tryOpen(overlay, { allowPaths: [`${root}/else`], currentFolder: "/" });
    expect(error).toMatchObject({ code: "E_OUTSIDE" });
  });

  test("is not fooled by a symbolic link inside that leads outside", async () => {
    const { root, outsider } = await makeOutsider();
    symlinkSync(outsider, `${root}/images/link.raw`);
    symlinkSync(`${root}/elsewhere`, `${root}/images/linked`);
    for (const name of ["link.raw", "linked/base.raw"]) {
      const overlay = await makeOverlay(`${root}/images/by-link.qcow2`, name);
      expect((await tryOpen(overlay, CLOSED)).error).toMatchObject({ code: "E_OUTSIDE" });
      rmSync(overlay);
    }
  });

  test("judges what a qcow2 backing image names by that image's folder", async () => {
    const root = makeFolder();
    mkdirSync(`${root}/images`);
    mkdirSync(`${root}/golden`);
    makeRaw(`${root}/golden/base.raw`);
    makeRaw(`${root}/images/mine.raw`);
    await makeOverlay(`${root}/golden/good.qcow2`, "base.raw");
    await makeOverlay(`${root}/golden/bad.qcow2`, "../images/mine.raw");
    const good = await makeOverlay(`${root}/images/good.qcow2`, "../golden/good.qcow2", "qcow2");
    const bad = await makeOverlay(`${root}/images/bad.qcow2`, "../golden/bad.qcow2", "qcow2");
    expect((await tryOpen(good, CLOSED)).error).toBeUndefined();
    expect((await tryOpen(bad, CLOSED)).error).toMatchObject({ code: "E_OUTSIDE" });
  });

  test.each(["json:{}", "nbd:localhost:1", "a:b.raw"])("follows no %s", async (name) => {
    const overlay = await makeOverlay(`${makeFolder()}/top.qcow2`, "placeholder-name");
    await renameBacking(overlay, name);
    const { error, opened } = await tryOpen(overlay, { allowPaths: ["/"], currentFolder: "/" });
    expect(error).toMatchObject({ code: "E_UNSUPPORTED", image: overlay, field: "backing_file_name" });
    expect(opened).toEqual([overlay]);
  });

  test("holds a raw image behind file: to the same places", async () => {
    const root = makeFolder();
    const elsewhere = makeRaw(`${makeFolder()}/base.raw`);
    const overlay = await makeOverlay(`${root}/top.qcow2`, "placeholder-name".repeat(8));
    await renameBacking(overlay, `file:${elsewhere}`);
    expect((await tryOpen(overlay, CLOSED)).error).toMatchObject({ code: "E_OUTSIDE", image: overlay });
    expect((await tryOpen(overlay, { allowPaths: [elsewhere], currentFolder: "/" })).error).toBeUndefined();
  });

  test("opens a file with a colon in its name as ./NAME", async () => {
    const root = makeFolder();
    makeRaw(`${root}/a:b.raw`);
    const overlay = await makeOverlay(`${root}/top.qcow2`, "./a:b.raw");
    expect((await tryOpen(overlay, CLOSED)).error).toBeUndefined();
  });
});

/** Replaces the backing file name, which planOverlay would refuse to store, by one of at most its length. */
async function renameBacking(overlay: string, name: string): Promise<void> {
  const { storage } = watchStorage();
  const file = await storage.openFile(overlay, "write");
  const header = new Uint8Array(112);
  await file.read(header, 0);
  const { backingFileOffset } = decodeHeader(header);
  new DataView(header.buffer).setUint32(16, name.length);
  await file.write(header, 0);
  await file.write(Buffer.from(name), backingFileOffset);
  await file.close();
}

/** A qcow2 image of no bytes of guest data, with an external data file by this name. */
async function makeImageWithDataFile(path: string, name: string): Promise<string> {
  const fields = {
    ...decodeHeader(HEADER_V3),
    backingFileOffset: hostOffset(0),
    backingFileSize: 0,
    incompatibleFeatures: [2],
  };
  const bytes = encodeHeaderCluster({
    fields,
    extensions: [{ kind: "dataFile", name }],
    backingFileName: undefined,
  });
  const { storage } = watchStorage();
  const file = await storage.createFile(path, 0o600);
  await file.write(bytes ?? new Uint8Array(0), 0);
  await file.truncate(0x40000);
  await file.close();
  return path;
}

describe("the gate for external data files", () => {
  test("opens one beside the image, by its absolute name", async () => {
    const root = makeFolder();
    makeRaw(`${root}/data.bin`);
    const image = await makeImageWithDataFile(`${root}/top.qcow2`, `${root}/data.bin`);
    const { storage } = watchStorage();
    const chain = await openChain(storage, image, { format: "qcow2", gate: CLOSED });
    expect(chain.links[0]?.dataFile?.path).toBe(`${root}/data.bin`);
    expect(chain.links[0]?.warnings).toEqual([]);
    await chain.close();
  });

  test("looks for a relative name in the current folder, as QEMU does, and warns of it", async () => {
    const root = makeFolder();
    mkdirSync(`${root}/current`);
    makeRaw(`${root}/data.bin`);
    const image = await makeImageWithDataFile(`${root}/top.qcow2`, "data.bin");
    const missing = await tryOpen(image, { allowPaths: [], currentFolder: `${root}/current` });
    expect(missing.error).toMatchObject({ code: "E_NOT_FOUND", field: "data_file_name" });
    const { storage } = watchStorage();
    const chain = await openChain(storage, image, {
      format: "qcow2",
      gate: { allowPaths: [], currentFolder: root },
    });
    expect(chain.links[0]?.warnings).toEqual([
      { code: "data file in current folder", image, name: "data.bin" },
    ]);
    await chain.close();
  });

  test.each(["/etc/passwd", "/dev/zero"])("refuses %s, and does not open it", async (name) => {
    const image = await makeImageWithDataFile(`${makeFolder()}/top.qcow2`, name);
    const { error, opened } = await tryOpen(image, CLOSED);
    expect(error).toMatchObject({ code: "E_OUTSIDE", field: "data_file_name" });
    expect(opened).toEqual([image]);
  });

  test("refuses a device node even where its folder is allowed", async () => {
    const image = await makeImageWithDataFile(`${makeFolder()}/top.qcow2`, "/dev/zero");
    expect((await tryOpen(image, { allowPaths: ["/dev"], currentFolder: "/" })).error).toMatchObject({
      code: "E_NOT_A_FILE",
    });
  });

  test("refuses the image as its own data file", async () => {
    const root = makeFolder();
    const image = await makeImageWithDataFile(`${root}/top.qcow2`, `${root}/top.qcow2`);
    expect((await tryOpen(image, CLOSED)).error).toMatchObject({ code: "E_LOOP" });
  });

  test("follows no protocol name", async () => {
    const image = await makeImageWithDataFile(`${makeFolder()}/top.qcow2`, "nbd:localhost:1");
    expect((await tryOpen(image, CLOSED)).error).toMatchObject({ code: "E_UNSUPPORTED" });
  });

  test("needs the name of the data file", async () => {
    const image = await makeImageWithDataFile(`${makeFolder()}/top.qcow2`, "");
    expect((await tryOpen(image, CLOSED)).error).toMatchObject({
      code: "E_UNSUPPORTED",
      field: "data_file_name",
    });
  });
});
