// Whose workspace a command may use. Owners and permissions are what a storage says: so no test needs root.

import { execFileSync } from "node:child_process";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname } from "node:path";
import { describe, expect, test } from "vitest";
import { findWorkspace, makeWorkspace, workspaceAt } from "../../../src/device/index.ts";
import { SAFE_LIST } from "../../../src/device/workspace/ownership.ts";
import { type FileStat, makeNodeStorage, type Storage } from "../../../src/storage/index.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const ME = 1000;
const OTHER = 4711;
type Told = Partial<Pick<FileStat, "ownerId" | "groupId" | "mode">>;

interface Scene {
  /** What is said of a path below the folder; of all others that they are mine, 0755. */
  readonly told?: Readonly<Record<string, Told>>;
  readonly userId?: number;
  readonly safeList?: { readonly text: string } & Told;
  readonly keepsModes?: boolean;
}

function scene(root: string, { told = {}, userId = ME, safeList, keepsModes = true }: Scene): Storage {
  const storage = makeNodeStorage();
  const list = `${root}/safe-list`;
  if (safeList) writeFileSync(list, safeList.text);
  const place = (path: string): string => (path === SAFE_LIST && safeList ? list : path);
  const look = (path: string, stat: FileStat | undefined): FileStat | undefined => {
    if (!stat) return undefined;
    if (path === SAFE_LIST) return { ...stat, ownerId: 0, mode: 0o644, ...safeList };
    return { ...stat, ownerId: ME, mode: 0o755, ...told[path.slice(root.length + 1)] };
  };
  return {
    ...storage,
    host: new Proxy(storage.host, {
      get: (host, name) => {
        if (name === "userId") return userId;
        // The kernel knows these files for those of whoever runs the tests.
        return name === "actAs" ? undefined : (Reflect.get(host, name) as unknown);
      },
    }),
    stat: async (path) => look(path, await storage.stat(place(path))),
    statLink: async (path) => look(path, await storage.statLink(place(path))),
    openFile: async (path, access, options) => await storage.openFile(place(path), access, options),
    describeFileSystem: async () => ({ keepsInodes: true, keepsModes, sharesLocks: true }),
  };
}

/** A folder that holds `ws`, a workspace with `below` in it. */
async function makeBelow(): Promise<string> {
  const root = makeFolder();
  mkdirSync(`${root}/ws/below`, { recursive: true });
  await makeWorkspace({ storage: makeNodeStorage(), root: `${root}/ws` }, "2026-01-02T03:04:05.678Z");
  return root;
}

async function find(root: string, how: Scene, named = false, safe: readonly string[] = []): Promise<unknown> {
  const storage = scene(root, how);
  return await findWorkspace(storage, `${root}/ws/below`, named ? `${root}/ws` : undefined, safe);
}

const PARTS = [
  "ws/.imgtx",
  "ws/.imgtx/table.json",
  "ws/.imgtx/history",
  "ws/.imgtx/journal",
  "ws/.imgtx/view",
  "ws/.imgtx/lock",
];

describe("a workspace is used", () => {
  test("where all of it is the caller's, or root's", async () => {
    const root = await makeBelow();
    expect(await find(root, {})).toMatchObject({ root: `${root}/ws` });
    const told = Object.fromEntries(["ws", ...PARTS].map((path) => [path, { ownerId: 0 }]));
    expect(await find(root, { told })).toMatchObject({ root: `${root}/ws` });
  });

  test("where a group may write to its folder, or everybody to a sticky one", async () => {
    const root = await makeBelow();
    expect(await find(root, { told: { ws: { mode: 0o2775 } } })).toMatchObject({ root: `${root}/ws` });
    expect(await find(root, { told: { ws: { mode: 0o1777, ownerId: 0 } } })).toMatchObject({
      root: `${root}/ws`,
    });
  });

  test("where the mount alone says who may write", async () => {
    const root = await makeBelow();
    const told = Object.fromEntries(["ws", ...PARTS].map((path) => [path, { mode: 0o777 }]));
    expect(await find(root, { told, keepsModes: false })).toMatchObject({ root: `${root}/ws` });
  });
});

