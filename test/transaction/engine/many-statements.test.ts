// A batch of many statements takes no work in each for all that came before, nor for all that lies beside its image.

import { copyFileSync, writeFileSync } from "node:fs";
import { expect, test } from "vitest";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { runCli } from "../../helpers/cli/harness.ts";
import { sampleQcow2 } from "../../helpers/sample-image.ts";
import { watchStorage } from "../../helpers/storage/watched-storage.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const IMAGE = sampleQcow2({ virtualSizeBytes: 64 * 1024, dataClusters: [], seed: 1 });

/** What is asked of the storage for each of so many devices that one batch adds from a folder of images. */
async function callsForEach(count: number): Promise<number> {
  const cwd = makeFolder();
  const names = Array.from({ length: count }, (_, index) => `d${index}`);
  for (const name of names) writeFileSync(`${cwd}/${name}.qcow2`, IMAGE);
  let calls = 0;
  const storage = watchStorage(makeNodeStorage(), () => (calls += 1));
  const lines = names.map((name) => `device add ${name} ${name}.qcow2\n`).join("");
  expect(await runCli(["init"], { cwd })).toMatchObject({ status: 0 });
  expect(await runCli(["txn", "run", "-"], { cwd, storage, stdin: lines })).toMatchObject({ status: 0 });
  return calls / count;
}

test("devices that one batch adds cost as much each, whether there are few or many", async () => {
  const [few, many] = [await callsForEach(8), await callsForEach(64)];
  expect(many).toBeLessThan(few);
});

test("a device added after a statement that made an overlay over its image is told of that overlay", async () => {
  const cwd = makeFolder();
  writeFileSync(`${cwd}/a.qcow2`, IMAGE);
  copyFileSync(`${cwd}/a.qcow2`, `${cwd}/b.qcow2`);
  const well = async (...argv: string[]) => {
    const { status, stdout, stderr } = await runCli(argv, { cwd });
    expect({ argv, status, stderr }).toMatchObject({ argv, status: 0 });
    return stdout;
  };
  await well("init");
  const id = (await well("txn", "begin")).trim();
  await well("device", "add", "vda", "a.qcow2");
  writeFileSync(
    `${cwd}/batch`,
    "device add vdb b.qcow2\nsnapshot vda a1.qcow2\ndevice remove vda\ndevice add vdc a.qcow2\n",
  );
  expect(await well("txn", "run", "--txn", id, "batch")).toContain("a1.qcow2 stands on it");
});
