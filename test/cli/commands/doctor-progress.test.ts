// How far `doctor` is, as it tells whoever asks: of all names that it has met by then, those that it is done with.

import { mkdir, writeFile } from "node:fs/promises";
import { expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { examine } from "../../../src/transaction/index.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const HEADER_BYTES = 4096;

test("what is done grows to all that is known, names of folders below and links included", async () => {
  const folder = makeFolder();
  await mkdir(`${folder}/b`);
  for (const name of ["a.raw", "b/1.raw", "b/2.raw", "b/3.raw", "c.raw"]) {
    await writeFile(`${folder}/${name}`, "guest");
  }
  const told: string[] = [];
  await examine(makeNodeStorage(), {
    paths: [folder],
    devices: [],
    startFolder: folder,
    workspace: undefined,
    safeWorkspaces: [],
    bounds: { files: 100, depth: 4 },
    checks: true,
    onProgress: (part, done, total) =>
      told.push(part === "checking" ? part : `${done / HEADER_BYTES} of ${total / HEADER_BYTES}`),
  });
  // The folder itself, three names in it, and three more below.
  expect(told).toEqual(["0 of 4", "1 of 7", "2 of 7", "3 of 7", "5 of 7", "7 of 7", "checking"]);
});
