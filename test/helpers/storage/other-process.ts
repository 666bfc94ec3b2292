// Another process that has a file open, and where asked holds a lock on it: what imgtx meets outside itself.

import { spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { onTestFinished } from "vitest";

export interface OtherProcess {
  readonly pid: number;
  readonly stop: () => Promise<void>;
}

const REPOSITORY = fileURLToPath(new URL("../../..", import.meta.url));

const HOLD = `
  const fs = require("node:fs");
  const libc = require("koffi").load(null);
  const fcntl = libc.func("int fcntl(int fd, int command, void *lock)");
  const [path, kind, start] = process.argv.slice(1);
  const descriptor = fs.openSync(path, "r+");
  if (kind !== "none") {
    const lock = Buffer.alloc(32);
    lock.writeInt16LE(kind === "exclusive" ? 1 : 0, 0);
    lock.writeBigInt64LE(BigInt(start), 8);
    lock.writeBigInt64LE(1n, 16);
    if (fcntl(descriptor, 37, lock) !== 0) throw new Error("not locked");
  }
  process.stdout.write("ready");
  setInterval(() => {}, 1000);
`;

/** Opens the file, locks one byte of it for this kind, and stays until stopped or the test is over. */
export async function startHolder(
  path: string,
  kind: "none" | "shared" | "exclusive",
  start = 0,
): Promise<OtherProcess> {
  const child = spawn(process.execPath, ["-e", HOLD, path, kind, String(start)], {
    cwd: REPOSITORY,
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit");
  await Promise.race([
    once(child.stdout, "data"),
    ended.then(() => {
      throw new Error("the other process ended before it held the file");
    }),
  ]);
  const { pid } = child;
  if (pid === undefined) throw new Error("the other process did not start");
  const stop = async () => {
    child.kill("SIGKILL");
    await ended;
  };
  onTestFinished(stop);
  return { pid, stop };
}
