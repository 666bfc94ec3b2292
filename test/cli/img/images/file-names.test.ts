// Names with file: in front, on the command line and stored in images, mean and are printed what they are for
// qemu-img; names of protocols are refused with the command that stores a plain one.

import { mkdirSync } from "node:fs";
import { describe, expect } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { makeFolder, runBoth, runImg, shell } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

const IMAGES = `
qemu-img create -q -f qcow2 base.qcow2 4M
qemu-io -c 'write -q -P 1 0 1M' base.qcow2
mkdir sub
qemu-img create -q -f qcow2 -b file:base.qcow2 -F qcow2 over.qcow2
cp over.qcow2 sub/
qemu-img create -q -f qcow2 file:colon:1.qcow2 1M
qemu-io -c 'write -q -P 1 0 64k' file:colon:1.qcow2
qemu-img create -q -f qcow2 -b file:colon:1.qcow2 -F qcow2 ./top:1.qcow2
`;

describe("file: in front of a name", () => {
  qemu.test.each([
    ["over.qcow2"],
    ["sub/over.qcow2"],
    ["file:over.qcow2"],
    ["file:./sub/over.qcow2"],
    ["file:colon:1.qcow2"],
    ["./top:1.qcow2"],
    ["file:top:1.qcow2"],
  ])("%s is read, and printed, as by qemu-img", async (name) => {
    for (const words of [
      ["info", name],
      ["info", "--backing-chain", name],
      ["info", "--backing-chain", "--output=json", name],
      ["map", name],
      ["map", "--output=json", name],
      ["check", name],
      ["measure", "-O", "qcow2", name],
      ["compare", name, "over.qcow2"],
      ["convert", "-O", "raw", name, "out.raw"],
      ["create", "-f", "qcow2", "-b", `file:${name.replace(/^file:/, "")}`, "-F", "qcow2", "sub/new.qcow2"],
    ]) {
      const { qemu: theirs, ours } = await runBoth(IMAGES, words);
      expect(ours, words.join(" ")).toEqual(theirs);
    }
  });

  qemu.test("leads a stored name to the current folder, wherever the image is", async () => {
    const { ourFolder: folder } = await runBoth(IMAGES, ["info", "over.qcow2"]);
    mkdirSync(`${folder}/elsewhere`);
    const away = await runImg(`${folder}/elsewhere`, ["map", "../over.qcow2"]);
    expect(away.status).toBe(1);
    expect(away.stderr).toContain("No such file or directory");
  });
});

qemu.test.each(["nbd:localhost:1", "json:{}", "json:nonsense", "https://host/disk"])(
  "a backing image that is stored by a protocol's name is refused by that name: %s",
  async (name) => {
    const folder = makeFolder();
    shell(folder, `qemu-img create -q -u -f qcow2 -b '${name}' -F qcow2 over.qcow2 4M`);
    const { status, stderr } = await runImg(folder, ["map", "over.qcow2"], { program: "imgtx" });
    expect(status).toBe(1);
    expect(stderr).toContain("is a protocol name to QEMU, not a path");
    expect(stderr).toContain("imgtx img rebase -u -b NAME -F FORMAT");
  },
);
