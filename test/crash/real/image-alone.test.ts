// The real process changing an image that is in no workspace: killed at each flush, QEMU is kept out or finds a sound
// image, and the next command that opens the image ends what was left.

import { spawnSync } from "node:child_process";
import { cpSync, readdirSync } from "node:fs";
import { expect } from "vitest";
import { makeFolder, runQemu, shell } from "../../helpers/cli/against-qemu.ts";
import { oracle } from "../../helpers/oracles.ts";
import { PROGRAM, SINGLE_FILE, wordsToStart } from "../../helpers/program.ts";

const strace = oracle("strace", "qemu-img", "qemu-io");

const MOST_FLUSHES = 60;
/** Between two of them nothing else comes that QEMU could see. The single file's are shared by two threads. */
const STRIDE = SINGLE_FILE === undefined ? 3 : 1;
/** The single file flushes on threads of its own, whose calls are counted apart: which of them is met is left to chance. */
const MET = SINGLE_FILE === undefined ? ["fenced 4", "fenced 8", "open 4", "open 8"] : ["open 4", "open 8"];

const IMAGES = `
qemu-img create -q -f qcow2 a.qcow2 4M
qemu-io -f qcow2 -c 'write -P 7 0 3M' a.qcow2 > /dev/null
`;

/** Kills the command at its nth flush, all of which are one thread's. False where it has ended before. */
function dies(folder: string, words: readonly string[], nth: number): boolean {
  const inject = ["-e", "trace=fsync,fdatasync", "-e", `inject=fsync,fdatasync:signal=KILL:when=${nth}`];
  const command = ["-f", "-o", "/dev/null", ...inject, ...wordsToStart(PROGRAM), "img", ...words];
  const env = { ...process.env, UV_THREADPOOL_SIZE: "1" };
  const { status } = spawnSync("strace", command, { cwd: folder, env });
  return status !== 0;
}

strace.test(
  "killed at its flushes, QEMU meets a fence or a sound image, and the next command ends it",
  () => {
    const prepared = makeFolder();
    shell(prepared, IMAGES);
    const reads = "qemu-io -f qcow2 -c 'read -P 7 0 3M' a.qcow2 | grep -c failed || true";
    const seen = new Set<string>();
    for (let nth = 1; nth <= MOST_FLUSHES; nth += STRIDE) {
      const folder = makeFolder();
      cpSync(prepared, folder, { recursive: true });
      const isDead = dies(folder, ["resize", "a.qcow2", "8M"], nth);
      const checked = runQemu(folder, ["check", "-q", "a.qcow2"]);
      const isFenced = checked.stderr.includes("Unsupported qcow2 feature");
      expect({ nth, isSound: isFenced || checked.status === 0 }).toEqual({ nth, isSound: true });
      const [program, ...start] = wordsToStart(PROGRAM);
      const { status, stdout } = spawnSync(program, [...start, "img", "info", "a.qcow2"], {
        cwd: folder,
        encoding: "utf8",
      });
      const size = /virtual size: (\d) MiB/.exec(stdout)?.[1];
      seen.add(`${isFenced ? "fenced" : "open"} ${size}`);
      expect({ nth, status, size }).toEqual({
        nth,
        status: 0,
        size: expect.stringMatching(/^[48]$/) as string,
      });
      expect(readdirSync(folder)).toEqual(["a.qcow2"]);
      expect(runQemu(folder, ["check", "-q", "a.qcow2"]).status).toBe(0);
      expect(shell(folder, reads).trim()).toBe("0");
      if (!isDead) break;
    }
    expect([...seen].sort()).toEqual(expect.arrayContaining([...MET]));
  },
);
