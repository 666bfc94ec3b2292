// Ctrl-C where no test of an action looks: while a big group is planned, amid thousands of headers, and amid a report. It
// comes at a call of the storage, and not at a time: the command ends at once, with 130 or 143, says what is true, and leaves
// nothing behind.

import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { beforeAll, describe, expect, test } from "vitest";
import { makeNodeStorage, type Storage } from "../../src/storage/index.ts";
import type { Interrupt } from "../../src/cli/context.ts";
import { makeInterrupts, type Result, runCli } from "../helpers/cli/harness.ts";
import { sampleQcow2 } from "../helpers/sample-image.ts";
import { makeFolderOfFile } from "../helpers/temporary-folder.ts";

const COUNT = 30;
let cwd = "";

beforeAll(async () => {
  cwd = makeFolderOfFile();
  mkdirSync(`${cwd}/images`);
  const names = Array.from({ length: COUNT }, (_, at) => `d${at}`);
  for (const name of names) {
    const image = sampleQcow2({ virtualSizeBytes: 192 * 1024, dataClusters: [0], seed: 1 });
    writeFileSync(`${cwd}/images/${name}.qcow2`, image);
  }
  const lines = names.map((name) => `device-add ${name} images/${name}.qcow2`).join("\n");
  const added = await runCli(["txn", "run", "-"], {
    cwd,
    stdin: lines.replaceAll("device-add", "device add"),
  });
  expect(added).toMatchObject({ status: 0 });
});

/** The command is interrupted when it opens its nth image; how many it opened after that. */
async function interrupt(
  words: readonly string[],
  { nth, name = "SIGINT" }: { readonly nth: number; readonly name?: Interrupt },
): Promise<Result & { readonly after: number }> {
  const { onInterrupt, send } = makeInterrupts();
  const real = makeNodeStorage();
  let opened = 0;
  const openFile: Storage["openFile"] = async (path, ...how) => {
    if (path.endsWith(".qcow2")) opened += 1;
    if (opened === nth && path.endsWith(".qcow2")) send(name);
    return await real.openFile(path, ...how);
  };
  const result = await runCli(words, { cwd, onInterrupt, storage: { ...real, openFile } });
  return { ...result, after: opened - nth };
}

const listAll = (): string[] => readdirSync(cwd, { recursive: true, encoding: "utf8" }).sort();

describe.each([
  ["doctor images", 5],
  ["doctor --check images", 5],
  ["doctor", 5],
  // Amid its own headers, and amid what it measures after that.
  ["report page.html", COUNT + 5],
  ["report page.html", 4 * COUNT],
  ["tree --map", COUNT + 5],
] as const)("imgtx %s, interrupted at image %i,", (line, nth) => {
  test.each([
    ["SIGINT", 130, "interrupted"],
    ["SIGTERM", 143, "terminated"],
  ] as const)("ends at %s with %i, and has changed nothing", async (name, status, what) => {
    const before = listAll();
    const result = await interrupt(line.split(" "), { nth, name });
    expect(result).toMatchObject({ status, stdout: "" });
    expect(result.stderr).toBe(`error: ${what}; nothing was done\n  No disk was changed.\n`);
    expect(result.after).toBeLessThan(3);
    expect(listAll()).toEqual(before);
  });
});

test.each([
  "snapshot-group --all",
  "freeze d0 d1 d2 d3 d4 d5 d6 d7",
  "resize d7 1M",
  "relocate --all elsewhere",
])("imgtx %s ends while it is planned, rolls back, and leaves nothing", async (line) => {
  mkdirSync(`${cwd}/elsewhere`, { recursive: true });
  const before = listAll();
  const result = await interrupt(line.split(" "), { nth: 1 });
  expect(result.stderr).toContain("interrupted: rolling back, unless it is committed already");
  expect(result).toMatchObject({ status: 130, stdout: "" });
  expect(result.stderr).toContain("error: interrupted; rolled back\n  No disk was changed.\n");
  expect(result.after).toBeLessThan(COUNT);
  expect(listAll()).toEqual(before);
  expect(existsSync(`${cwd}/page.html`)).toBe(false);
});
