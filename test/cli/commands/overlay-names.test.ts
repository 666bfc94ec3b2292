// How a new overlay names its backing image where nobody says how: so that a folder of images can be moved, and no device
// comes in another one's way.

import { mkdir, mkdtemp, realpath, rename, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { afterEach, beforeEach, expect, test } from "vitest";
import { runCli } from "../../helpers/cli/harness.ts";

let folder = "";

beforeEach(async () => {
  folder = await realpath(await mkdtemp(`${tmpdir()}/imgtx-names-`));
  for (const name of ["ws", "ws/x", "ws/y", "out"]) await mkdir(`${folder}/${name}`);
});

afterEach(async () => {
  await rm(folder, { recursive: true });
});

async function imgtx(line: string): Promise<string> {
  const { status, stdout, stderr } = await runCli(line.split(" "), { cwd: `${folder}/ws` });
  expect({ line, status, stderr }).toMatchObject({ status: 0 });
  return stdout;
}

/** As it is stored. */
async function nameIn(overlay: string): Promise<unknown> {
  const told = JSON.parse(await imgtx(`img info --output=json ${overlay}`)) as Record<string, unknown>;
  return told["backing-filename"];
}

async function addDevice(name: string, file: string): Promise<void> {
  await imgtx(`img create -q -f qcow2 ${file} 1M`);
  await imgtx(`device add ${name} ${file} --quiet`);
}

test("a name is relative beside the image and in the workspace, and absolute elsewhere, and as the options say", async () => {
  await addDevice("vda", "x/a.qcow2");
  await imgtx("snapshot vda x/1.qcow2");
  await imgtx("snapshot vda y/2.qcow2");
  await imgtx("snapshot vda ../out/3.qcow2");
  await imgtx("snapshot vda ../out/4.qcow2");
  await imgtx("snapshot vda ../out/5.qcow2 --absolute");
  await imgtx("snapshot vda 6.qcow2 --relative");
  const overlays = ["x/1", "y/2", "../out/3", "../out/4", "../out/5", "6"];
  const names = [];
  for (const overlay of overlays) names.push(await nameIn(`${overlay}.qcow2`));
  expect(names).toEqual([
    "a.qcow2",
    "../x/1.qcow2",
    `${folder}/ws/y/2.qcow2`,
    "3.qcow2",
    `${folder}/out/4.qcow2`,
    "../out/5.qcow2",
  ]);
});

test("the overlay of a rollback has a relative name as well, and a workspace that is moved has its chains", async () => {
  await addDevice("vda", "x/a.qcow2");
  await imgtx("snapshot vda --name m");
  await imgtx("rollback --to m");
  expect(await nameIn("x/a-after-m-2.qcow2")).toBe("a.qcow2");
  await rename(`${folder}/ws`, `${folder}/moved`);
  const { stdout, status } = await runCli(["device", "list", "--check", "--json"], {
    cwd: `${folder}/moved`,
  });
  expect(status).toBe(0);
  const { devices } = JSON.parse(stdout) as { devices: { chain: { image: string }[] }[] };
  expect(devices[0]?.chain.map(({ image }) => image)).toEqual([
    `${folder}/moved/x/a-after-m-2.qcow2`,
    `${folder}/moved/x/a.qcow2`,
  ]);
});

test("where two devices need one name for two images, the second has an absolute one, and both show in devices", async () => {
  await addDevice("vda", "x/a.qcow2");
  await addDevice("vdb", "y/a.qcow2");
  await imgtx("snapshot-group --all --name m");
  expect([await nameIn("x/a-after-m.qcow2"), await nameIn("y/a-after-m.qcow2")]).toEqual([
    "a.qcow2",
    `${folder}/ws/y/a.qcow2`,
  ]);
  await imgtx("rollback --to m");
  expect([await nameIn("devices/vda"), await nameIn("devices/vdb")]).toEqual([
    "a.qcow2",
    `${folder}/ws/y/a.qcow2`,
  ]);
});

test("layers that a deletion makes one are named as their headers name them", async () => {
  await addDevice("vda", "x/a.qcow2");
  for (const name of ["mon", "tue", "wed"]) await imgtx(`snapshot vda --name ${name}`);
  await imgtx("snapshot-delete tue");
  const told = JSON.parse(await imgtx("img info --backing-chain --output=json devices/vda")) as {
    "backing-filename"?: string;
  }[];
  expect(told.map((one) => one["backing-filename"])).toEqual(["a-after-mon.qcow2", "a.qcow2", undefined]);
});

test("a workspace of many devices has relative names for all", async () => {
  const names = Array.from({ length: 260 }, (_, index) => `v${index}`);
  for (const name of names) await writeFile(`${folder}/ws/${name}.raw`, Buffer.alloc(512));
  const lines = names.map((name) => `device add ${name} ${name}.raw --format raw`);
  await writeFile(`${folder}/ws/batch`, lines.join("\n"));
  await imgtx("txn run batch");
  await imgtx("snapshot-group v0=0.qcow2 v1=1.qcow2");
  expect([await nameIn("0.qcow2"), await nameIn("1.qcow2")]).toEqual(["v0.raw", "v1.raw"]);
});
