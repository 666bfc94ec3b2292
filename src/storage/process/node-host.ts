// Who and where this run is, for messages and for names. Each answer is looked up when first asked for.

import { randomInt } from "node:crypto";
import { tmpdir } from "node:os";
import { readOrigin } from "./origin.ts";
import { findLife, readOwnMark } from "./process-life.ts";
import type { Host, Origin, ProcessMark } from "../storage.ts";
import { runProgram } from "./run-program.ts";
import { actAs, lookUpGroups, lookUpName } from "./users.ts";
import { readText } from "../kernel/sysfs.ts";

const NAME_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789";
const NAME_LENGTH = 10;

export function makeNodeHost(): Host {
  let machineId: string | undefined;
  let userName: string | undefined;
  let origin: Origin | undefined;
  let own: ProcessMark | undefined;
  const machine = (): string => {
    machineId ??= lookUpMachineId();
    return machineId;
  };
  const self = (): ProcessMark => {
    own ??= readOwnMark({ pid: process.pid, boot: bootIdOrNothing(), machine: machine() });
    return own;
  };
  return {
    pid: process.pid,
    get userId() {
      return process.geteuid?.() ?? 0;
    },
    nameOfUser: lookUpName,
    groupsOfUser: lookUpGroups,
    actAs,
    get userName() {
      userName ??= lookUpName(process.geteuid?.() ?? 0);
      return userName;
    },
    get currentFolder() {
      return process.cwd();
    },
    get temporaryFolder() {
      return tmpdir();
    },
    get bootId() {
      return bootIdOrNothing() || "unknown";
    },
    get machineId() {
      return machine();
    },
    get origin() {
      origin ??= readOrigin();
      return origin;
    },
    get process() {
      return self();
    },
    lifeOf: (mark) => findLife(mark, self()),
    runProgram,
    now: () => Date.now(),
    monotonicMs: () => performance.now(),
    randomName,
    sleep: (milliseconds) =>
      new Promise((resolve) => {
        setTimeout(resolve, milliseconds);
      }),
  };
}

function randomName(): string {
  return Array.from({ length: NAME_LENGTH }, () =>
    NAME_ALPHABET.charAt(randomInt(NAME_ALPHABET.length)),
  ).join("");
}

/** See machine-id(5). One that is not given yet reads "uninitialized"; containers often have none. */
function lookUpMachineId(): string {
  const id = readText("/etc/machine-id");
  return /^[0-9a-f]{32}$/.test(id) ? id : "";
}

let knownBootId: string | undefined;

/** "" where it can't be told. */
export function bootIdOrNothing(): string {
  // A sandbox may lack this part of /proc.
  return (knownBootId ??= readText("/proc/sys/kernel/random/boot_id"));
}
