// Lines as an operator gives them: a script that prepares a folder, and a command that is pasted into a shell, with imgtx
// in this process.

import { expect } from "vitest";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { shell } from "./against-qemu.ts";
import { runCli } from "./harness.ts";

const DAYS_AGO = "2 days ago, ";

/** In the folder: lines of shell, and between them commands of imgtx, which run in this process. */
export async function runScript(folder: string, script: string): Promise<void> {
  let lines: string[] = [];
  const flush = (): void => {
    if (lines.length > 0) shell(folder, lines.join("; "));
    lines = [];
  };
  for (const part of script.split("; ")) {
    const command = part.replace(DAYS_AGO, "");
    if (!command.startsWith("imgtx ")) {
      lines.push(part);
      continue;
    }
    flush();
    const real = makeNodeStorage();
    const earlier = part.startsWith(DAYS_AGO) ? 2 * 24 * 3_600_000 : 0;
    const host = { ...real.host, now: () => real.host.now() - earlier };
    const { status, stderr } = await runCli(command.split(" ").slice(1), {
      cwd: folder,
      storage: { ...real, host },
    });
    expect({ command, status, stderr: status === 0 ? "" : stderr }).toEqual({
      command,
      status: 0,
      stderr: "",
    });
  }
  flush();
}

/** As an operator's shell reads it, with imgtx in this process, and sudo giving it another user. */
export async function paste(cwd: string, command: string): Promise<void> {
  const tells =
    `imgtx() { printf '%s\\0' "\${AS-$UID}" "$PWD" "$@" $'\\n'; }; ` +
    `sudo() { AS=0; if [ "$1" = -u ]; then AS=$(id -u "$2"); shift 2; fi; "$@"; }; ${command}`;
  for (const call of shell(cwd, tells).split("\n\0").slice(0, -1)) {
    const [user = "", folder = "", ...words] = call.split("\0");
    const { status, stderr } = await runCli(words.slice(0, -1), {
      cwd: folder,
      ...(user !== String(process.getuid?.()) && { storage: storageOf(Number(user)) }),
    });
    expect({ command, status, stderr: status === 0 ? "" : stderr }).toEqual({
      command,
      status: 0,
      stderr: "",
    });
  }
}

function storageOf(userId: number): Storage {
  const real = makeNodeStorage();
  return { ...real, host: { ...real.host, userId } };
}
