// Every sound fixture through convert: to raw, by its hash; to qcow2, by QEMU's word.

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { FIXTURES, unpackFixture } from "../../../helpers/fixtures.ts";
import { oracle } from "../../../helpers/oracles.ts";
import { makeFolder, runImg, runQemu } from "../../../helpers/cli/against-qemu.ts";

const readable = FIXTURES.filter(({ guest, refusal }) => guest !== null && refusal === null);

test("there are many such fixtures", () => {
  expect(readable.length).toBeGreaterThan(40);
});

oracle("qemu-img").test.each(readable.map(({ name }) => name))("%s", async (name) => {
  const fixture = readable.find((each) => each.name === name);
  const folder = makeFolder();
  const image = await unpackFixture(name, folder);
  const here = path.dirname(image);
  const format = fixture?.format ?? null;
  const source = ["--allow-path", folder, ...(format === null ? [] : ["-f", format]), image];
  const said = name.endsWith("bitmaps-stale.qcow2")
    ? (expect.stringContaining("a program lacking bitmap support modified this file") as string)
    : "";
  const asRaw = await runImg(here, ["convert", ...source, `${folder}/raw`]);
  expect(asRaw).toEqual({ status: 0, stdout: "", stderr: said });
  const digest = createHash("sha256")
    .update(readFileSync(`${folder}/raw`))
    .digest("hex");
  expect(digest).toBe(fixture?.guest?.sha256);
  const options = ["-O", "qcow2", "-o", "cluster_size=4k", "-c"];
  for (const given of [options.slice(0, 2), options]) {
    const asQcow2 = await runImg(here, ["convert", ...given, ...source, `${folder}/q`]);
    expect(asQcow2).toEqual({ status: 0, stdout: "", stderr: said });
    expect(runQemu(folder, ["check", "q"])).toMatchObject({ status: 0, stderr: "" });
    expect(runQemu(folder, ["compare", "-F", "raw", "q", "raw"]).stdout).toBe("Images are identical.\n");
  }
});
