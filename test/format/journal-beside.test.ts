// Which images may have the journal of an interrupted change beside them, of many that are asked for at once.

import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { besideCandidates, folderBeside } from "../../src/format/index.ts";
import { makeFolder, watchStorage } from "../helpers/temporary-folder.ts";

test("of many images in a folder those alone that have one, that are links, or that it may find under another case", async () => {
  const { storage } = watchStorage();
  const folder = makeFolder();
  const elsewhere = makeFolder();
  const long = `${"x".repeat(200)}.qcow2`;
  const names = ["plain", "b", "Straße", "é", long];
  const paths = names.map((name) => `${folder}/${name}`);
  for (const path of paths) writeFileSync(path, "");
  symlinkSync(`${elsewhere}/real`, `${folder}/link`);
  writeFileSync(`${elsewhere}/real`, "");
  for (const name of [".b.imgtx", ".STRASSE.imgtx", ".e\u0301.imgtx"]) mkdirSync(`${folder}/${name}`);
  mkdirSync(folderBeside(`${folder}/${long}`, undefined));
  const link = `${folder}/link`;
  expect(await besideCandidates(storage, [...paths, link, `${folder}/gone`])).toEqual([
    `${folder}/b`,
    `${folder}/Straße`,
    `${folder}/é`,
    `${folder}/${long}`,
    link,
  ]);
});

test("a few, and those of a folder that is not there, are asked for one by one", async () => {
  const { storage } = watchStorage();
  const folder = makeFolder();
  const few = ["a", "b", "c"].map((name) => `${folder}/${name}`);
  const lost = ["a", "b", "c", "d"].map((name) => `${folder}/gone/${name}`);
  expect(await besideCandidates(storage, [...few, ...lost])).toEqual([...few, ...lost]);
});
