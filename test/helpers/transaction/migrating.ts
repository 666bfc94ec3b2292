// Short ways to migrate devices in tests, and a guest that has an image open for writing.

import { spawn } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import path from "node:path";
import { onTestFinished } from "vitest";
import type { MigrateRequest } from "../../../src/transaction/index.ts";
import { findingLoop } from "../finding-loop.ts";
import { run, runWell } from "../qemu-programs.ts";
import { type Workbench } from "./workbench.ts";
import { makeFolder } from "../temporary-folder.ts";

export function migrate(
  bench: Workbench,
  device: string,
  dest: string,
  newSource: string,
  more: Partial<MigrateRequest> = {},
): MigrateRequest {
  return {
    kind: "migrate",
    device,
    dest: bench.at(dest),
    destFormat: "qcow2",
    newSource: bench.at(newSource),
    sourceFormat: "qcow2",
    relative: false,
    ...more,
  };
}

/** A folder beside the workspace's images. */
export function makeFolderIn(bench: Workbench, name: string): string {
  mkdirSync(bench.at(name), { recursive: true });
  return bench.at(name);
}

/** A file system of its own, in a file. */
export function mountFileSystem(): string {
  const folder = makeFolder();
  const [disk, inside] = [path.join(folder, "disk"), path.join(folder, "mnt")];
  mkdirSync(inside);
  runWell("mkfs.ext4", "-q", "-F", disk, "32M");
  runWell(...findingLoop("mount", "-o", "loop", disk, inside));
  onTestFinished(() => {
    run("umount", "--lazy", inside);
  });
  return inside;
}

/** Whether a guest reads the same from both, by qemu-img's judgement. */
export function isSameToGuest(one: string, other: string): boolean {
  return run("qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", one, other).status === 0;
}

/** The paths of a chain as qemu-img resolves them, the given one first. */
export function chainByQemu(image: string): string[] {
  const text = runWell("qemu-img", "info", "-f", "qcow2", "--backing-chain", "--output=json", image);
  return (JSON.parse(text) as { filename: string }[]).map(({ filename }) => path.resolve("/", filename));
}

export interface Guest {
  /** Writes while others look, and returns when it is written. */
  write(command: string): Promise<void>;
  stop(): Promise<void>;
}

/** A qemu-io that has the image open for writing until it is stopped. */
export async function startGuest(
  image: string,
  format = "qcow2",
  first = "write -P 1 188k 4k",
): Promise<Guest> {
  if (!existsSync(image)) throw new Error(`there is no ${image}`);
  const program = spawn("timeout", ["900", "qemu-io", "-f", format, image], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  let printed = "";
  let heard: () => void = () => undefined;
  program.stdout.on("data", (chunk: Buffer) => {
    printed += chunk.toString();
    heard();
  });
  const ended = new Promise<void>((resolve) => {
    program.once("close", () => {
      resolve();
      heard();
    });
  });
  const write = async (command: string) => {
    const before = printed.length;
    program.stdin.write(`${command}\n`);
    while (!printed.slice(before).includes("ops; ")) {
      if (program.exitCode !== null) throw new Error(`qemu-io has ended: ${printed}`);
      await new Promise<void>((resolve) => {
        heard = resolve;
      });
    }
  };
  const stop = async () => {
    program.stdin.end("quit\n");
    await ended;
  };
  onTestFinished(stop);
  await write(first);
  return { write, stop };
}
