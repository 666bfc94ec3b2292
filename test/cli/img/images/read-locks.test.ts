import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { expect } from "vitest";
import { oracle } from "../../../helpers/oracles.ts";
import { makeFolder, runImg, runQemu, shell } from "../../../helpers/cli/against-qemu.ts";

const qemu = oracle("qemu-img", "qemu-io");

qemu.test("what is being written is refused as qemu-img refuses it, and read with -U", async () => {
  const folder = makeFolder();
  shell(
    folder,
    "qemu-img create -q -f qcow2 base.qcow2 1M; qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 over.qcow2",
  );
  const writer = spawn("bash", ["-c", "exec qemu-io -f qcow2 base.qcow2"], {
    cwd: folder,
    stdio: ["pipe", "ignore", "inherit"],
  });
  try {
    await waitUntil(() => isLocked(`${folder}/base.qcow2`));
    for (const line of [
      "info base.qcow2",
      "info --backing-chain over.qcow2",
      "check base.qcow2",
      "check over.qcow2",
      "map base.qcow2",
      "map over.qcow2",
      "measure -O qcow2 over.qcow2",
      "info over.qcow2",
    ]) {
      const theirs = runQemu(folder, line.split(" "));
      expect({ line, ...(await runImg(folder, line.split(" "))) }).toEqual({ line, ...theirs });
    }
    for (const verb of ["info", "check", "map", "measure"]) {
      expect(await runImg(folder, [verb, "-U", "over.qcow2"])).toMatchObject({ status: 0, stderr: "" });
    }
  } finally {
    const ended = new Promise((resolve) => writer.once("exit", resolve));
    writer.stdin.end("quit\n");
    await ended;
  }
  expect(await runImg(folder, ["check", "over.qcow2"])).toMatchObject({ status: 0 });
});

function isLocked(path: string): boolean {
  const inode = shell("/", `stat -c %i ${path}`).trim();
  return readFileSync("/proc/locks", "utf8").includes(`:${inode} `);
}

async function waitUntil(holds: () => boolean): Promise<void> {
  while (!holds()) {
    await new Promise((resolve) => {
      setTimeout(resolve, 50);
    });
  }
}
