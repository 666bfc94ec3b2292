// Which links the view has. Each one is followed on a real disk, by the paths that QEMU composes: beside the
// name that it was given, without resolving links.

import { mkdirSync, realpathSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { type DeviceEntry, planView, RoomForNames, showView } from "../../../src/device/index.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";
import { device, table } from "../../helpers/device/tables.ts";
import { startEffort } from "../../helpers/effort.ts";

/** What each device's names lead to through `devices`, base last, or the error's code. */
async function follow(root: string, devices: readonly DeviceEntry[]): Promise<Record<string, string[]>> {
  mkdirSync(`${root}/.imgtx/view`, { recursive: true });
  for (const { chain } of devices) {
    for (const { image } of chain) {
      mkdirSync(path.dirname(image), { recursive: true });
      writeFileSync(image, image);
    }
  }
  await showView({ storage: makeNodeStorage(), root }, table(...devices));
  return Object.fromEntries(
    devices.map(({ name, chain }) => {
      let opened = `${root}/devices/${name}`;
      const leadsTo = chain.map(({ name: stored }) => {
        if (stored !== null) {
          opened = stored.startsWith("/")
            ? stored
            : `${opened.slice(0, opened.lastIndexOf("/") + 1)}${stored}`;
        }
        return resolve(opened);
      });
      return [name, leadsTo];
    }),
  );
}

function resolve(file: string): string {
  try {
    // Not the one in JavaScript, which folds `..` before it looks.
    return realpathSync.native(file);
  } catch (error) {
    return String((error as NodeJS.ErrnoException).code);
  }
}

function imagesOf(devices: readonly DeviceEntry[]): Record<string, string[]> {
  return Object.fromEntries(devices.map(({ name, chain }) => [name, chain.map(({ image }) => image)]));
}

describe("the view leads to every image of a chain", () => {
  test.each<[string, (root: string) => DeviceEntry[]]>([
    ["in one folder", (root) => [device("vda", `${root}/a`, ["b", `${root}/b`], ["c", `${root}/c`])]],
    ["without backing images", (root) => [device("vda", `${root}/a`), device("vdb", `${root}/x/a`)]],
    [
      "by absolute names",
      (root) => [device("vda", `${root}/a`, [`${root}/x/b`, `${root}/x/b`], ["c", `${root}/x/c`])],
    ],
    [
      "in folders below",
      (root) => [device("vda", `${root}/a`, ["x/b", `${root}/x/b`], ["y/c", `${root}/x/y/c`])],
    ],
    [
      "in folders above, down again and up again",
      (root) => [
        device(
          "vda",
          `${root}/p/q/a`,
          ["../../r/b", `${root}/r/b`],
          ["../p/c", `${root}/p/c`],
          ["../../top", path.resolve(`${root}/../top`)],
        ),
        device("vdb", `${root}/b`),
      ],
    ],
    ["by a name that goes down and up", (root) => [device("vda", `${root}/a`, ["x/../b", `${root}/b`])]],
    ["by a name that begins with a dot", (root) => [device("vda", `${root}/a`, ["././b", `${root}/b`])]],
    [
      "that two devices share",
      (root) => [
        device("vda", `${root}/a`, ["base", `${root}/base`]),
        device("vdb", `${root}/b`, ["base", `${root}/base`]),
      ],
    ],
    [
      "of devices with climbs of different heights",
      (root) => [
        device("vda", `${root}/1/2/3/a`, ["../../../base", `${root}/base`]),
        device("vdb", `${root}/1/b`, ["../base", `${root}/base`]),
        device("vdc", `${root}/c`, ["base", `${root}/base`]),
      ],
    ],
  ])("%s", async (_, make) => {
    const root = `${makeFolder()}/outer/ws`;
    mkdirSync(root, { recursive: true });
    const devices = make(root);
    expect(planView(table(...devices)).omitted).toEqual([]);
    expect(await follow(root, devices)).toEqual(imagesOf(devices));
  });
});

describe("a device is left out of the view rather than shown with a wrong image", () => {
  test.each<[string, (root: string) => DeviceEntry[], string[]]>([
    [
      "when two chains need one name for two files",
      (root) => [
        device("vda", `${root}/x/a`, ["base", `${root}/x/base`]),
        device("vdb", `${root}/y/b`, ["base", `${root}/y/base`]),
      ],
      ["vdb"],
    ],
    [
      "when a backing name is the name of another device",
      (root) => [device("vda", `${root}/a`, ["vdb", `${root}/vdb`]), device("vdb", `${root}/b`)],
      ["vda"],
    ],
    [
      "when a backing name is its own",
      (root) => [device("vda", `${root}/a`, ["vda", `${root}/vda`])],
      ["vda"],
    ],
    [
      "when a backing image lies in a folder of a device's name",
      (root) => [device("vda", `${root}/a`, ["vdb/base", `${root}/vdb/base`]), device("vdb", `${root}/b`)],
      ["vda"],
    ],
    [
      "when a folder of one chain is an image of another",
      (root) => [
        device("vda", `${root}/a`, ["x", `${root}/x`]),
        device("vdb", `${root}/else/b`, ["x/base", `${root}/else/x/base`]),
      ],
      ["vdb"],
    ],
    [
      "when one chain needs one name for two files, as symbolic links can have it",
      (root) => [device("vda", `${root}/a`, ["x/b", `${root}/other/b`], ["../x/b", `${root}/third/b`])],
      ["vda"],
    ],
    [
      "when an image has the name of a folder that the view climbs through",
      (root) => [device("vda", `${root}/x/a`, ["../up", `${root}/up`]), device("vdb", `${root}/b`)],
      ["vda"],
    ],
    [
      "when a name climbs without end",
      (root) => [
        device("vda", `${root}/a`, [`${"../".repeat(65)}base`, "/base"]),
        device("vdb", `${root}/b`),
      ],
      ["vda"],
    ],
  ])("%s", (_, make, omitted) => {
    const devices = make("/ws");
    const view = planView(table(...devices));
    expect(view.omitted.map((one) => one.device)).toEqual(omitted);
    expect(view.omitted.every(({ why }) => why.length > 10)).toBe(true);
    const shown = devices.filter(({ name }) => !omitted.includes(name));
    const alone = planView(table(...shown));
    const images = new Set(shown.flatMap(({ chain }) => chain.map(({ image }) => image)));
    for (const { devices: own, names } of [alone, view])
      expect(new Set([...own.values(), ...names.values()])).toEqual(images);
  });

  test("and the others are shown as ever", async () => {
    const root = makeFolder();
    const devices = [
      device("vda", `${root}/x/a`, ["base", `${root}/x/base`]),
      device("vdb", `${root}/y/b`, ["base", `${root}/y/base`]),
      device("vdc", `${root}/c`, ["deep/base", `${root}/deep/base`]),
    ];
    const { vdb, ...shown } = await follow(root, devices);
    const { vdb: _, ...wanted } = imagesOf(devices);
    expect(shown).toEqual(wanted);
    expect(vdb?.[0]).toBe("ENOENT");
  });
});

test("256 devices with deep relative chains are planned in less than a second", () => {
  const devices = Array.from({ length: 256 }, (_, index) => {
    const name = `vd${String(index).padStart(3, "0")}`;
    const backing = Array.from(
      { length: 20 },
      (__, depth) => [`${name}-${depth}`, `/ws/${name}-${depth}`] as const,
    );
    return device(name, `/ws/${name}.qcow2`, ...backing);
  });
  const effort = startEffort();
  const view = planView(table(...devices));
  expect(effort()).toBeLessThan(1000);
  expect(view.names.size).toBe(256 * 20);
});

describe("an overlay that is about to be made has room for its names", () => {
  const devices = [device("vda", "/ws/a", ["base", "/ws/base"]), device("vdb", "/ws/b")];

  test.each<[string, DeviceEntry, boolean]>([
    ["beside others", device("vdb", "/ws/b2", ["b", "/ws/b"]), true],
    ["where another device has the same", device("vdb", "/ws/b2", ["base", "/ws/base"]), true],
    ["but not of another device's image", device("vdb", "/ws/x/b2", ["base", "/ws/x/base"]), false],
    ["but not of a device", device("vdb", "/ws/x/b2", ["vda", "/ws/x/vda"]), false],
    ["where it climbs higher than all others", device("vdb", "/ws/x/b2", ["../b", "/ws/b"]), true],
    ["but not where it climbs to another's", device("vdb", "/x/y/b2", ["../up", "/x/up"]), false],
  ])("%s", (_, entry, hasRoom) => {
    expect(new RoomForNames(table(...devices)).takes(entry)).toBe(hasRoom);
    const next = table(...devices.map((one) => (one.name === entry.name ? entry : one)));
    expect(planView(next).omitted.length === 0).toBe(hasRoom);
  });

  test("and what one has taken is no other's", () => {
    const room = new RoomForNames(table(...devices));
    expect(room.takes(device("vda", "/ws/x/a2", ["../c", "/ws/c"], ["base", "/ws/base"]))).toBe(true);
    expect(room.takes(device("vdb", "/ws/y/b2", ["../c", "/ws/y/c"]))).toBe(false);
    expect(room.takes(device("vdb", "/ws/y/b2", ["../c", "/ws/c"]))).toBe(true);
  });

  test("as long as there are not too many", () => {
    const names = Array.from({ length: 65_535 }, (_, depth) => [`n${depth}`, `/ws/n${depth}`] as const);
    const room = new RoomForNames(table(device("vda", "/ws/a", ...names), device("vdb", "/ws/b")));
    expect(room.takes(device("vdb", "/ws/b2", ["b", "/ws/b"]))).toBe(true);
    expect(room.takes(device("vdb", "/ws/b3", ["b2", "/ws/b2"], ["b", "/ws/b"]))).toBe(false);
  });
});
