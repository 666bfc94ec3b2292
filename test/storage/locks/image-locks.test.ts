// QEMU's lock protocol among imgtx processes, each played by open files of its own.

import { expect, test } from "vitest";
import {
  acquireImageLocks,
  type Host,
  type LockWaiting,
  makeNodeStorage,
  type Storage,
  type StorageFile,
} from "../../../src/storage/index.ts";
import type { ImageLockRequest, ImageRole } from "../../../src/storage/locks/qemu-lock.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const NO_WAIT: LockWaiting = { waitMs: 0, onWait: () => undefined };
const IN_USE = /in use by a process that \/proc does not show/;

async function makeImages(count: number): Promise<{ storage: Storage; paths: string[] }> {
  const storage = makeNodeStorage();
  const root = makeFolder();
  const paths = Array.from({ length: count }, (_, index) => `${root}/${index}.img`);
  for (const path of paths) await (await storage.createFile(path, 0o600)).close();
  return { storage, paths };
}

async function request(storage: Storage, path: string, role: ImageRole): Promise<ImageLockRequest> {
  return { file: await storage.openFile(path, role === "writer" ? "write" : "read"), role };
}

/** The bytes that an onlooker finds locked, by any lock, between 0 and 300. */
function lockedBytes(onlooker: StorageFile): number[] {
  return Array.from({ length: 300 }, (_, byte) => byte).filter((byte) =>
    onlooker.wouldConflict({ start: byte, lengthBytes: 1 }, "exclusive"),
  );
}

test("a writer locks QEMU's bytes of a writer, a reader those of a reader, and all as shared locks", async () => {
  const { storage, paths } = await makeImages(2);
  const [written, read] = [
    await storage.openFile(paths[0]!, "read"),
    await storage.openFile(paths[1]!, "read"),
  ];
  const locks = await acquireImageLocks(
    storage,
    [await request(storage, paths[0]!, "writer"), await request(storage, paths[1]!, "reader")],
    NO_WAIT,
  );
  expect(lockedBytes(written)).toEqual([100, 101, 103, 201, 203]);
  expect(lockedBytes(read)).toEqual([100, 201, 203]);
  expect(written.wouldConflict({ start: 0, lengthBytes: 300 }, "shared")).toBe(false);
  locks.release();
  expect(lockedBytes(written)).toEqual([]);
  expect(lockedBytes(read)).toEqual([]);
});

test("readers share an image", async () => {
  const { storage, paths } = await makeImages(1);
  await acquireImageLocks(storage, [await request(storage, paths[0]!, "reader")], NO_WAIT);
  const second = await acquireImageLocks(storage, [await request(storage, paths[0]!, "reader")], NO_WAIT);
  second.release();
});

test.each([
  ["writer", "reader", /Failed to get "write" lock/],
  ["reader", "writer", /Failed to get shared "write" lock/],
  ["writer", "writer", /Failed to get "write" lock/],
] as const)("a %s is refused, in QEMU's words, where there is a %s", async (second, first, words) => {
  const { storage, paths } = await makeImages(1);
  await acquireImageLocks(storage, [await request(storage, paths[0]!, first)], NO_WAIT);
  const asked = { ...(await request(storage, paths[0]!, second)), device: "vda" };
  const failure = await failureOf(() => acquireImageLocks(storage, [asked], NO_WAIT));
  expect(failure).toMatchObject({ code: "E_LOCKED", image: paths[0], device: "vda", changed: false });
  expect(failure.message).toMatch(words);
  expect(failure.message).toMatch(IN_USE);
  expect(failure.hint).toContain("--wait");
});

test("a group that meets one conflict holds nothing afterwards, and the other's lock stands", async () => {
  const { storage, paths } = await makeImages(4);
  const held = await acquireImageLocks(storage, [await request(storage, paths[2]!, "writer")], NO_WAIT);
  const group = await Promise.all(paths.map((path) => request(storage, path, "writer")));
  const failure = await failureOf(() => acquireImageLocks(storage, group, NO_WAIT));
  expect(failure.image).toBe(paths[2]);
  for (const path of [paths[0]!, paths[1]!, paths[3]!]) {
    expect(lockedBytes(await storage.openFile(path, "read"))).toEqual([]);
  }
  expect(lockedBytes(await storage.openFile(paths[2]!, "read"))).toEqual([100, 101, 103, 201, 203]);
  held.release();
  (await acquireImageLocks(storage, group, NO_WAIT)).release();
});

test("an image named twice in a group, by a link too, is locked once with both roles", async () => {
  const { storage, paths } = await makeImages(1);
  await storage.makeSymlink(paths[0]!, `${paths[0]}.link`);
  const onlooker = await storage.openFile(paths[0]!, "read");
  const locks = await acquireImageLocks(
    storage,
    [await request(storage, paths[0]!, "reader"), await request(storage, `${paths[0]}.link`, "writer")],
    NO_WAIT,
  );
  expect(lockedBytes(onlooker)).toEqual([100, 101, 103, 201, 203]);
  locks.release();
  expect(lockedBytes(onlooker)).toEqual([]);
});

test("releasing twice, or after a file was closed, spares the locks of others", async () => {
  const { storage, paths } = await makeImages(1);
  const asked = await request(storage, paths[0]!, "reader");
  const first = await acquireImageLocks(storage, [asked], NO_WAIT);
  first.release();
  await asked.file.close();
  const again = await request(storage, paths[0]!, "reader");
  await acquireImageLocks(storage, [again], NO_WAIT);
  first.release();
  expect(lockedBytes(await storage.openFile(paths[0]!, "read"))).toEqual([100, 201, 203]);
});

