// A disk inside another file: driver=raw with offset and size.

import { readFileSync } from "node:fs";
import { describe, expect } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { runBoth, runImg, runQemu } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img");

const ARCHIVE = `
head -c 3000000 /dev/urandom > archive
dd if=archive of=part bs=512 skip=2048 count=2048 status=none
`;
const PART = "driver=raw,offset=1048576,size=1M,file.filename=archive";

describe("a part of a raw file is read as qemu-img reads it", () => {
  qemu.test.each([
    `map --image-opts ${PART}`,
    `map --output=json --image-opts ${PART}`,
    "map --image-opts driver=raw,offset=2M,file.filename=archive",
    `check --image-opts ${PART}`,
    "check --image-opts driver=raw,offset=9999999,file.filename=archive",
    `measure -O qcow2 --image-opts ${PART}`,
    `compare --image-opts ${PART} driver=raw,file.filename=part`,
    `convert -O raw --image-opts ${PART} z`,
    "map --image-opts driver=raw,offset=512,size=1000,file.filename=archive",
    "map --image-opts driver=raw,offset=512,size=99999744,file.filename=archive",
    "map --image-opts driver=raw,offset=9999999,file.filename=archive",
  ])("%s", async (line) => {
    const { qemu: theirs, ours, ourFolder } = await runBoth(ARCHIVE, line.split(" "));
    expect(ours).toEqual(theirs);
    if (!line.startsWith("convert")) return;
    expect(runQemu(ourFolder, ["compare", "-f", "raw", "-F", "raw", "z", "part"]).status).toBe(0);
  });

  qemu.test("and so is one that a name in JSON means", async () => {
    const file = { driver: "file", filename: "archive" };
    const name = `json:${JSON.stringify({ driver: "raw", offset: 1048576, size: 1048576, file })}`;
    const { qemu: theirs, ours } = await runBoth(ARCHIVE, ["convert", "-O", "qcow2", name, "z"]);
    expect(ours).toEqual(theirs);
  });
});

qemu.test.each([
  "resize --image-opts PART 2M",
  "resize --image-opts PART 512k",
  "resize --image-opts REST 4M",
  "resize --image-opts REST +1M",
  "resize --image-opts REST 512k",
  "resize --shrink --image-opts REST 512k",
])("is resized as qemu-img resizes it: %s", async (line) => {
  const rest = "driver=raw,offset=1M,file.filename=archive";
  const words = line.replace("PART", PART).replace("REST", rest).split(" ");
  const { qemu: theirs, ours, qemuFolder, ourFolder } = await runBoth(ARCHIVE, words);
  expect(ours).toEqual(theirs);
  const [one, other] = [qemuFolder, ourFolder].map((folder) => readFileSync(`${folder}/archive`));
  expect(one && other?.equals(one)).toBe(true);
});

qemu.test("commands that would work on the whole file refuse a part of it", async () => {
  const { ourFolder } = await runBoth(ARCHIVE, ["info", "archive"]);
  for (const words of [
    ["check", "-r", "all"],
    ["snapshot", "-c", "one"],
    ["amend", "-o", "size=1G"],
  ]) {
    const { status, stderr } = await runImg(ourFolder, [...words, "--image-opts", PART]);
    expect({ status, stderr }).toEqual({ status: 1, stderr: expect.stringContaining("a part") as string });
  }
});
