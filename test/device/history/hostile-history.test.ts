// Files of the history that are damaged, or that imgtx did not write: refused, whatever they hold.

import { createHash } from "node:crypto";
import { readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { readGeneration, readTable, type Workspace } from "../../../src/device/index.ts";
import {
  commit,
  fileOf,
  folderForAll,
  makeHere,
  manyDevices,
  withOverlay,
} from "../../helpers/device/histories.ts";
import { failureOf } from "../../helpers/expect-error.ts";

interface StoredStep extends Record<string, unknown> {
  readonly back: Record<string, unknown> & { readonly head: Record<string, unknown> };
  readonly next: { readonly head: Record<string, unknown> };
}

/** The stored entry of the one device that it has. */
function deviceOf({
  back,
}: StoredStep): Record<string, unknown> & { readonly entry: Record<string, unknown> } {
  const [first] = back["devices"] as ReturnType<typeof deviceOf>[];
  if (!first) throw new Error("the generation has a device");
  return first;
}

describe("a file of the history that imgtx did not write", () => {
  let workspace: Workspace;
  const folder = folderForAll();
  let file: string;
  let original: Buffer;

  beforeAll(async () => {
    workspace = await makeHere(folder);
    const devices = manyDevices(workspace.root, 12, 6);
    await commit(workspace, { devices });
    await commit(workspace, { devices: [withOverlay(devices[0]!, "/x.qcow2", 1), ...devices.slice(2)] });
    // The whole one before it would mend what is damaged.
    rmSync(fileOf(workspace, 0));
    file = fileOf(workspace, 1);
    original = readFileSync(file);
    expect(original.toString()).toContain('"back":');
  });

  const readIt = async () => await readGeneration(workspace, 1, await readTable(workspace));

  /** The stored generation with some of it replaced, under a right checksum. */
  function forge(forging: (stored: StoredStep) => unknown): void {
    const { generation } = JSON.parse(original.toString()) as { generation: StoredStep };
    forging(generation);
    const content = JSON.stringify(generation);
    const sha256 = createHash("sha256").update(content).digest("hex");
    writeFileSync(file, `{"sha256":"${sha256}","generation":${content}}\n`);
  }

  test("is refused when any byte of it changed or is missing", async () => {
    for (let at = 0; at < original.length; at += 7) {
      const changed = Buffer.from(original);
      changed[at] = (changed[at] ?? 0) ^ 0x10;
      writeFileSync(file, changed);
      expect((await failureOf(readIt)).code, `byte ${at} changed`).toBe("E_CORRUPT");
      truncateSync(file, at);
      expect((await failureOf(readIt)).code, `cut at ${at}`).toBe("E_CORRUPT");
    }
    writeFileSync(file, original);
    expect(await readIt()).toBeDefined();
  });

  test.each<[string, (stored: StoredStep) => unknown]>([
    ["another kind", (stored) => (stored["kind"] = "imgtx device table")],
    ["another number", (stored) => (stored.back.head["generation"] = 4)],
    ["no next one", (stored) => Object.assign(stored, { next: undefined })],
    ["no difference", (stored) => Object.assign(stored, { back: null })],
    ["a difference of another shape", (stored) => (stored.back["devices"] = {})],
    ["a device without places", (stored) => delete deviceOf(stored)["chain"]],
    ["a place that is no number", (stored) => (deviceOf(stored)["chain"] = ["0"])],
    ["a place below zero", (stored) => (deviceOf(stored)["chain"] = [-1])],
    ["a place after the end", (stored) => (deviceOf(stored)["chain"] = [99])],
    ["a stretch after the end", (stored) => (deviceOf(stored)["chain"] = [0, [1, 999]])],
    ["a stretch of too many numbers", (stored) => (deviceOf(stored)["chain"] = [0, [1, 2, 3]])],
    [
      "a chain longer than any",
      (stored) => (deviceOf(stored)["chain"] = [0, ...Array.from({ length: 5000 }, () => [0, 7])]),
    ],
    ["a chain of nothing", (stored) => (deviceOf(stored)["chain"] = [])],
    ["a chain of another image", (stored) => (deviceOf(stored)["chain"] = [[2, 3]])],
    ["a name that climbs out of the view", (stored) => (deviceOf(stored).entry["name"] = "../x")],
    ["no looks", (stored) => delete stored["looks"]],
    [
      "looks of another shape",
      (stored) => (stored["looks"] = [{ device: "vda", images: [{ image: "/a" }] }]),
    ],
    ["snapshots that were not given", (stored) => (stored.back["snapshots"] = [{ number: 9 }])],
    [
      "a snapshot after the next one",
      (stored) => (stored.back["snapshots"] = [{ number: 9, name: null, record: 1 }]),
    ],
    ["another next generation", (stored) => (stored.next.head["transaction"] = "another")],
  ])("with a right checksum and %s is refused", async (_, forging) => {
    forge(forging);
    expect((await failureOf(readIt)).code).toBe("E_CORRUPT");
    writeFileSync(file, original);
  });

  test("of another version is refused as that", async () => {
    forge((stored) => (stored["version"] = 2));
    expect(await failureOf(readIt)).toMatchObject({ code: "E_UNSUPPORTED", image: file });
    writeFileSync(file, original);
    expect(readdirSync(`${workspace.root}/.imgtx/history`)).toEqual(["000001.json"]);
  });
});
