// The view follows the table: it is built anew where it lags, and takes nothing of others with it.

import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, test } from "vitest";
import { type DeviceTable, isViewPresent, showView, type Workspace } from "../../../src/device/index.ts";
import { buildView, discardView, flipView, removeOldViews } from "../../../src/device/view/view.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { snapshotTree } from "../../helpers/tree.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { Killed, watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeWorkbench } from "../../helpers/transaction/workbench.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { device, table } from "../../helpers/device/tables.ts";

function makeBareWorkspace(): Workspace {
  const root = makeFolder();
  mkdirSync(`${root}/.imgtx/view`, { recursive: true });
  return { storage: makeNodeStorage(), root };
}

function generation(number: number, root: string): DeviceTable {
  return {
    ...table(device("vda", `${root}/a${number}`, [`sub/b`, `${root}/sub/b`]), device("vdb", `${root}/b`)),
    generation: number,
  };
}

describe("the view", () => {
  test("is there once it was shown, and shown again changes nothing that programs see", async () => {
    const workspace = makeBareWorkspace();
    const first = generation(1, workspace.root);
    expect(await isViewPresent(workspace, first)).toBe(false);
    await showView(workspace, first);
    expect(await isViewPresent(workspace, first)).toBe(true);
    expect(readlinkSync(`${workspace.root}/devices`)).toBe(".imgtx/view/1");
    await showView(workspace, first);
    expect(await isViewPresent(workspace, first)).toBe(true);
  });

  test.each(["hard links", "no hard links"])(
    "takes one new link for each image that is new to it, on a file system with %s",
    async (has) => {
      const cant = (): never => {
        throw Object.assign(new Error("EPERM: link"), { code: "EPERM", errno: -1 });
      };
      const storage = makeNodeStorage(has === "hard links" ? {} : { link: cant });
      const workspace = { ...makeBareWorkspace(), storage };
      const { root } = workspace;
      const first = table(device("vda", `${root}/a0`), device("vdb", `${root}/b`));
      const next = {
        ...table(device("vda", `${root}/a1`, [`a0`, `${root}/a0`]), device("vdb", `${root}/b`)),
        generation: first.generation + 1,
      };
      await showView(workspace, first);
      const inodes = (): Set<number> =>
        new Set(
          readdirSync(`${root}/.imgtx`, { recursive: true, encoding: "utf8" })
            .map((path) => lstatSync(`${root}/.imgtx/${path}`))
            .flatMap((stats) => (stats.isSymbolicLink() ? [stats.ino] : [])),
        );
      const before = inodes();
      await buildView(workspace, next, first);
      // vda, and what shows the generation; else vdb and the name of its image as well.
      expect([...inodes()].filter((inode) => !before.has(inode))).toHaveLength(has === "hard links" ? 2 : 4);
      await flipView(workspace);
      await removeOldViews(workspace, next);
      expect(await isViewPresent(workspace, next)).toBe(true);
      expect(realpathSync(`${root}/devices`)).toBe(realpathSync(`${root}/.imgtx/view/${first.generation}`));
    },
  );

  test.each([
    ["devices is missing", (root: string) => rmSync(`${root}/devices`)],
    [
      "devices shows another generation",
      (root: string) => {
        rmSync(`${root}/devices`);
        symlinkSync(".imgtx/view/0", `${root}/devices`);
      },
    ],
    ["its folder is missing", (root: string) => rmSync(`${root}/.imgtx/view/1`, { recursive: true })],
    ["a link is missing", (root: string) => rmSync(`${root}/.imgtx/view/1/vdb`)],
    [
      "a link leads elsewhere",
      (root: string) => {
        rmSync(`${root}/.imgtx/view/1/sub/b`);
        symlinkSync("/dev/null", `${root}/.imgtx/view/1/sub/b`);
      },
    ],
  ])("is mended when %s", async (_, spoil) => {
    const workspace = makeBareWorkspace();
    const present = generation(1, workspace.root);
    await showView(workspace, present);
    spoil(workspace.root);
    expect(await isViewPresent(workspace, present)).toBe(false);
    await showView(workspace, present);
    expect(await isViewPresent(workspace, present)).toBe(true);
    expect(readlinkSync(`${workspace.root}/.imgtx/view/1/sub/b`)).toBe("../../../../sub/b");
  });

  test("that was cut off at any step is mended by the next one", async () => {
    for (let step = 0; ; step += 1) {
      const workspace = makeBareWorkspace();
      await showView(workspace, generation(1, workspace.root));
      let calls = 0;
      const storage = watchStorage(workspace.storage, (_, kill) => {
        calls += 1;
        if (calls > step) kill();
      });
      const next = generation(2, workspace.root);
      const cutOff = await showView({ ...workspace, storage }, next).then(
        () => false,
        (error: unknown) => error instanceof Killed,
      );
      const seen = readlinkSync(`${workspace.root}/devices`);
      expect([".imgtx/view/1", ".imgtx/view/2"], `step ${step}`).toContain(seen);
      if (!(await isViewPresent(workspace, next))) await showView(workspace, next);
      expect(await isViewPresent(workspace, next), `step ${step}`).toBe(true);
      if (!cutOff) break;
      expect(step).toBeLessThan(100);
    }
  });

  test("of the generation before stays, and older ones go", async () => {
    const workspace = makeBareWorkspace();
    for (const number of [1, 2, 3]) await showView(workspace, generation(number, workspace.root));
    expect(readdirSync(`${workspace.root}/.imgtx/view`)).toEqual([
      "2",
      "2.devices",
      "2.now",
      "3",
      "3.devices",
      "3.now",
    ]);
  });

  test("takes no file with it that another program made in it", async () => {
    const workspace = makeBareWorkspace();
    await showView(workspace, generation(1, workspace.root));
    writeFileSync(`${workspace.root}/devices/new.qcow2`, "made by QEMU");
    writeFileSync(`${workspace.root}/devices/sub/other`, "made by somebody");
    await showView(workspace, generation(1, workspace.root));
    expect(readFileSync(`${workspace.root}/devices/new.qcow2`, "utf8")).toBe("made by QEMU");
    for (const number of [2, 3, 4]) await showView(workspace, generation(number, workspace.root));
    expect(snapshotTree(`${workspace.root}/.imgtx/view/1`).map((line) => line.split(" ")[0])).toEqual([
      "new.qcow2",
      "sub",
      "sub/other",
    ]);
  });

  test.each([
    ["a file", (path: string) => writeFileSync(path, "the user's own")],
    ["a folder", (path: string) => mkdirSync(path)],
    ["another link", (path: string) => symlinkSync("/dev/vda", path)],
  ])("never takes the place of %s that somebody called devices", async (_, make) => {
    const workspace = makeBareWorkspace();
    make(`${workspace.root}/devices`);
    const before = snapshotTree(workspace.root, [".imgtx"]);
    const failure = await failureOf(async () => await showView(workspace, generation(1, workspace.root)));
    expect(failure).toMatchObject({ code: "E_EXISTS", image: `${workspace.root}/devices` });
    expect(failure.hint).toContain("move it away");
    expect(snapshotTree(workspace.root, [".imgtx"])).toEqual(before);
  });
});

