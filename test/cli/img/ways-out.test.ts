// What is refused names a command that, as it is pasted, takes away what was in the way.

import { expect } from "vitest";
import { makeFolder, runImg, shell } from "../../helpers/cli/against-qemu.ts";
import { oracle } from "../../helpers/oracles.ts";

const qemu = oracle("qemu-img");

const IMAGES = `
  qemu-img create -q -f qcow2 o.qcow2 3M
  qemu-img bitmap --add o.qcow2 other
  qemu-img create -q -f qcow2 a.qcow2 2M
  qemu-img bitmap --add a.qcow2 b0
  qemu-img snapshot -c one a.qcow2
`;

qemu.test.each([
  "rebase -b o.qcow2 -F qcow2 a.qcow2",
  "snapshot -a one a.qcow2",
  "amend -o compat=0.10 a.qcow2",
  "bitmap --merge other -b o.qcow2 -F qcow2 a.qcow2 b0",
])("img %s", async (line) => {
  const folder = makeFolder();
  shell(folder, IMAGES);
  const wanted = line.split(" ");
  const refused = await runImg(folder, wanted, { program: "imgtx" });
  const [, hint = ""] = /`imgtx img ([^`]+)`/.exec(refused.stderr) ?? [];
  expect(refused.status, refused.stderr).not.toBe(0);
  const words = hint.replaceAll("FOLDER", folder).split(" ");
  expect(await runImg(folder, words), hint).toMatchObject({ status: 0 });
  expect(await runImg(folder, wanted)).toMatchObject({ status: 0 });
});
