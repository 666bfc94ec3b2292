// Space that is taken before anything is written: it has no name, and ends with its release.

import { execFileSync } from "node:child_process";
import { chmodSync, readdirSync, readlinkSync, statfsSync, statSync } from "node:fs";
import { expect, test } from "vitest";
import { makeNodeStorage, type WrittenFile } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { withFileLimit } from "../../helpers/storage/file-limit.ts";
import { oracle } from "../../helpers/oracles.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const MIB = 2 ** 20;

/** Without the calls that take space, the free space is looked at. */
const WAYS = [
  ["with system calls", makeNodeStorage()],
  [
    "without them",
    makeNodeStorage({
      loadSystemCalls: () => {
        throw new Error("none");
      },
    }),
  ],
] as const;

test.each(WAYS)(
  "%s what is there can be taken, and given back twice, and leaves no file",
  async (_, storage) => {
    const folder = makeFolder("on a disk");
    const taken = await storage.reserveSpace(folder, 8 * MIB);
    expect(readdirSync(folder)).toEqual([]);
    await taken.release();
    await taken.release();
  },
);

test.each(WAYS)("%s more than there is fails, and leaves no file", async (_, storage) => {
  const folder = makeFolder("on a disk");
  const { bavail, bsize } = statfsSync(folder);
  const failure = await failureOf(async () => await storage.reserveSpace(folder, (bavail + 1) * bsize * 2));
  expect(failure).toMatchObject({ code: "E_NO_SPACE", exitCode: 13, changed: false });
  expect(readdirSync(folder)).toEqual([]);
});

const limits = oracle("prlimit");

limits.test.each(WAYS)(
  "%s a file may be written to up to the process's limit, and no further",
  async (_, storage) => {
    const folder = makeFolder("on a disk");
    const reserve = async (endBytes: number) =>
      await storage.reserveSpace(folder, 0, { path: `${folder}/a.qcow2`, endBytes });
    await withFileLimit(MIB, async () => {
      await (await reserve(MIB)).release();
      const failure = await failureOf(async () => await reserve(MIB + 1));
      expect(failure).toMatchObject({ code: "E_IO", exitCode: 13, changed: false });
      expect(failure.message).toBe(
        `'${folder}/a.qcow2' is to be written to up to byte ${MIB + 1}, and no file in '${folder}' may be that large`,
      );
    });
    expect(readdirSync(folder)).toEqual([]);
  },
);

const root = oracle("root");

root.test("a folder where no file may be made has space for what is there, and for nothing new", async () => {
  const folder = makeFolder();
  chmodSync(folder, 0o755);
  const { host, ...storage } = makeNodeStorage();
  const asNobody = async (written?: WrittenFile): Promise<void> => {
    const taken = await host.actAs?.(65_534, async () => await storage.reserveSpace(folder, MIB, written));
    await taken?.release();
  };
  await asNobody({ path: `${folder}/a.raw`, endBytes: MIB });
  const failure = await failureOf(async () => await asNobody());
  expect(failure).toMatchObject({ code: "E_NO_PERMISSION", changed: false, image: folder });
});

const mounts = oracle("root", "mount", "umount");

mounts.test("a disk without inodes has space for what is there, and for nothing new", async () => {
  const folder = makeFolder();
  execFileSync("mount", ["-t", "tmpfs", "-o", "size=1m,nr_inodes=1", "imgtx-test", folder]);
  try {
    const reserve = async (lengthBytes: number, written?: WrittenFile) => {
      await (await makeNodeStorage().reserveSpace(folder, lengthBytes, written)).release();
    };
    const written = { path: `${folder}/a.raw`, endBytes: MIB };
    await reserve(MIB / 2, written);
    const failures = [
      await failureOf(async () => await reserve(2 * MIB, written)),
      await failureOf(async () => await reserve(0)),
    ];
    expect(failures.map(({ code, message }) => [code, message])).toEqual([
      ["E_NO_SPACE", `fewer than ${2 * MIB} bytes are free in '${folder}'`],
      ["E_NO_SPACE", `no further file can be made in '${folder}'`],
    ]);
  } finally {
    execFileSync("umount", ["-l", folder]);
  }
});

limits.test("what several files share may be more than one of them may be", async () => {
  const folder = makeFolder("on a disk");
  await withFileLimit(MIB, async () => {
    const taken = await makeNodeStorage().reserveSpace(folder, 8 * MIB);
    const open = readdirSync("/proc/self/fd").filter((name) => isNamelessIn(folder, name));
    const bytes = open.map((name) => statSync(`/proc/self/fd/${name}`).blocks * 512);
    await taken.release();
    expect(bytes).toEqual([expect.any(Number)]);
    expect(bytes[0]).toBeGreaterThanOrEqual(8 * MIB);
  });
});

function isNamelessIn(folder: string, name: string): boolean {
  try {
    return readlinkSync(`/proc/self/fd/${name}`).startsWith(`${folder}/`);
  } catch {
    return false;
  }
}
