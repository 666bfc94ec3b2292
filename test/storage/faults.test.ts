// What a real disk does wrong, brought about for real: no space, read-only, failing flushes, files that are
// none. The message and the code are part of the contract, and so is what is left afterwards.

import { readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { describe, expect, onTestFinished, test } from "vitest";
import { makeNodeStorage, type StorageFile } from "../../src/storage/index.ts";
import { findingLoop } from "../helpers/finding-loop.ts";
import { oracle } from "../helpers/oracles.ts";
import { pattern, readAll } from "./conformance.ts";
import { failureOf } from "../helpers/expect-error.ts";
import { run, runWell } from "../helpers/qemu-programs.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const KIB = 1024;
const MIB = 1024 * KIB;

const mounting = oracle("mounts");
const storage = makeNodeStorage();

function mount(folder: string, ...parameters: string[]): void {
  const words = ["mount", ...parameters, folder];
  const [program = "", ...rest] = parameters.includes("loop") ? findingLoop(...words) : words;
  runWell(program, ...rest);
  onTestFinished(() => {
    run("umount", "--lazy", folder);
  });
}

/** A folder on a file system of its own that has room for this much. */
function makeTinyDisk(sizeBytes: number): string {
  const folder = makeFolder();
  mount(folder, "-t", "tmpfs", "-o", `size=${sizeBytes}`, "none");
  return folder;
}

describe("a full disk", () => {
  mounting.test(
    "ends a large write with E_NO_SPACE at the byte that found none, and all before it is written",
    async () => {
      const folder = makeTinyDisk(512 * KIB);
      const file = await storage.createFile(`${folder}/a`, 0o600);
      const failure = await failureOf(() => file.write(pattern(MIB), 0));
      expect(failure).toMatchObject({
        code: "E_NO_SPACE",
        exitCode: 13,
        image: `${folder}/a`,
        offset: 512 * KIB,
        message: `Could not write to '${folder}/a': No space left on device`,
      });
      expect(failure.hint).toContain("free some space");
      expect(Buffer.compare(await readAll(file), pattern(MIB).subarray(0, 512 * KIB))).toBe(0);
      await file.close();
    },
  );

  mounting.test("ends a small write with E_NO_SPACE, and room that is given back is used", async () => {
    const folder = makeTinyDisk(64 * KIB);
    const file = await storage.createFile(`${folder}/a`, 0o600);
    await file.write(pattern(60 * KIB), 0);
    expect(await failureOf(() => file.write(pattern(8 * KIB, 5), 60 * KIB))).toMatchObject({
      code: "E_NO_SPACE",
      offset: 64 * KIB,
    });
    await file.punchHole({ start: 0, lengthBytes: 32 * KIB });
    await file.write(pattern(8 * KIB, 5), 60 * KIB);
    const expected = new Uint8Array(68 * KIB);
    expected.set(pattern(60 * KIB).subarray(32 * KIB), 32 * KIB);
    expected.set(pattern(8 * KIB, 5), 60 * KIB);
    expect(Buffer.compare(await readAll(file), expected)).toBe(0);
    await file.close();
  });

  mounting.test("ends a copy with E_NO_SPACE that names the target", async () => {
    const source = await storage.createFile(`${makeFolder()}/source`, 0o600);
    await source.write(pattern(MIB), 0);
    const target = await storage.createFile(`${makeTinyDisk(256 * KIB)}/target`, 0o600);
    expect(await failureOf(() => target.copyRangeFrom(source, 0, 0, MIB))).toMatchObject({
      code: "E_NO_SPACE",
      image: target.path,
    });
    await source.close();
    await target.close();
  });

  mounting.test("takes no new names, with E_NO_SPACE", async () => {
    const folder = makeFolder();
    mount(folder, "-t", "tmpfs", "-o", "nr_inodes=2", "none");
    await (await storage.createFile(`${folder}/a`, 0o600)).close();
    const calls = [
      () => storage.createFile(`${folder}/b`, 0o600),
      () => storage.makeFolder(`${folder}/b`, 0o700),
      () => storage.makeSymlink("a", `${folder}/b`),
    ];
    for (const call of calls) expect((await failureOf(call)).code).toBe("E_NO_SPACE");
    expect(await storage.readFolder(folder)).toEqual(["a"]);
  });
});

describe("a read-only file system", () => {
  mounting.test("refuses every change with E_READ_ONLY, and can be read", async () => {
    const folder = makeFolder();
    writeFileSync(`${folder}/a`, pattern(10));
    mount(folder, "--bind", folder);
    runWell("mount", "-o", "remount,bind,ro", folder);
    const calls = [
      () => storage.openFile(`${folder}/a`, "write"),
      () => storage.createFile(`${folder}/b`, 0o600),
      () => storage.makeFolder(`${folder}/b`, 0o700),
      () => storage.makeSymlink("a", `${folder}/b`),
      () => storage.rename(`${folder}/a`, `${folder}/b`),
      () => storage.renameWithoutReplacing(`${folder}/a`, `${folder}/b`),
      () => storage.removeFile(`${folder}/a`),
    ];
    for (const call of calls) {
      const failure = await failureOf(call);
      expect(failure).toMatchObject({ code: "E_READ_ONLY", exitCode: 14 });
      expect(failure.message).toMatch(/: Read-only file system$/);
    }
    const file = await storage.openFile(`${folder}/a`, "read");
    expect([...(await readAll(file))]).toEqual([...pattern(10)]);
    expect(file.lock({ start: 100, lengthBytes: 1 }, "shared")).toBe(true);
    await file.close();
  });
});

describe("a disk that loses a flush", () => {
  const { test: failingDisk } = oracle("loops", "mkfs.ext4");

  failingDisk("fails the flush, and every later flush of that file too", async () => {
    // An ext4 in a sparse file that its own disk has no room for: writes fit the page cache, and are lost.
    const outside = makeTinyDisk(8 * MIB);
    const inside = makeFolder();
    runWell("mkfs.ext4", "-q", "-F", "-O", "^has_journal", `${outside}/disk`, "64M");
    mount(inside, "-o", "loop", `${outside}/disk`);
    const file = await storage.createFile(`${inside}/a`, 0o600);
    await file.write(pattern(24 * MIB), 0);
    const failure = await failureOf(() => file.flush("content"));
    expect(failure).toMatchObject({ code: "E_NO_SPACE", exitCode: 13, image: `${inside}/a` });
    expect(failure.message).toMatch(/^Could not flush /);
    // The kernel tells each descriptor once; to believe its second answer would be to lose data silently.
    await expectFlushToFailStill(file);
    await file.close();
  });

  async function expectFlushToFailStill(file: StorageFile): Promise<void> {
    expect((await failureOf(() => file.flush("content, again"))).code).toBe("E_NO_SPACE");
    expect((await failureOf(() => file.flush("content, and again"))).code).toBe("E_NO_SPACE");
  }
});

describe("no permission", () => {
  const { test: asRoot } = oracle("root");

  asRoot("is E_NO_PERMISSION, and changes nothing", async () => {
    const folder = makeFolder();
    writeFileSync(`${folder}/a`, pattern(10), { mode: 0o600 });
    process.seteuid?.(65_534);
    try {
      const calls = [
        () => storage.openFile(`${folder}/a`, "read"),
        () => storage.createFile(`${folder}/b`, 0o600),
      ];
      for (const call of calls) {
        const failure = await failureOf(call);
        expect(failure).toMatchObject({ code: "E_NO_PERMISSION", exitCode: 14 });
        expect(failure.message).toMatch(/: Permission denied$/);
      }
    } finally {
      process.seteuid?.(0);
    }
    expect(await storage.readFolder(folder)).toEqual(["a"]);
  });
});

describe("what is no regular file", () => {
  test.each(["read", "write"] as const)(
    "a FIFO does not hang an open to %s, and is E_NOT_A_FILE",
    async (access) => {
      const path = `${makeFolder()}/fifo`;
      runWell("mkfifo", path);
      const failure = await failureOf(() => storage.openFile(path, access));
      expect(failure).toMatchObject({ code: "E_NOT_A_FILE", exitCode: 14, image: path });
      expect(failure.message).toBe(`Could not open '${path}': it is a FIFO, not a regular file`);
    },
  );

  test("a folder, a device, a socket and a link to one are refused by what they are", async () => {
    const folder = makeFolder();
    const server = createServer().listen(`${folder}/socket`);
    onTestFinished(() => {
      server.close();
    });
    await storage.makeSymlink("/dev/zero", `${folder}/link`);
    const cases = [
      [folder, "a folder"],
      ["/dev/null", "a character device"],
      [`${folder}/socket`, "a socket"],
      [`${folder}/link`, "a character device"],
    ] as const;
    for (const [path, what] of cases) {
      const failure = await failureOf(() => storage.openFile(path, "read"));
      expect(failure.code).toBe("E_NOT_A_FILE");
      expect(failure.message).toBe(`Could not open '${path}': it is ${what}, not a regular file`);
    }
  });

  const { test: asRoot } = oracle("root", "mknod");

  asRoot("a block device is refused by its node, without being opened", async () => {
    const path = `${makeFolder()}/disk`;
    // No driver has this number: opening it would be another error (ENXIO).
    runWell("mknod", path, "b", "240", "99");
    const failure = await failureOf(() => storage.openFile(path, "write"));
    expect(failure.message).toBe(`Could not open '${path}': it is a block device, not a regular file`);
  });
});

describe("names that no file can have", () => {
  test.each([
    ["holds a NUL byte", "a\0b", /The name holds a NUL byte$/],
    ["is too long", "a".repeat(256), /File name too long$/],
  ])("a name that %s is E_NOT_FOUND", async (_, name, words) => {
    const path = `${makeFolder()}/${name}`;
    for (const call of [() => storage.openFile(path, "read"), () => storage.createFile(path, 0o600)]) {
      const failure = await failureOf(call);
      expect(failure).toMatchObject({ code: "E_NOT_FOUND", image: path });
      expect(failure.message).toMatch(words);
    }
  });
});

test("a file larger than 4 GiB is read, written, searched and copied at its far end", async () => {
  const file = await storage.createFile(`${makeFolder()}/large`, 0o600);
  const far = 2 ** 40 + 4096;
  await file.write(pattern(100 * KIB), far);
  expect(await file.seekData(0)).toBe(far);
  await file.copyRangeFrom(file, far, 2 ** 33, 100 * KIB);
  const bytes = new Uint8Array(100 * KIB);
  expect(await file.read(bytes, 2 ** 33)).toBe(100 * KIB);
  expect(Buffer.compare(bytes, pattern(100 * KIB))).toBe(0);
  await file.punchHole({ start: far, lengthBytes: 100 * KIB });
  expect(await file.seekData(2 ** 34)).toBeUndefined();
  expect((await file.stat()).allocatedBytes).toBeLessThan(MIB);
  await file.close();
});

test("a copy takes no more space than its source", async () => {
  const folder = makeFolder();
  const source = await storage.createFile(`${folder}/source`, 0o600);
  await source.truncate(64 * MIB);
  await source.write(pattern(MIB), 32 * MIB);
  const target = await storage.createFile(`${folder}/target`, 0o600);
  await target.copyRangeFrom(source, 0, 0, 64 * MIB);
  expect((await target.stat()).sizeBytes).toBe(64 * MIB);
  expect((await target.stat()).allocatedBytes).toBeLessThanOrEqual((await source.stat()).allocatedBytes);
  await source.close();
  await target.close();
});

describe("a clone", () => {
  const { test: onXfs } = oracle("loops", "mkfs.xfs");

  onXfs("shares the blocks where the file system can", async () => {
    const outside = makeFolder();
    const inside = makeFolder();
    writeFileSync(`${outside}/disk`, "");
    runWell("truncate", "-s", "512M", `${outside}/disk`);
    runWell("mkfs.xfs", "-q", `${outside}/disk`);
    mount(inside, "-o", "loop", `${outside}/disk`);
    const source = await storage.createFile(`${inside}/source`, 0o600);
    await source.write(pattern(MIB), 0);
    const target = await storage.createFile(`${inside}/target`, 0o600);
    expect(await target.cloneFrom(source)).toBe(true);
    expect(Buffer.compare(await readAll(target), pattern(MIB))).toBe(0);
    await source.close();
    await target.close();
  });
});

describe("descriptors", () => {
  /** Those of this process that lead into a folder. */
  function descriptorsInto(folder: string): string[] {
    return readdirSync("/proc/self/fd").filter((descriptor) =>
      leadsInto(`/proc/self/fd/${descriptor}`, folder),
    );
  }

  function leadsInto(link: string, folder: string): boolean {
    try {
      return readlinkSync(link).startsWith(folder);
    } catch {
      // The descriptor that readdirSync itself had open.
      return false;
    }
  }

  test("are closed on exec, by close, and after an error", async () => {
    const folder = makeFolder();
    const file = await storage.createFile(`${folder}/a`, 0o600);
    const [descriptor, ...others] = descriptorsInto(folder);
    expect(others).toEqual([]);
    const flags =
      /^flags:\s+(\d+)$/m.exec(readFileSync(`/proc/self/fdinfo/${descriptor}`, "utf8"))?.[1] ?? "";
    const O_CLOEXEC = 0o2000000;
    expect(Number.parseInt(flags, 8) & O_CLOEXEC).toBe(O_CLOEXEC);
    await file.close();
    await failureOf(() => storage.openFile(folder, "read"));
    await storage.flushFolder(folder, "names");
    expect(descriptorsInto(folder)).toEqual([]);
  });
});
