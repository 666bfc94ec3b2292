// schemas/imgtx-1.json against what commands really print, and man/imgtx-json.7 against the codes of errors.

import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { EXIT_OF_CODE } from "../../src/errors/index.ts";
import { runCli } from "../helpers/cli/harness.ts";
import { defsOf, findFaults } from "../helpers/json-schema.ts";
import { sampleQcow2 } from "../helpers/sample-image.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

const TOP = fileURLToPath(new URL("../..", import.meta.url));
const ROOT = JSON.parse(readFileSync(`${TOP}/schemas/imgtx-1.json`, "utf8")) as Record<string, unknown>;

/** In this order in one workspace: the schema of what is printed, and the command. */
const STORY: readonly (readonly [schema: string, command: string])[] = [
  ["init", "init"],
  ["outcome", "device add vda a.qcow2"],
  ["outcome", "device add vdb b.qcow2"],
  ["outcome", "snapshot-group --all --name nightly --with a.txt"],
  ["outcome", "mirror vdb m.qcow2"],
  ["outcome", "freeze vda"],
  ["device list", "device list"],
  ["device show", "device show vdb"],
  ["status", "status"],
  ["tree", "tree"],
  ["tree", "tree --map"],
  ["outcome", "unfreeze vda --dry-run"],
  ["outcome", "unfreeze vda"],
  ["snapshot-list", "snapshot-list"],
  ["snapshot-show", "snapshot-show nightly"],
  ["txn begin", "txn begin --name mine"],
  ["outcome", "snapshot vda a2.qcow2"],
  ["savepoint", "txn savepoint half"],
  ["outcome", "resize vda 256k"],
  ["txn status", "txn status"],
  ["txn status", "txn list"],
  ["txn show", "txn show mine"],
  ["savepoint", "txn rollback-to half"],
  ["outcome", "txn commit"],
  ["outcome", "merge vda"],
  ["outcome", "rollback vda --to nightly"],
  ["outcome", "undo"],
  ["outcome", "redo"],
  ["history", "history"],
  ["outcome", "internal-snapshot create vda inside"],
  ["internal-snapshot list", "internal-snapshot list vda"],
  ["would", "txn begin --dry-run"],
  ["prune", "prune --keep-last 1 --dry-run"],
  ["prune", "prune --keep-last 1"],
  ["gc", "gc"],
  ["recover", "recover"],
  ["doctor", "doctor"],
  ["doctor", "doctor --fix --dry-run ."],
  ["report", "report page.html"],
  ["relocation", "relocate . / --dry-run"],
];

test("what each command prints is as its schema says, to the last key", async () => {
  const cwd = makeFolder();
  const bytes = sampleQcow2({ virtualSizeBytes: 192 * 1024, dataClusters: [0, 3], seed: 1 });
  for (const name of ["a.qcow2", "b.qcow2"]) writeFileSync(`${cwd}/${name}`, bytes);
  writeFileSync(`${cwd}/a.txt`, "text");
  for (const [name, command] of STORY) {
    const { stdout, stderr } = await runCli([...command.split(" "), "--json"], { cwd });
    const schema = defsOf(ROOT)[name] ?? {};
    const faults = stdout === "" ? [stderr] : findFaults(JSON.parse(stdout), schema, ROOT);
    expect({ command, faults }).toEqual({ command, faults: [] });
    for (const line of stderr.split("\n").filter((one) => one !== "")) {
      expect(findFaults(JSON.parse(line), defsOf(ROOT)["aside"] ?? {}, ROOT)).toEqual([]);
    }
  }
  const { stderr } = await runCli(["device", "show", "vdx", "--json"], { cwd });
  expect(findFaults(JSON.parse(stderr), defsOf(ROOT)["error"] ?? {}, ROOT)).toEqual([]);
  // A device that is not sound, and one that is held.
  renameSync(`${cwd}/b.qcow2`, `${cwd}/away`);
  const unsound = await runCli(["status", "--json"], { cwd });
  expect(findFaults(JSON.parse(unsound.stdout), defsOf(ROOT)["status"] ?? {}, ROOT)).toEqual([]);
});

test("a schema says no to what is not as it says", () => {
  const schema = defsOf(ROOT)["init"] ?? {};
  const good = { schema: 1, changed: true, workspace: "/w" };
  expect(findFaults(good, schema, ROOT)).toEqual([]);
  for (const bad of [
    { ...good, schema: 2 },
    { ...good, more: 1 },
    { ...good, changed: "yes" },
    { schema: 1 },
    [],
  ]) {
    expect(findFaults(bad, schema, ROOT)).not.toEqual([]);
  }
});

test("the page of the JSON has each schema, and each code of an error with its exit status", () => {
  const page = readFileSync(`${TOP}/man/imgtx-json.7`, "utf8");
  for (const [code, status] of Object.entries(EXIT_OF_CODE))
    expect(page).toContain(`.It Dv ${code} Ta ${status} Ta `);
  for (const name of Object.keys(defsOf(ROOT))) expect(page).toContain(`.It Ql ${name}\n`);
});
