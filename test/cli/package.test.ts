// The package that `npm pack` makes of this tree, and imgtx as it is once that is installed: in a folder of its
// own, with nothing beside it but what package.json says that it needs to run.

import { execFileSync, spawnSync, type SpawnSyncReturns } from "node:child_process";
import { cp, mkdir, mkdtemp, readdir, readFile, rm } from "node:fs/promises";
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

/** What npm answers: newer ones by the name of the package. */
interface PackList {
  readonly imgtx?: PackList;
  readonly files: readonly { readonly path: string }[];
}

const INSTALLED = "lib/node_modules/imgtx";

let folder = "";
let packed: readonly string[] = [];
let manifest: Manifest;

beforeAll(async () => {
  folder = await mkdtemp(`${tmpdir()}/imgtx-package-`);
  // A copy, as a clone has it: nothing is installed there, and publishing it builds what is packed after.
  const clone = `${folder}/clone`;
  await mkdir(clone);
  for (const name of await readdir(TOP)) {
    if (![".git", "dist", "node_modules", "out"].includes(name)) {
      await cp(`${TOP}/${name}`, `${clone}/${name}`, { recursive: true });
    }
  }
  const npm = (...words: readonly string[]): string =>
    execFileSync("npm", [...words, "--prefer-offline"], {
      cwd: clone,
      encoding: "utf8",
      stdio: "pipe",
    }).trim();
  const list = JSON.parse(npm("publish", "--dry-run", "--json")) as PackList;
  packed = (list.imgtx ?? list).files.map(({ path }) => path).sort();
  const file = npm("pack", "--silent", "--ignore-scripts");
  npm("install", "--global", "--ignore-scripts", "--prefix", folder, `./${file}`);
  manifest = JSON.parse(await readFile(`${folder}/${INSTALLED}/package.json`, "utf8")) as Manifest;
  await mkdir(`${folder}/empty`);
});

afterAll(async () => {
  await rm(folder, { recursive: true });
});

function runInstalled(words: readonly string[], env = process.env): SpawnSyncReturns<string> {
  return spawnSync(`${folder}/bin/imgtx`, words, { cwd: `${folder}/empty`, encoding: "utf8", env });
}

test("a package holds the launcher, the built code, licences and all man pages, and no sources", async () => {
  expect(packed).toEqual(
    expect.arrayContaining([
      "bin/ansible/imgtx.py",
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
  expect(runInstalled(["--version"])).toMatchObject({
    status: 0,
    stdout: `imgtx ${manifest.version}\nNode ${process.versions.node}, commit unknown\n`,
  });
  expect(runInstalled("img create -q -f qcow2 a.qcow2 1M".split(" "))).toMatchObject({ status: 0 });
  expect(runInstalled(["device", "add", "vda", "a.qcow2"])).toMatchObject({ status: 0, stderr: "" });
  const colours = { ...process.env, FORCE_COLOR: "1", NO_COLOR: "" };
  const tree = runInstalled(["tree"], colours);
  expect(tree).toMatchObject({ status: 0, stderr: "" });
  expect(tree.stdout).toContain("\u001b[");
});

test("installed globally it brings its man pages, its completions, and koffi alone", async () => {
  const pages = await readdir(`${folder}/share/man`, { recursive: true });
  expect(pages).toEqual(
    expect.arrayContaining(["man1/imgtx.1", "man1/imgtx-snapshot-group.1", "man5/imgtx-journal.5"]),
  );
  for (const shell of ["bash", "zsh", "fish"]) {
    const { status, stdout } = runInstalled(["completion", shell]);
    expect({ status, isThere: stdout.includes("snapshot-group") }).toEqual({ status: 0, isThere: true });
  }
  const packages = await readdir(`${folder}/${INSTALLED}/node_modules`);
  expect(packages.filter((name) => !name.startsWith("."))).toEqual(["@koromix", "koffi"]);
});

test("Node is started without extra certificates, and what a transaction starts gets them", () => {
  const certificates = `${folder}/no-such-certificates.pem`;
  const env = { ...process.env, NODE_EXTRA_CA_CERTS: certificates };
  const show = `echo "$NODE_EXTRA_CA_CERTS, $(env | grep -c ^IMGTX_CA_CERTS)"`;
  const result = runInstalled(["txn", "exec", "-q", "--", "sh", "-c", show], env);
  // Node warns of certificates that it can't read.
  expect(result).toMatchObject({ status: 0, stdout: `${certificates}, 0\n`, stderr: "" });
});

test("the built code asks for no package but those that package.json says it needs", async () => {
  const wanted = new Set<string>();
  for (const name of packed.filter((each) => /^dist\/.*\.cjs$/.test(each))) {
    const code = await readFile(`${folder}/${INSTALLED}/${name}`, "utf8");
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
