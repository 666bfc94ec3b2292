// The package that `npm pack` makes of this tree, and imgtx as it is once that is installed: in a folder of its
// own, with nothing beside it but what package.json says that it needs to run.

import { execFileSync, spawnSync, type SpawnSyncReturns } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm, symlink } from "node:fs/promises";
import { isBuiltin } from "node:module";
import { tmpdir } from "node:os";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, expect, test } from "vitest";

const TOP = fileURLToPath(new URL("../..", import.meta.url));

interface Manifest {
  readonly version: string;
  readonly man: readonly string[];
  readonly dependencies: Readonly<Record<string, string>>;
}

let folder = "";
let packed: readonly string[] = [];
let manifest: Manifest;

beforeAll(async () => {
  folder = await mkdtemp(`${tmpdir()}/imgtx-package-`);
  // A copy, as a clone has it: packing builds, and takes the bundle from nobody here.
  const clone = `${folder}/clone`;
  await mkdir(clone);
  for (const name of await readdir(TOP)) {
    if (![".git", "dist", "node_modules"].includes(name)) {
      await cp(`${TOP}/${name}`, `${clone}/${name}`, { recursive: true });
    }
  }
  await symlink(`${TOP}/node_modules`, `${clone}/node_modules`);
  const file = execFileSync("npm", ["pack", "--silent"], { cwd: clone, encoding: "utf8" }).trim();
  execFileSync("tar", ["xzf", `${clone}/${file}`, "-C", folder]);

  const installed = `${folder}/lib/node_modules`;
  await mkdir(installed, { recursive: true });
  await cp(`${folder}/package`, `${installed}/imgtx`, { recursive: true });
  packed = (await readdir(`${installed}/imgtx`, { recursive: true })).sort();
  manifest = JSON.parse(await readFile(`${installed}/imgtx/package.json`, "utf8")) as Manifest;
  for (const name of Object.keys(manifest.dependencies)) {
    await cp(`${TOP}/node_modules/${name}`, `${installed}/${name}`, { recursive: true });
  }
  // koffi's own: the machine code for this platform.
  await cp(`${TOP}/node_modules/@koromix`, `${installed}/@koromix`, { recursive: true });
});

afterAll(async () => {
  await rm(folder, { recursive: true });
});

function runInstalled(words: readonly string[], env = process.env): SpawnSyncReturns<string> {
  const program = `${folder}/lib/node_modules/imgtx/bin/imgtx.js`;
  return spawnSync(program, words, { cwd: `${folder}/empty`, encoding: "utf8", env });
}

test("a package holds the launcher, the built code, licences and all man pages, and no sources", async () => {
  expect(packed).toEqual(
    expect.arrayContaining([
      "bin/imgtx.js",
      "bin/package.json",
      "dist/imgtx.cjs",
      "dist/imgtx-img.cjs",
      "dist/LICENSES.txt",
      "LICENSE",
      "README.md",
    ]),
  );
  const pages = (await readdir(`${TOP}/man`)).map((name) => `man/${name}`).sort();
  expect(packed.filter((name) => name.startsWith("man/"))).toEqual(pages);
  // Where npm installs pages, it goes by this list alone.
  expect([...manifest.man].sort()).toEqual(pages);
  expect(packed.filter((name) => /^(src|test|fixtures|node_modules)\b/.test(name))).toEqual([]);
});

test("an installed package works in an empty folder, with only what it depends on beside it", async () => {
  await mkdir(`${folder}/empty`);
  expect(runInstalled(["--version"])).toMatchObject({ status: 0, stdout: `imgtx ${manifest.version}\n` });
  expect(runInstalled("img create -q -f qcow2 a.qcow2 1M".split(" "))).toMatchObject({ status: 0 });
  expect(runInstalled(["device", "add", "vda", "a.qcow2"])).toMatchObject({ status: 0, stderr: "" });
  const colours = { ...process.env, FORCE_COLOR: "1", NO_COLOR: "" };
  const tree = runInstalled(["tree"], colours);
  expect(tree).toMatchObject({ status: 0, stderr: "" });
  expect(tree.stdout).toContain("\u001b[");
});

test("the built code asks for no package but those that package.json says it needs", async () => {
  const wanted = new Set<string>();
  for (const name of packed.filter((each) => /^dist\/.*\.cjs$/.test(each))) {
    const code = await readFile(`${folder}/package/${name}`, "utf8");
    for (const [, request = ""] of code.matchAll(/\brequire\w*\("([^"]+)"\)/g)) {
      if (!request.startsWith(".") && !isBuiltin(request)) wanted.add(request);
    }
  }
  const known = Object.keys(manifest.dependencies);
  expect(known.filter((name) => wanted.has(name))).toEqual(known);
  expect([...wanted].filter((name) => !known.includes(name) && !name.startsWith("@koromix/koffi-"))).toEqual(
    [],
  );
});
