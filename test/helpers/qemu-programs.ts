// Real QEMU processes for tests: qemu-img and qemu-io run to their end, a storage daemon that holds an image.

import { spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

export interface ProgramResult {
  readonly status: number | null;
  /** stdout and stderr, as they came. */
  readonly output: string;
}

export function run(program: string, ...parameters: string[]): ProgramResult {
  const { status, stdout, stderr, error } = spawnSync(program, parameters, { encoding: "utf8" });
  if (error !== undefined) throw error;
  return { status, output: `${stdout}${stderr}` };
}

/** Runs a program that the test relies on. */
export function runWell(program: string, ...parameters: string[]): string {
  const { status, output } = run(program, ...parameters);
  if (status !== 0) throw new Error(`${program} ${parameters.join(" ")}: exit ${status}: ${output}`);
  return output;
}

/** A new qcow2 image over a backing image, by its name as it is stored, made by qemu-img; further words are its own. */
export function createOverlay(
  path: string,
  backing: { readonly name: string; readonly format: "qcow2" | "raw" },
  ...words: string[]
): void {
  const { name, format } = backing;
  runWell("qemu-img", "create", "-q", "-f", "qcow2", "-b", name, "-F", format, path, ...words);
}

const DAEMON = "qemu-storage-daemon";

export interface QemuDaemon {
  readonly pid: number;
  readonly stop: () => Promise<void>;
}

/**
 * A qemu-storage-daemon that has a qcow2 image open, to write where `writable`, as a running guest has it.
 * The folder takes its socket.
 */
export async function startQemuDaemon(image: string, folder: string, writable: boolean): Promise<QemuDaemon> {
  const socket = `${folder}/nbd-${Math.random().toString(36).slice(2, 10)}.sock`;
  const readOnly = writable ? "off" : "on";
  const daemon = spawn(
    DAEMON,
    [
      "--blockdev",
      `driver=file,node-name=f,filename=${image},read-only=${readOnly}`,
      "--blockdev",
      `driver=qcow2,node-name=q,file=f,read-only=${readOnly}`,
      "--nbd-server",
      `addr.type=unix,addr.path=${socket}`,
      // The export takes the permissions; the nodes alone would hold those of an idle image.
      "--export",
      `type=nbd,id=e,node-name=q,writable=${writable ? "on" : "off"}`,
      "--pidfile",
      `${socket}.pid`,
    ],
    { stdio: ["ignore", "ignore", "inherit"] },
  );
  const ended = new Promise<void>((resolve) => {
    daemon.once("exit", () => resolve());
  });
  // The pid file is written last, when everything is open.
  while (!existsSync(`${socket}.pid`)) {
    if (daemon.exitCode !== null) throw new Error(`qemu-storage-daemon ended with ${daemon.exitCode}`);
    await sleep(10);
  }
  const { pid } = daemon;
  if (pid === undefined) throw new Error("qemu-storage-daemon did not start");
  return {
    pid,
    async stop() {
      daemon.kill();
      await ended;
    },
  };
}
