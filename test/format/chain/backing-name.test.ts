import { mkdirSync, symlinkSync } from "node:fs";
import { describe, expect, test } from "vitest";
import {
  composeBackingPath,
  formatInName,
  isProtocolName,
  makeRelativeName,
} from "../../../src/format/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { errorFrom } from "../../helpers/expect-error.ts";
import { makeRaw } from "../../helpers/make-image.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const storage = makeNodeStorage();

describe("a stored name", () => {
  test.each([
    ["/images/top.qcow2", "base.raw", "/images/base.raw"],
    ["/images/top.qcow2", "../base.raw", "/images/../base.raw"],
    ["/images/./x/../top.qcow2", "./a:b.raw", "/images/./x/.././a:b.raw"],
    ["/top.qcow2", "base.raw", "/base.raw"],
    ["/images/top.qcow2", "/other//base.raw", "/other//base.raw"],
  ])("of %s, %s, leads to %s: nothing is folded", (overlay, name, path) => {
    expect(composeBackingPath(overlay, name, "/nowhere")).toBe(path);
  });

  test.each([
    ["file:/other/base.raw", "/other/base.raw"],
    ["file:base.raw", "/here/base.raw"],
    ["file:a:b.raw", "/here/./a:b.raw"],
  ])("%s leads to %s: relative, it is relative to the current folder", (name, path) => {
    expect(composeBackingPath("/images/top.qcow2", name, "/here")).toBe(path);
  });

  test.each([
    ['{"driver":"raw","file":{"driver":"file","filename":"/x/base.raw"}}', "/x/base.raw", "raw"],
    ['{"file.filename":"a:b.qcow2","driver":"qcow2","cache":{"direct":true}}', "/here/a:b.qcow2", "qcow2"],
    ['{"file":{"filename":"base","locking":"off"}}', "/here/base", undefined],
  ])("json:%s leads to %s, of format %s", (json, path, format) => {
    expect(composeBackingPath("/images/top.qcow2", `json:${json}`, "/here")).toBe(path);
    expect(formatInName(`json:${json}`)).toBe(format);
  });

  test.each(["nbd:x", "json:{}", "file:base.raw", "a:b.raw", ":x", "https://x/y", "c:\\x"])(
    "%s is a protocol name",
    (name) => {
      expect(isProtocolName(name)).toBe(true);
    },
  );

  test.each(["base.raw", "./a:b.raw", "/a:b", "x/a:b", "..", ""])("%j is a path", (name) => {
    expect(isProtocolName(name)).toBe(false);
  });
});

describe("makeRelativeName", () => {
  test.each([
    ["beside it", "images", "images/base.raw", "base.raw"],
    ["above it", "images/tops", "images/base.raw", "../base.raw"],
    ["below it", "images", "images/bases/base.raw", "bases/base.raw"],
    ["in another branch", "tops", "bases/base.raw", "../bases/base.raw"],
    ["with a colon", "images", "images/a:b.raw", "./a:b.raw"],
  ])("leads from an overlay's folder to a backing image %s", async (_, from, to, name) => {
    const root = makeFolder();
    for (const folder of ["images/tops", "images/bases", "tops", "bases"]) {
      mkdirSync(`${root}/${folder}`, { recursive: true });
    }
    makeRaw(`${root}/${to}`);
    expect(await makeRelativeName(storage, `${root}/${from}`, `${root}/${to}`)).toBe(name);
  });

  test("leads through the real folder where the overlay's is a symbolic link", async () => {
    const root = makeFolder();
    mkdirSync(`${root}/disk/deep/tops`, { recursive: true });
    mkdirSync(`${root}/bases`);
    symlinkSync(`${root}/disk/deep/tops`, `${root}/tops`);
    makeRaw(`${root}/bases/base.raw`);
    const name = await makeRelativeName(storage, `${root}/tops`, `${root}/bases/base.raw`);
    expect(name).toBe("../../../bases/base.raw");
    const found = await storage.stat(composeBackingPath(`${root}/tops/top.qcow2`, name, root));
    expect(found?.inode).toBe((await storage.stat(`${root}/bases/base.raw`))?.inode);
  });

  test("keeps a symbolic link to the image: the overlay was put over that name", async () => {
    const root = makeFolder();
    makeRaw(`${root}/base-1.raw`);
    symlinkSync("base-1.raw", `${root}/base.raw`);
    expect(await makeRelativeName(storage, root, `${root}/base.raw`)).toBe("base.raw");
  });

  test("is refused where the backing image is missing", async () => {
    const root = makeFolder();
    const error = await errorFrom(makeRelativeName(storage, root, `${root}/base.raw`));
    expect(error).toMatchObject({ code: "E_NOT_FOUND", image: `${root}/base.raw` });
  });

  test("is refused above 1,023 bytes", async () => {
    const root = makeFolder();
    let folder = root;
    for (let depth = 0; depth < 5; depth += 1) folder += `/${"ü".repeat(120)}`;
    mkdirSync(folder, { recursive: true });
    makeRaw(`${folder}/base.raw`);
    const error = await errorFrom(makeRelativeName(storage, root, `${folder}/base.raw`));
    expect(error.code).toBe("E_UNSUPPORTED");
    expect(error.message).toContain("1213 bytes");
  });
});