describe("a workspace is refused", () => {
  test.each(["ws", ...PARTS])("where %s belongs to another user, found upwards or named", async (path) => {
    const root = await makeBelow();
    for (const userId of [ME, 0]) {
      const told = {
        ...Object.fromEntries(PARTS.map((part) => [part, { ownerId: 0 }])),
        [path]: { ownerId: OTHER },
      };
      const how = { userId, told: { ws: { ownerId: 0 }, ...told } };
      for (const named of [false, true]) {
        const failure = await failureOf(async () => await find(root, how, named));
        expect(failure).toMatchObject({ code: "E_NOT_OWNER", exitCode: 14, image: `${root}/${path}` });
        expect(failure.message).toContain(`another user, #${OTHER}`);
        expect(failure.hint).toContain(`sudo -u '#${OTHER}' imgtx`);
        expect(failure.hint).toContain("IMGTX_SAFE_WORKSPACES");
      }
    }
  });

  test.each([
    ["ws", 0o777],
    ...PARTS.map((path) => [path, 0o775] as const),
    ...PARTS.map((path) => [path, 0o757] as const),
  ] as const)("where others may write to %s (%o)", async (path, mode) => {
    const root = await makeBelow();
    const failure = await failureOf(async () => await find(root, { told: { [path]: { mode } } }));
    expect(failure).toMatchObject({ code: "E_NOT_OWNER", image: `${root}/${path}` });
    expect(failure.hint).toContain(`chmod go-w ${root}/${path}`);
  });

  test("and not passed over for one further up", async () => {
    const root = await makeBelow();
    await makeWorkspace({ storage: makeNodeStorage(), root }, "2026-01-02T03:04:05.678Z");
    const failure = await failureOf(
      async () => await find(root, { told: { "ws/.imgtx": { ownerId: OTHER } } }),
    );
    expect(failure.code).toBe("E_NOT_OWNER");
  });

  test("where a part of it is a symbolic link, whoever made it", async () => {
    const root = makeFolder();
    mkdirSync(`${root}/ws/below`, { recursive: true });
    mkdirSync(`${root}/elsewhere`);
    await makeWorkspace(
      { storage: makeNodeStorage(), root: `${root}/elsewhere` },
      "2026-01-02T03:04:05.678Z",
    );
    symlinkSync(`${root}/elsewhere/.imgtx`, `${root}/ws/.imgtx`);
    expect(await failureOf(async () => await find(root, {}))).toMatchObject({
      code: "E_REFUSED",
      image: `${root}/ws/.imgtx`,
    });
  });

  test.each(["nowhere", ".imgtx"])(
    "where .imgtx is a link to %s, found or about to be made",
    async (target) => {
      const root = makeFolder();
      mkdirSync(`${root}/ws/below`, { recursive: true });
      symlinkSync(target, `${root}/ws/.imgtx`);
      for (const call of [
        async () => await find(root, {}),
        async () => await workspaceAt(scene(root, {}), `${root}/ws`),
      ]) {
        const failure = await failureOf(call);
        expect(failure).toMatchObject({ code: "E_REFUSED", image: `${root}/ws/.imgtx` });
        expect(failure.hint).toContain(`mv ${root}/ws/.imgtx ${root}/ws/.imgtx.old`);
      }
    },
  );

  test.each(["", "/journal"])(
    "with the command that moves it away, where a file is .imgtx%s",
    async (part) => {
      const root = makeFolder();
      const path = `${root}/.imgtx${part}`;
      mkdirSync(dirname(path), { recursive: true });
      writeFileSync(path, "");
      const make = async (): Promise<boolean> =>
        await makeWorkspace({ storage: makeNodeStorage(), root }, "2026-01-02T03:04:05.678Z");
      const failure = await failureOf(make);
      expect(failure).toMatchObject({ code: "E_EXISTS", exitCode: 14, image: path });
      execFileSync("sh", ["-c", /`(mv .*)`/.exec(failure.hint ?? "")?.[1] ?? "false"]);
      expect(await make()).toBe(true);
    },
  );

  test("before it is made, in another user's folder", async () => {
    const root = await makeBelow();
    const storage = scene(root, { told: { "ws/below": { ownerId: OTHER } }, userId: 0 });
    expect(await failureOf(async () => await workspaceAt(storage, `${root}/ws/below`))).toMatchObject({
      code: "E_NOT_OWNER",
    });
  });
});

