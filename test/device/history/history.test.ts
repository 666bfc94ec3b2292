// The history as differences: every generation comes back as it closed, whatever is lost of the others, and its files grow
// by what changes.

import { readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { beforeAll, describe, expect, test } from "vitest";
import {
  type DeviceEntry,
  type DeviceTable,
  listHistory,
  readGeneration,
  readingHistory,
  readTable,
  renewGeneration,
  replaceTable,
  type Workspace,
} from "../../../src/device/index.ts";
import { encodeTable } from "../../../src/device/table/device-table.ts";
import {
  commit,
  fileOf,
  folderForAll,
  locked,
  makeHere,
  manyDevices,
  withOverlay,
  written,
} from "../../helpers/device/histories.ts";
import { device, table } from "../../helpers/device/tables.ts";
import { failureOf } from "../../helpers/expect-error.ts";
import { type Random, seededRandom } from "../../helpers/random.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

/** All but what the table in place alone has. */
function read(table: DeviceTable | undefined) {
  const { sinceWhole: _sinceWhole, ...rest } = table ?? {};
  return rest;
}

/** What a commit may do to a table: overlays, merges, mirrors, devices that come and go, snapshots that go. */
function change(present: DeviceTable, root: string, random: Random): Partial<DeviceTable> {
  const { devices, snapshots, nextSnapshot, generation } = present;
  const at = random.below(devices.length);
  const one = devices[at];
  if (!one) throw new Error("there are devices");
  const set = (entry: DeviceEntry) => ({ devices: devices.map((each) => (each === one ? entry : each)) });
  switch (random.below(7)) {
    case 0: {
      const chain = one.chain.filter((_, depth) => depth !== 1);
      return set({ ...one, chain });
    }
    case 1: {
      const mirror = device("m", `${root}/m${generation}.qcow2`).chain;
      const [image, format] = [`${root}/m${generation}.qcow2`, "qcow2"] as const;
      const below = one.chain.slice(1);
      const entry = { image, format, sync: "top", chain: [...mirror, ...below], source: one.chain } as const;
      return set({ ...one, mirror: { ...entry, bitmap: null } });
    }
    case 2:
      return { devices: devices.filter((each) => each !== one) };
    case 3:
      return { devices: [...devices, { ...one, name: `w${10000 + generation}` }] };
    case 4:
      return { snapshots: snapshots.slice(1), position: generation, undone: [generation] };
    case 5:
      return set({ ...one, mirror: null, trusted: [`${root}/pool`] });
    default: {
      const ref = { number: nextSnapshot, name: null, record: generation + 1 };
      const overlaid = devices.map((each, index) =>
        index === at || random.below(4) === 0
          ? withOverlay(each, `${root}/o${generation}-${index}.qcow2`, nextSnapshot)
          : each,
      );
      return { devices: overlaid, snapshots: [...snapshots, ref], nextSnapshot: nextSnapshot + 1 };
    }
  }
}

describe("a history of many commits", () => {
  let workspace: Workspace;
  const folder = folderForAll();
  const closed: DeviceTable[] = [];
  const kinds = new Map<number, "whole" | "step">();

  beforeAll(async () => {
    workspace = await makeHere(folder);
    const random = seededRandom(7);
    await commit(workspace, { devices: manyDevices(workspace.root, 14, 5) });
    for (let round = 1; round <= 36; round += 1) {
      const present = await readTable(workspace);
      const next = change(present, workspace.root, random);
      // As it closes, more is known of images that the commit leaves.
      const devices = present.devices.map((entry) =>
        (next.devices ?? present.devices).includes(entry)
          ? entry
          : { ...entry, chain: entry.chain.map((image) => written(image, `${round}`)) },
      );
      closed.push((await commit(workspace, { devices: present.devices, ...next }, devices)).closing);
      const stored = readFileSync(fileOf(workspace, round), "utf8");
      kinds.set(round, stored.includes('"back":') ? "step" : "whole");
    }
  });

  test("has whole generations now and then, and gives each back as it closed", async () => {
    const count = (kind: string) => [...kinds.values()].filter((each) => each === kind).length;
    expect(count("whole")).toBeGreaterThan(2);
    expect(count("step")).toBeGreaterThan(3 * count("whole"));
    const present = await readTable(workspace);
    const history = readingHistory(workspace, present);
    for (const table of closed) {
      expect(read(await history.read(table.generation))).toEqual(read(table));
      expect(await readGeneration(workspace, table.generation, present)).toBeDefined();
    }
  });

  test("loses with a file that is torn or gone its own generation, and no other", async () => {
    const present = await readTable(workspace);
    for (const [index, { generation }] of closed.entries()) {
      const file = fileOf(workspace, generation);
      renameSync(file, `${file}.aside`);
      if (index % 2 === 0) writeFileSync(file, readFileSync(`${file}.aside`).subarray(0, -2));
      const history = readingHistory(workspace, present);
      for (const table of closed) {
        if (table.generation === generation) continue;
        const found = await history.read(table.generation);
        expect(isDeepStrictEqual(read(found), read(table)), `${table.generation} without ${generation}`).toBe(
          true,
        );
      }
      if (index % 2 === 0) {
        const failure = await failureOf(async () => await history.read(generation));
        expect(failure).toMatchObject({ code: "E_CORRUPT", image: file });
      } else expect(await history.read(generation)).toBeUndefined();
      renameSync(`${file}.aside`, file);
    }
  });

  test("is read without a table, and says what two lost files have taken with them", async () => {
    const newest = closed.at(-1);
    const forward = await readGeneration(workspace, newest?.generation ?? 0, undefined);
    expect(read(forward)).toEqual(read(newest));
    // Nothing whole lies between the two, and what is between can't be told.
    const steps = [...kinds].filter(([, kind]) => kind === "step").map(([number]) => number);
    const first = steps.find((number) => steps.includes(number + 1) && steps.includes(number + 2)) ?? 0;
    const lost = [first, first + 2].map((number) => fileOf(workspace, number));
    for (const file of lost) renameSync(file, `${file}.aside`);
    const between = async () => await readGeneration(workspace, first + 1, await readTable(workspace));
    expect(await failureOf(between)).toMatchObject({ code: "E_CORRUPT" });
    for (const file of lost) renameSync(`${file}.aside`, file);
  });

  test("has no part in a table of another time under the same number", async () => {
    const steps = closed.filter(({ generation }) => kinds.get(generation) === "step");
    for (const [index, table] of closed.entries()) {
      const next = closed[index + 1];
      if (!steps.includes(table) || !next) continue;
      const other = { ...next, transaction: "another", devices: [] };
      expect(read(await readGeneration(workspace, table.generation, other))).toEqual(read(table));
    }
    expect(steps.length).toBeGreaterThan(10);
  });
});

describe("a generation in the history", () => {
  test("takes what its commit changed, however large the table is", async () => {
    const workspace = await makeHere();
    const devices = manyDevices(workspace.root, 40, 40);
    await commit(workspace, { devices });
    const whole = statSync(`${workspace.root}/.imgtx/table.json`).size;
    const first = await commit(workspace, {});
    expect(first.bytes).toBeLessThan(2000);
    const one = devices.map((entry, index) =>
      index === 7 ? withOverlay(entry, `${workspace.root}/o.qcow2`, 1) : entry,
    );
    expect((await commit(workspace, { devices: one })).bytes).toBeLessThan(5000);
    const all = one.map((entry) => withOverlay(entry, `${workspace.root}/${entry.name}-2.qcow2`, 2));
    const { bytes } = await commit(workspace, { devices: all });
    expect(bytes).toBeLessThan(whole / 5);
    // What is known of an image anew makes no other of it.
    await locked(workspace, async () => {
      const present = await readTable(workspace);
      const known = present.devices.map((entry) => ({ ...entry, virtualSizeBytes: 7 }));
      await replaceTable(workspace, { ...present, devices: known });
    });
    const found = await readGeneration(workspace, 3, await readTable(workspace));
    expect(found?.devices.map(({ image }) => image)).toEqual(one.map(({ image }) => image));
  });

  test("that is renewed stays as large as it was, and is read with what has come to be known", async () => {
    const workspace = await makeHere();
    const devices = manyDevices(workspace.root, 30, 10);
    await commit(workspace, { devices });
    const { closing, bytes } = await commit(workspace, { devices: devices.slice(1) });
    const present = await readTable(workspace);
    const [first, ...others] = devices;
    if (!first) throw new Error("there are devices");
    const known = { ...first, chain: first.chain.map((image) => written(image, "77")) };
    const renewed = { ...closing, devices: [known, ...others] };
    await locked(workspace, async () => {
      await renewGeneration(workspace, renewed);
    });
    expect(statSync(fileOf(workspace, 1)).size).toBeLessThan(bytes + 4000);
    const again = await readGeneration(workspace, 1, present);
    expect(again?.devices).toEqual(renewed.devices);
    // What its file says already is not written once more.
    const { ino } = statSync(fileOf(workspace, 1));
    await locked(workspace, async () => {
      await renewGeneration(workspace, again ?? closing);
    });
    expect(statSync(fileOf(workspace, 1)).ino).toBe(ino);
  });

  test("of the version before is read, between others and at the end", async () => {
    const workspace = await makeHere();
    const devices = manyDevices(workspace.root, 30, 10);
    await commit(workspace, { devices });
    const tables: DeviceTable[] = [];
    for (let round = 1; round <= 3; round += 1)
      tables.push((await commit(workspace, { devices: devices.slice(round) })).closing);
    const [, middle] = tables;
    writeFileSync(fileOf(workspace, 2), encodeTable(workspace.root, middle ?? table(), null));
    const present = await readTable(workspace);
    for (const each of tables)
      expect((await readGeneration(workspace, each.generation, present))?.devices).toEqual(each.devices);
    expect(await listHistory(workspace, present)).toEqual([0, 1, 2, 3]);
  });

  test("moves with its workspace", async () => {
    const workspace = await makeHere();
    const devices = manyDevices(workspace.root, 30, 10);
    await commit(workspace, { devices });
    await commit(workspace, { devices: devices.slice(1) });
    await commit(workspace, { devices: devices.slice(2) });
    const root = `${makeFolder()}/moved`;
    renameSync(workspace.root, root);
    const moved = { ...workspace, root };
    const found = await readGeneration(moved, 1, await readTable(moved));
    expect(found?.devices.map(({ image }) => image)).toEqual(
      devices.map(({ name }) => `${root}/${name}.qcow2`),
    );
  });
});
