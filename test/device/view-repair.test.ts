// The view follows the table: it is built anew where it lags, and takes nothing of others with it.

import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { describe, expect, test } from "vitest";
import { type DeviceTable, isViewPresent, showView, type Workspace } from "../../src/device/index.ts";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { snapshotTree } from "../helpers/tree.ts";
import { failureOf } from "../helpers/expect-error.ts";
import { Killed, watchStorage } from "../helpers/storage/watched-storage.ts";
import { makeWorkbench } from "../helpers/transaction/workbench.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";
import { device, table } from "../helpers/device/tables.ts";

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
    expect(readdirSync(`${workspace.root}/.imgtx/view`)).toEqual(["2", "3"]);
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

test("a workspace whose devices link was removed by hand shows it again, and says so once", async () => {
  const bench = await makeWorkbench();
  rmSync(bench.at("devices"));
  expect((await bench.session()).recovered).toMatchObject([{ did: "view", transaction: null }]);
  expect((await bench.session()).recovered).toEqual([]);
  expect(existsSync(bench.at("devices/vda"))).toBe(true);
});