describe("another user's workspace that is listed as safe", () => {
  const THEIRS = { ownerId: OTHER, groupId: 12 };
  const FOREIGN = { ws: THEIRS, "ws/.imgtx": THEIRS, "ws/.imgtx/view": THEIRS, "ws/.imgtx/view/1": THEIRS };

  test("is used where it is named too, and not where it is only met", async () => {
    const root = await makeBelow();
    expect(await find(root, { told: FOREIGN }, true, [`${root}/ws`])).toMatchObject({ root: `${root}/ws` });
    const failure = await failureOf(async () => await find(root, { told: FOREIGN }, false, [`${root}/ws`]));
    expect(failure).toMatchObject({ code: "E_NOT_OWNER" });
    expect(failure.hint).toContain(`--workspace ${root}/ws`);
  });

  test("is used by root's list, as long as nobody but root writes that", async () => {
    const root = await makeBelow();
    const text = `# ours\n/somewhere/else\n${root}/ws   # the web guests\n`;
    expect(await find(root, { told: FOREIGN, safeList: { text } }, true)).toMatchObject({
      root: `${root}/ws`,
    });
    for (const forged of [{ ownerId: OTHER }, { mode: 0o666 }, { mode: 0o664 }]) {
      const failure = await failureOf(
        async () => await find(root, { told: FOREIGN, safeList: { text, ...forged } }, true),
      );
      expect(failure.code).toBe("E_NOT_OWNER");
    }
  });

  test("gets its owner's ownership for all that root makes there", async () => {
    const root = await makeBelow();
    const owners: string[] = [];
    const storage: Storage = {
      ...scene(root, { told: FOREIGN, userId: 0 }),
      createFile: async (path, mode) => {
        const file = await makeNodeStorage().createFile(path, mode);
        file.setAccess = async ({ ownerId, groupId }) => {
          owners.push(`${path.slice(root.length)} ${ownerId} ${groupId}`);
        };
        return file;
      },
      setOwner: async (path, ownerId, groupId) => {
        owners.push(`${path.slice(root.length)} ${ownerId} ${groupId}`);
      },
    };
    const found = await findWorkspace(storage, "/", `${root}/ws`, [`${root}/ws`]);
    await (await found.storage.createFile(`${root}/ws/a1.qcow2`, 0o600)).close();
    await found.storage.makeFolder(`${root}/ws/.imgtx/view/1`, 0o755);
    await found.storage.makeSymlink("a1.qcow2", `${root}/ws/.imgtx/view/1/vda`);
    expect(owners).toEqual([
      `/ws/a1.qcow2 ${OTHER} 12`,
      `/ws/.imgtx/view/1 ${OTHER} 12`,
      `/ws/.imgtx/view/1/vda ${OTHER} 12`,
    ]);
  });
});

test.each([
  ["history/000000.json", "x"],
  ["journal/abcdefghij.journal", "x"],
])("a workspace that lost its table, and still has %s, is not taken for none", async (name, content) => {
  const root = makeFolder();
  mkdirSync(`${root}/ws/below`, { recursive: true });
  mkdirSync(`${root}/ws/.imgtx/history`, { recursive: true });
  mkdirSync(`${root}/ws/.imgtx/journal`);
  writeFileSync(`${root}/ws/.imgtx/${name}`, content);
  const failure = await failureOf(async () => await find(root, {}));
  expect(failure).toMatchObject({ code: "E_CORRUPT", image: `${root}/ws/.imgtx/table.json` });
  expect(failure.hint).toContain(`imgtx init --restore ${root}/ws`);
});

