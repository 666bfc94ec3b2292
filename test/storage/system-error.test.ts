// From an errno to a code, words and a mend: also for the errnos that libuv has no names for, in each of the
// shapes that Node and our own system calls give them.

import { spawnSync } from "node:child_process";
import { constants } from "node:os";
import { onTestFinished, describe, expect, test } from "vitest";
import { ImgtxError } from "../../src/errors/index.ts";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { ERRNO, SystemCallError } from "../../src/storage/native/native-functions.ts";
import { explainError, explainLockError, explainSymlinkError } from "../../src/storage/system-error.ts";
import { oracle } from "../helpers/oracles.ts";
import { pattern } from "./conformance.ts";
import { failureOf } from "../helpers/expect-error.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

/** The shapes of one errno: node:fs with and without a callback, and a call through koffi. */
function shapesOf(errno: number): readonly Error[] {
  const ofNode = (code: string): Error => Object.assign(new Error(code), { code, errno: -errno });
  return [
    ofNode("UNKNOWN"),
    ofNode(`Unknown system error -${errno}`),
    new SystemCallError("fallocate", errno),
  ];
}

function explained(error: unknown): ImgtxError {
  if (error instanceof ImgtxError) return error;
  throw error;
}

describe("an errno that libuv has no name for", () => {
  test.each([
    [122, "E_NO_SPACE", 13, "Disk quota exceeded", "quota"],
    [116, "E_IO", 13, "Stale file handle", "mount its file system again"],
    [117, "E_IO", 13, "Structure needs cleaning", "fsck"],
    [126, "E_NO_PERMISSION", 14, "Required key not available", "unlock"],
    [37, "E_UNSUPPORTED", 12, "No locks available", "rpc.statd"],
  ])("%i has a code, words and a mend in every shape", (errno, code, exitCode, words, hint) => {
    for (const shape of shapesOf(errno)) {
      const error = explained(explainError(shape, "write to", "/a"));
      expect(error).toMatchObject({
        code,
        exitCode,
        message: `Could not write to '/a': ${words}`,
        doing: "write to",
        reason: words,
      });
      expect(error.hint).toContain(hint);
    }
  });

  test("is E_UNSUPPORTED for a lock, and says how NFS gets a lock service", () => {
    for (const shape of shapesOf(37)) {
      const error = explained(explainLockError(shape, "/a", 100));
      expect(error).toMatchObject({ code: "E_UNSUPPORTED", offset: undefined });
      expect(error.hint).toContain("vers=4.2");
    }
  });

  test("is E_UNSUPPORTED for a symbolic link where the file system has none, and says where a workspace can be", () => {
    for (const code of ["EPERM", "ENOSYS"]) {
      const cause = Object.assign(new Error(code), { code, errno: code === "EPERM" ? -1 : -38 });
      const error = explained(explainSymlinkError(cause, "/a"));
      expect(error).toMatchObject({ code: "E_UNSUPPORTED", image: "/a" });
      expect(error.hint).toContain("imgtx init");
    }
  });

  test("is told by its number where nobody has named it", () => {
    for (const shape of shapesOf(124)) {
      const error = explained(explainError(shape, "read from", "/a"));
      expect(error).toMatchObject({ code: "E_IO", exitCode: 13 });
      expect(error.message).toContain("124");
      expect(error.message).not.toContain("UNKNOWN");
    }
  });
});

describe("a used-up quota", () => {
  oracle("root", "loops", "mkfs.btrfs", "btrfs").test(
    "of a real disk ends small writes, large writes and allocations with E_NO_SPACE",
    async () => {
      const folder = makeLimitedFolder(4 * 1024 * 1024);
      const storage = makeNodeStorage();
      const file = await storage.createFile(`${folder}/a`, 0o600);
      const large = pattern(16 * 1024 * 1024);
      const failures = [
        await failureOf(() => file.write(large, 0)),
        await failureOf(() => file.allocate({ start: 32 * 1024 * 1024, lengthBytes: large.length })),
        await failureOf(async () => {
          for (let at = 0; at < large.length; at += 4096)
            await file.write(large.subarray(0, 4096), at + 2 ** 30);
        }),
      ];
      await file.close();
      for (const failure of failures) {
        expect(failure).toMatchObject({ code: "E_NO_SPACE", exitCode: 13 });
        expect(failure.message).toContain("Disk quota exceeded");
      }
    },
  );
});

/** A Btrfs subvolume that takes so many bytes. */
function makeLimitedFolder(sizeBytes: number): string {
  const folder = makeFolder();
  const place = `${folder}/fs`;
  const run = (...words: string[]): void => {
    const [program = "", ...rest] = words;
    const { status, stderr } = spawnSync(program, rest, { encoding: "utf8" });
    if (status !== 0) throw new Error(`${words.join(" ")}: ${stderr}`);
  };
  run("truncate", "-s", "400M", `${folder}/disk`);
  run("mkfs.btrfs", "-q", `${folder}/disk`);
  run("mkdir", place);
  run("mount", "-o", "loop", `${folder}/disk`, place);
  onTestFinished(() => void spawnSync("umount", ["--lazy", place]));
  run("btrfs", "subvolume", "create", `${place}/s`);
  run("btrfs", "quota", "enable", place);
  run("btrfs", "qgroup", "limit", String(sizeBytes), `${place}/s`);
  return `${place}/s`;
}

test("the errnos that are known by number are this machine's", () => {
  expect(constants.errno).toMatchObject(ERRNO);
});