describe("the view of the next generation", () => {
  /** vda with another layer for each generation, on those before. */
  function snapshots(number: number, root: string): DeviceTable {
    const layers = Array.from({ length: number }, (_, depth) => `a${number - depth - 1}`);
    const names = layers.map((name) => [name, `${root}/${name}`] as const);
    return {
      ...table(device("vda", `${root}/a${number}`, ...names), device("vdb", `${root}/b${number}`)),
      generation: number,
    };
  }

  /** What other programs find: where each device leads, and each name that its chain looks up. */
  function seen(root: string, { devices, generation }: DeviceTable): string[] {
    return devices.flatMap(({ name, chain }) =>
      chain.map((entry) => {
        const link = `${root}/devices/${entry.name ?? name}`;
        for (const file of [0, 1, 2, 3, 4].flatMap((one) => [`${root}/a${one}`, `${root}/b${one}`]))
          if (!existsSync(file)) writeFileSync(file, "");
        return `${generation} ${existsSync(link) ? realpathSync(link) : "nothing"}`;
      }),
    );
  }

  const wanted = (of: DeviceTable): string[] =>
    of.devices.flatMap(({ chain }) => chain.map(({ image }) => `${of.generation} ${image}`));

  test("adds the names that are new, and touches no other", async () => {
    const workspace = makeBareWorkspace();
    const { root } = workspace;
    await showView(workspace, snapshots(20, root));
    writeFileSync(`${root}/devices/new.qcow2`, "made by QEMU");
    const calls: string[] = [];
    const storage = watchStorage(workspace.storage, ({ name, path }) => {
      if (!/^(stat|read)/.test(name)) calls.push(`${name} ${path.slice(root.length)}`);
    });
    await buildView({ ...workspace, storage }, snapshots(21, root), snapshots(20, root));
    expect(calls).toEqual([
      "makeFolder /.imgtx/view/21.devices",
      "makeSymlink /.imgtx/view/21.devices/vda",
      "makeSymlink /.imgtx/view/21.devices/vdb",
      "makeSymlink /.imgtx/view/20/a20",
      "makeSymlink /.imgtx/devices.new",
    ]);
    expect(await isViewPresent(workspace, snapshots(20, root))).toBe(true);
    await flipView(workspace);
    expect(await isViewPresent(workspace, snapshots(21, root))).toBe(true);
    expect(readlinkSync(`${root}/devices`)).toBe(".imgtx/view/20");
    expect(readFileSync(`${root}/devices/new.qcow2`, "utf8")).toBe("made by QEMU");
    await removeOldViews(workspace, snapshots(21, root));
    expect(await isViewPresent(workspace, snapshots(21, root))).toBe(true);
    // Back again: the names that nothing needs go, once nobody is shown them.
    const back = { ...snapshots(2, root), generation: 22 };
    await buildView(workspace, back, snapshots(21, root));
    expect(await isViewPresent(workspace, snapshots(21, root))).toBe(true);
    await flipView(workspace);
    await removeOldViews(workspace, back);
    expect(await isViewPresent(workspace, back)).toBe(true);
    expect(readdirSync(`${root}/devices`)).toEqual(["a0", "a1", "new.qcow2", "vda", "vdb"]);
    expect(readdirSync(`${root}/.imgtx/view`)).toEqual(["20", "20.now", "21.devices", "22.devices"]);
  });

  test.each<[string, (root: string) => DeviceTable]>([
    ["adds a name", (root) => snapshots(4, root)],
    [
      "leads a name elsewhere",
      (root) => ({ ...table(device("vda", `${root}/b4`, ["a0", `${root}/b0`])), generation: 4 }),
    ],
    [
      "calls a device as a backing image",
      (root) => ({ ...table(device("a1", `${root}/b4`)), generation: 4 }),
    ],
    [
      "has folders in between",
      (root) => ({ ...table(device("vda", `${root}/x/a`, ["../a3", `${root}/a3`])), generation: 4 }),
    ],
    [
      "has a folder of a name",
      (root) => ({ ...table(device("vda", `${root}/b4`, ["a0/../a4", `${root}/a4`])), generation: 4 }),
    ],
  ])("that %s is shown as a whole, wherever it was cut off, and can be taken back", async (_, make) => {
    for (let step = 0; ; step += 1) {
      const workspace = makeBareWorkspace();
      const { root } = workspace;
      const present = snapshots(3, root);
      const next = make(root);
      await showView(workspace, snapshots(2, root));
      await buildView(workspace, present, snapshots(2, root));
      await flipView(workspace);
      await removeOldViews(workspace, present);
      mkdirSync(`${root}/x`);
      writeFileSync(`${root}/x/a`, "");
      seen(root, present);
      const before = snapshotTree(root, []);
      let calls = 0;
      const storage = watchStorage(workspace.storage, (__, kill) => {
        calls += 1;
        if (calls > step) kill();
      });
      const cutOff = await (async () => {
        await buildView({ ...workspace, storage }, next, present);
        await flipView({ ...workspace, storage });
        await removeOldViews({ ...workspace, storage }, next);
        return false;
      })().catch((error: unknown) => error instanceof Killed);
      const isOld = JSON.stringify(seen(root, present)) === JSON.stringify(wanted(present));
      const isNew = JSON.stringify(seen(root, next)) === JSON.stringify(wanted(next));
      expect(isOld !== isNew, `step ${step}`).toBe(true);
      if (isOld) {
        expect(await isViewPresent(workspace, present)).toBe(true);
        await discardView(workspace, present);
        expect(snapshotTree(root, []), `step ${step}`).toEqual(before);
      }
      await buildView(workspace, next, present);
      if (isOld) expect(seen(root, present)).toEqual(wanted(present));
      await flipView(workspace);
      expect(await isViewPresent(workspace, next), `step ${step}`).toBe(true);
      if (!cutOff) break;
      expect(step).toBeLessThan(100);
    }
  });

  test("takes no name that another program has in `devices`", async () => {
    const workspace = makeBareWorkspace();
    const { root } = workspace;
    await showView(workspace, snapshots(1, root));
    writeFileSync(`${root}/devices/a1`, "somebody's own");
    await buildView(workspace, snapshots(2, root), snapshots(1, root));
    await flipView(workspace);
    expect(await isViewPresent(workspace, snapshots(2, root))).toBe(true);
    expect(readFileSync(`${root}/.imgtx/view/1/a1`, "utf8")).toBe("somebody's own");
  });
});

test("a workspace whose devices link was removed by hand shows it again, and says so once", async () => {
  const bench = await makeWorkbench();
  rmSync(bench.at("devices"));
  expect((await bench.session()).recovered).toMatchObject([{ did: "view", transaction: null }]);
  expect((await bench.session()).recovered).toEqual([]);
  expect(existsSync(bench.at("devices/vda"))).toBe(true);
});
