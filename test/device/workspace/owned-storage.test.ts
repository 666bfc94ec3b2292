// root in the workspace of another user, whom the kernel judges: what the user puts in the way between a look at the
// names and the call.

import {
  chmodSync,
  chownSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { beforeEach, expect } from "vitest";
import { ownedStorage } from "../../../src/device/workspace/owned-storage.ts";
import { makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { oracle } from "../../helpers/oracles.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const THEIRS = 4711;
const asRoot = oracle("root");

let root = "";

/** `ws` is the user's, with a folder in it; `mine` is root's, and whoever is not root finds nothing in it. */
beforeEach(() => {
  root = makeFolder();
  chmodSync(root, 0o755);
  for (const folder of ["ws", "ws/images", "mine", "mine/tree", "mine/tree/below"])
    mkdirSync(`${root}/${folder}`);
  for (const file of ["ws/images/a", "mine/a", "mine/tree/below/a"]) writeFileSync(`${root}/${file}`, file);
  chmodSync(`${root}/mine`, 0o755);
  chmodSync(`${root}/mine/a`, 0o600);
  if (!asRoot.skip)
    for (const path of ["ws", "ws/images", "ws/images/a"]) chownSync(`${root}/${path}`, THEIRS, THEIRS);
});

/** The user's folder gives way to a link into root's right before each call, when all has been looked at. */
function racing(): Storage {
  const storage = makeNodeStorage();
  const swapped = (): void => {
    renameSync(`${root}/ws/images`, `${root}/ws/away`);
    symlinkSync(`${root}/mine`, `${root}/ws/images`);
  };
  const late: Partial<Storage> = {};
  for (const name of [
    "openFile",
    "createFile",
    "makeFolder",
    "makeSymlink",
    "removeFile",
    "removeFolder",
  ] as const) {
    Object.assign(late, {
      [name]: (...given: never[]): unknown => {
        swapped();
        return (storage[name] as (...all: never[]) => unknown)(...given);
      },
    });
  }
  for (const name of ["rename", "renameWithoutReplacing"] as const) {
    late[name] = (source, target) => {
      swapped();
      return storage[name](source, target);
    };
  }
  return ownedStorage({ ...storage, ...late }, `${root}/ws`, { ownerId: THEIRS, groupId: THEIRS });
}

function rightsOf(path: string): string {
  const { uid, mode } = lstatSync(path);
  return `${uid} ${mode.toString(8)}`;
}

const CALLS: Readonly<Record<string, (storage: Storage, images: string) => Promise<unknown>>> = {
  "reads a file": async (storage, images) => await storage.openFile(`${images}/a`, "read"),
  "writes to a file": async (storage, images) => await storage.openFile(`${images}/a`, "write"),
  "makes a file": async (storage, images) => await storage.createFile(`${images}/new`, 0o600),
  "makes a folder": async (storage, images) => {
    await storage.makeFolder(`${images}/new`, 0o755);
  },
  "makes a link": async (storage, images) => {
    await storage.makeSymlink("a", `${images}/new`);
  },
  "removes a file": async (storage, images) => {
    await storage.removeFile(`${images}/a`);
  },
  "renames over a file": async (storage, images) => {
    writeFileSync(`${root}/ws/b`, "forged");
    chownSync(`${root}/ws/b`, THEIRS, THEIRS);
    await storage.rename(`${root}/ws/b`, `${images}/a`);
  },
  "renames to a new name": async (storage, images) => {
    await storage.renameWithoutReplacing(`${images}/a`, `${root}/ws/taken`);
  },
};

asRoot.test.each(Object.keys(CALLS))(
  "%s of the user's alone, though a link comes in between",
  async (name) => {
    const before = { names: readdirSync(`${root}/mine`), rights: rightsOf(`${root}/mine`) };
    const failure = await failureOf(async () => await CALLS[name]?.(racing(), `${root}/ws/images`));
    expect(failure.code).toBe("E_NO_PERMISSION");
    expect({ names: readdirSync(`${root}/mine`), rights: rightsOf(`${root}/mine`) }).toEqual(before);
    expect(readFileSync(`${root}/mine/a`, "utf8")).toBe("mine/a");
    expect(process.geteuid?.()).toBe(0);
  },
);

asRoot.test("removes a tree, and none of root's that a link leads to", async () => {
  mkdirSync(`${root}/ws/images/tree/below`, { recursive: true });
  for (const path of ["tree", "tree/below"]) chownSync(`${root}/ws/images/${path}`, THEIRS, THEIRS);
  symlinkSync(`${root}/mine/tree`, `${root}/ws/images/tree/link`);
  const storage = ownedStorage(makeNodeStorage(), `${root}/ws`, { ownerId: THEIRS, groupId: THEIRS });
  await storage.removeFolder(`${root}/ws/images/tree`);
  expect(existsSync(`${root}/ws/images/tree`)).toBe(false);
  expect(existsSync(`${root}/mine/tree/below/a`)).toBe(true);

  mkdirSync(`${root}/ws/images/tree`);
  chownSync(`${root}/ws/images/tree`, THEIRS, THEIRS);
  const failure = await failureOf(async () => {
    await racing().removeFolder(`${root}/ws/images/tree`);
  });
  expect(["E_NO_PERMISSION", "E_NOT_A_FILE", "E_IO"]).toContain(failure.code);
  expect(existsSync(`${root}/mine/tree/below/a`)).toBe(true);
});

asRoot.test("what is made is the user's, also where only root gets to the workspace", async () => {
  for (const mode of [0o755, 0o700]) {
    chmodSync(root, mode);
    const storage = ownedStorage(makeNodeStorage(), `${root}/ws`, { ownerId: THEIRS, groupId: THEIRS });
    await (await storage.createFile(`${root}/ws/images/file`, 0o600)).close();
    await storage.makeFolder(`${root}/ws/images/folder`, 0o755);
    await storage.makeSymlink("file", `${root}/ws/images/link`);
    for (const name of ["file", "folder", "link"]) {
      expect(lstatSync(`${root}/ws/images/${name}`).uid, `${name} ${mode.toString(8)}`).toBe(THEIRS);
      rmSync(`${root}/ws/images/${name}`, { recursive: true });
    }
  }
});
