// Which file systems share their locks with everybody who can reach a file, by what the kernel says of their mounting.

import { describe, expect, test } from "vitest";
import {
  areLocksShared,
  findMounting,
  readFileSystemTraits,
} from "../../../src/storage/kernel/file-system.ts";

const BLOCK = new Set(["ext4", "fuseblk", "gfs2"]);

const MOUNTINFO = [
  "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard",
  "40 27 0:50 / /mnt/a rw shared:1 master:2 - nfs4 host:/x rw,vers=4.2,local_lock=none",
  "41 27 0:51 / /mnt/b rw,nosuid - fuse /x rw,user_id=0",
  "",
].join("\n");

function isShared(type: string, options = "rw"): boolean {
  return areLocksShared({ type, options: options.split(",") }, BLOCK);
}

describe("locks are seen by all", () => {
  test("on what one kernel has mounted from a disk, by FUSE as well", () => {
    expect([isShared("ext4"), isShared("fuseblk")]).toEqual([true, true]);
    expect(readFileSystemTraits("/dev/shm").sharesLocks).toBe(true);
  });

  test("where they go to a server, unless an option keeps them here", () => {
    expect(isShared("nfs4", "rw,local_lock=none")).toBe(true);
    expect(["all", "posix", "flock"].map((kept) => isShared("nfs", `rw,local_lock=${kept}`))).toEqual([
      false,
      false,
      false,
    ]);
    expect([isShared("cifs", "rw,vers=3.1.1"), isShared("cifs", "rw,nobrl")]).toEqual([true, false]);
    expect([isShared("gfs2", "rw"), isShared("gfs2", "rw,localflocks")]).toEqual([true, false]);
  });

  test("and never where nobody says that they are forwarded", () => {
    const kinds = ["fuse", "fuse.bindfs", "fuse.sshfs", "9p", "virtiofs", "vboxsf"];
    expect(kinds.filter((kind) => isShared(kind))).toEqual([]);
    expect(areLocksShared(undefined, BLOCK)).toBe(false);
    expect(readFileSystemTraits("/proc").sharesLocks).toBe(false);
  });
});

test("a mounting is found by its device, whatever optional fields stand before its type", () => {
  expect(findMounting(MOUNTINFO, "0:50")).toEqual({
    type: "nfs4",
    options: ["rw", "vers=4.2", "local_lock=none"],
  });
  expect(findMounting(MOUNTINFO, "0:51")?.type).toBe("fuse");
  expect(findMounting(MOUNTINFO, "0:5")).toBeUndefined();
});
