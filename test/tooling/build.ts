// Bundles the command line, and keeps V8's compiled code of it beside it:
//
// - dist/imgtx.cjs: all but the commands of img. Loading it is most of what a command takes, so what few
//   commands need is left out of it.
// - dist/imgtx-img.cjs: everything. bin/imgtx.js says when it is needed.
// - dist/PACKAGE.cjs: packages that are loaded when they are needed.
// - dist/LICENSES.txt: the licences of the packages whose code is in these files.
// - dist/COMMIT: what they were built from, for `imgtx --version`.
//
// One file each, since finding and linking a dozen ES modules takes longer than running most commands; each
// command's modules are still evaluated only when it is called. Names and line breaks are kept, so that a
// stack trace from a user can be read.
//
//     npm run build [FOLDER]      default: dist/
//
// The folder is replaced at the end, whole: commands may be running from the old one.

import { execFileSync, spawnSync } from "node:child_process";
import { existsSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build, type Plugin } from "esbuild";
import { commonOptions, withLeanCommander } from "./bundling.ts";

const root = fileURLToPath(new URL("../..", import.meta.url));
const { version } = readPackage(root);
const commit = findCommit();

// Packages that are one function, which code imports as any other: loaded when it is first called. Making the segmenter and
// the tables of this one takes 25 ms.
const AT_FIRST_CALL = ["string-width"];
// ES modules of which code takes the default export, by import(): what becomes of that here, a require() as Node's import() of
// a CommonJS module, would give it all exports in its place.
const BY_DEFAULT = ["ora"];
const PACKAGES_APART = ["chalk", "fs-extra", ...BY_DEFAULT, ...AT_FIRST_CALL];

const withPackagesApart: Plugin = {
  name: "with-packages-apart",
  setup(build) {
    build.onResolve({ filter: new RegExp(`^(${PACKAGES_APART.join("|")})$`) }, ({ path, kind }) => {
      if (kind === "entry-point") return undefined;
      if (kind === "import-statement" && AT_FIRST_CALL.includes(path))
        return { path, namespace: "first call" };
      if (kind === "dynamic-import" && BY_DEFAULT.includes(path)) return { path, namespace: "by default" };
      return { path: `./${path}.cjs`, external: true };
    });
    build.onLoad({ filter: /.*/, namespace: "first call" }, ({ path }) => ({
      contents: `let load; export default (...given) => (load ??= require("${path}").default)(...given);`,
    }));
    build.onLoad({ filter: /.*/, namespace: "by default" }, ({ path }) => ({
      contents: `export default require("${path}").default;`,
    }));
  },
};

// Type-checked and tested with them; here their loading fails, which the launcher never lets happen.
const withoutImg: Plugin = {
  name: "without-img",
  setup(build) {
    build.onResolve({ filter: /^\.\/(img|commands)\/[a-z-]+\.ts$/ }, ({ kind, path, importer }) =>
      kind === "dynamic-import" && (path.startsWith("./img/") || importer.endsWith("/src/cli/img/table.ts"))
        ? { path, namespace: "img" }
        : undefined,
    );
    build.onLoad({ filter: /.*/, namespace: "img" }, ({ path }) => ({
      contents: `throw new Error("${path} is in the bundle with the commands of img alone");`,
    }));
  },
};

const target = resolve(process.argv[2] ?? `${root}/dist`);
const fresh = `${target}.new-${process.pid}`;

// Folders of packages that a bundle has taken code from.
const packages = new Set<string>();

async function bundle(
  entryPoints: Readonly<Record<string, string>>,
  plugins: readonly Plugin[],
): Promise<void> {
  const { metafile } = await build({
    absWorkingDir: root,
    entryPoints,
    outdir: fresh,
    outExtension: { ".js": ".cjs" },
    ...commonOptions(version, commit),
    format: "cjs",
    // Code that runs from a vm.Script has no import(): it becomes require().
    supported: { "dynamic-import": false },
    plugins: [withLeanCommander, ...plugins],
    metafile: true,
  });
  for (const { inputs } of Object.values(metafile.outputs)) {
    for (const input of Object.keys(inputs)) {
      const [folder] = /^.*node_modules\/(@[^/]+\/)?[^/]+/.exec(input) ?? [];
      if (folder !== undefined) packages.add(folder);
    }
  }
}

/** Each package with the text of its licence, as the licences ask of whoever passes the code on. */
function listLicenses(): string[] {
  return [...packages]
    .sort((a, b) => (a < b ? -1 : 1))
    .map((folder) => {
      const { name, version } = readPackage(`${root}/${folder}`);
      const file = readdirSync(`${root}/${folder}`).find((each) => /^licen[cs]e/i.test(each));
      if (file === undefined) throw new Error(`${folder} has no file with its licence`);
      return `${name} ${version}\n\n${readFileSync(`${root}/${folder}/${file}`, "utf8").trim()}\n`;
    });
}

/** Of this tree, and not of one that it lies in. "unknown" in a copy without git. */
function findCommit(): string {
  if (!existsSync(`${root}/.git`)) return "unknown";
  const words = ["-C", root, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"];
  const { status, stdout } = spawnSync("git", words, { encoding: "utf8" });
  return status === 0 ? stdout.trim() : "unknown";
}

function readPackage(folder: string): { readonly name: string; readonly version: string } {
  return JSON.parse(readFileSync(`${folder}/package.json`, "utf8")) as { name: string; version: string };
}

try {
  await bundle(Object.fromEntries(PACKAGES_APART.map((name) => [name, name])), []);
  await bundle({ imgtx: "src/cli/launch.ts" }, [withPackagesApart, withoutImg]);
  await bundle({ "imgtx-img": "src/cli/launch.ts" }, [withPackagesApart]);
  writeFileSync(`${fresh}/COMMIT`, commit);
  writeFileSync(`${fresh}/LICENSES.txt`, listLicenses().join("\n---\n\n"));
} catch (error) {
  rmSync(fresh, { recursive: true, force: true });
  throw error;
}

if (existsSync(target)) {
  const old = `${target}.old-${process.pid}`;
  renameSync(target, old);
  renameSync(fresh, target);
  rmSync(old, { recursive: true });
} else {
  renameSync(fresh, target);
}
for (const name of ["imgtx", "imgtx-img"]) {
  const words = [...process.execArgv, `${root}/test/tooling/warm-up.ts`, `${target}/${name}.cjs`];
  execFileSync(process.execPath, words, { stdio: "inherit" });
}