test("root does for a listed workspace's owner nothing that this user could not do", async () => {
  const root = await makeBelow();
  const theirs = { ownerId: OTHER, groupId: 12 };
  for (const folder of ["open", "open/closed", "open/closed/wide", "sticky"]) mkdirSync(`${root}/${folder}`);
  for (const file of ["secret", "ws/theirs", "sticky/another's", "sticky/theirs", "open/closed/wide/file"])
    writeFileSync(`${root}/${file}`, file);
  const told = {
    ws: theirs,
    "ws/.imgtx": theirs,
    "ws/theirs": { ...theirs, mode: 0o600 },
    open: { ownerId: 0, mode: 0o777 },
    "open/closed": { ownerId: 0, mode: 0o700 },
    "open/closed/wide": { ownerId: 0, mode: 0o777 },
    "open/closed/wide/file": { ownerId: 0, mode: 0o666 },
    sticky: { ownerId: 0, mode: 0o1777 },
    "sticky/another's": { ownerId: 0, mode: 0o666 },
    "sticky/theirs": theirs,
    secret: { ownerId: 0, mode: 0o600 },
    "": { ownerId: 0, mode: 0o755 },
  };
  const below = scene(root, { told, userId: 0 });
  const made: string[] = [];
  const { storage } = await findWorkspace(
    { ...below, setOwner: async (path) => void made.push(path) },
    "/",
    `${root}/ws`,
    [`${root}/ws`],
  );
  const refused: readonly (readonly [string, (path: string) => Promise<unknown>])[] = [
    ["secret", async (path) => await storage.openFile(path, "read")],
    ["secret", async (path) => await storage.openFile(path, "write")],
    ["open/closed/wide/file", async (path) => await storage.openFile(path, "read")],
    [
      "secret",
      async (path) => {
        await storage.removeFile(path);
      },
    ],
    [
      "sticky/another's",
      async (path) => {
        await storage.removeFile(path);
      },
    ],
    [
      "open/closed/wide/file",
      async (path) => {
        await storage.removeFile(path);
      },
    ],
    [
      "secret",
      async (path) => {
        await storage.rename(`${root}/ws/theirs`, path);
      },
    ],
    [
      "sticky/another's",
      async (path) => {
        await storage.rename(`${root}/ws/theirs`, path);
      },
    ],
    [
      "new",
      async (path) => {
        await storage.rename(`${root}/ws/theirs`, path);
      },
    ],
    [
      "new",
      async (path) => {
        await storage.renameWithoutReplacing(`${root}/ws/theirs`, path);
      },
    ],
    [
      "secret",
      async (path) => {
        await storage.renameWithoutReplacing(path, `${root}/ws/new`);
      },
    ],
    ["new", async (path) => await storage.createFile(path, 0o644)],
    ["open/closed/wide/new", async (path) => await storage.createFile(path, 0o644)],
    [
      "new",
      async (path) => {
        await storage.makeFolder(path, 0o755);
      },
    ],
    [
      "new",
      async (path) => {
        await storage.makeSymlink("ws/theirs", path);
      },
    ],
  ];
  for (const [name, call] of refused) {
    const image = `${root}/${name}`;
    expect(await failureOf(async () => await call(image))).toMatchObject({ code: "E_NOT_OWNER", image });
  }
  await (await storage.openFile(`${root}/ws/theirs`, "write")).close();
  await storage.renameWithoutReplacing(`${root}/ws/theirs`, `${root}/ws/renamed`);
  await storage.removeFile(`${root}/sticky/theirs`);
  await storage.makeFolder(`${root}/open/new`, 0o755);
  expect(made).toEqual([`${root}/open/new`]);
});