test("a lock that another program holds for an instant, to ask, refuses nobody", async () => {
  const { storage, paths } = await makeImages(1);
  const asking = await acquireImageLocks(storage, [await request(storage, paths[0]!, "writer")], NO_WAIT);
  const announced: string[] = [];
  const waiting = { waitMs: 0, onWait: (what: string) => announced.push(what) };
  const host: Host = {
    ...storage.host,
    sleep: async (milliseconds) => {
      asking.release();
      await storage.host.sleep(milliseconds);
    },
  };
  const asked = await request(storage, paths[0]!, "writer");
  (await acquireImageLocks({ ...storage, host }, [asked], waiting)).release();
  expect(announced).toEqual([]);
});

test("images are locked in the order of their inodes, however they are named", async () => {
  const { storage, paths } = await makeImages(3);
  const inodes: [bigint, string][] = [];
  const order: string[] = [];
  const requests: ImageLockRequest[] = [];
  for (const path of paths) {
    const { file, role } = await request(storage, path, "writer");
    inodes.push([BigInt((await file.stat()).inode), path]);
    const watched = new Proxy(file, {
      get(target, property) {
        if (property === "lock") order.push(path);
        const value: unknown = Reflect.get(target, property);
        return typeof value === "function" ? value.bind(target) : value;
      },
    });
    requests.push({ file: watched, role });
  }
  const expected = inodes.sort(([a], [b]) => (a < b ? -1 : 1)).map(([, path]) => path);
  const byOrder = (a: ImageLockRequest, b: ImageLockRequest) =>
    expected.indexOf(b.file.path) - expected.indexOf(a.file.path);
  (await acquireImageLocks(storage, requests.toSorted(byOrder), NO_WAIT)).release();
  expect([...new Set(order)]).toEqual(expected);
});

test("two groups that name the same images in opposite order never both fail, and never both win", async () => {
  const { storage, paths } = await makeImages(3);
  for (let round = 0; round < 10; round += 1) {
    const ask = async (order: string[]) => {
      const group: ImageLockRequest[] = [];
      for (const path of order) group.push(await request(storage, path, "writer"));
      return group;
    };
    const groups = [await ask(paths), await ask(paths.toReversed())];
    const results = await Promise.allSettled(
      groups.map((group) => acquireImageLocks(storage, group, NO_WAIT)),
    );
    expect(results.filter((result) => result.status === "fulfilled").length).toBe(1);
    for (const { file } of groups.flat()) await file.close();
  }
});

test.each(["renamed over", "removed"])(
  "an image that was %s between opening and locking is E_CHANGED",
  async (how) => {
    const { storage, paths } = await makeImages(2);
    const asked = await request(storage, paths[0]!, "writer");
    if (how === "removed") await storage.removeFile(paths[0]!);
    else await storage.rename(paths[1]!, paths[0]!);
    const failure = await failureOf(() => acquireImageLocks(storage, [asked], NO_WAIT));
    expect(failure).toMatchObject({ code: "E_CHANGED", image: paths[0] });
    expect(lockedBytes(asked.file)).toEqual([]);
    await storage.makeSymlink(`/proc/self/fd`, `${paths[0]}.other`);
  },
);

test("a wait is announced once, and ends when the lock is given back", async () => {
  const { storage, paths } = await makeImages(1);
  const held = await acquireImageLocks(storage, [await request(storage, paths[0]!, "writer")], NO_WAIT);
  const announced: string[] = [];
  let sleeps = 0;
  const host: Host = {
    ...storage.host,
    // Some tries after it was announced.
    sleep: async () => {
      if (announced.length > 0 && (sleeps += 1) === 5) held.release();
      await storage.host.sleep(20);
    },
  };
  const waiting = { waitMs: Number.POSITIVE_INFINITY, onWait: (what: string) => announced.push(what) };
  const asked = await request(storage, paths[0]!, "writer");
  (await acquireImageLocks({ ...storage, host }, [asked], waiting)).release();
  expect(announced).toEqual([expect.stringContaining(`'${paths[0]}', in use by`)]);
});

test("a wait of some time ends with the refusal, and holds nothing", async () => {
  const { storage, paths } = await makeImages(1);
  const held = await acquireImageLocks(storage, [await request(storage, paths[0]!, "reader")], NO_WAIT);
  const waiting = { waitMs: 150, onWait: () => undefined };
  const started = Date.now();
  const asked = await request(storage, paths[0]!, "writer");
  expect((await failureOf(() => acquireImageLocks(storage, [asked], waiting))).code).toBe("E_LOCKED");
  expect(Date.now() - started).toBeGreaterThanOrEqual(150);
  held.release();
  expect(lockedBytes(await storage.openFile(paths[0]!, "read"))).toEqual([]);
});

test("a wait ends with an interrupt", async () => {
  const { storage, paths } = await makeImages(1);
  await acquireImageLocks(storage, [await request(storage, paths[0]!, "writer")], NO_WAIT);
  const asked = await request(storage, paths[0]!, "reader");
  const signal = AbortSignal.timeout(100);
  const waiting = { waitMs: Number.POSITIVE_INFINITY, onWait: () => undefined, signal };
  expect((await failureOf(() => acquireImageLocks(storage, [asked], waiting))).code).toBe("E_INTERRUPTED");
});
