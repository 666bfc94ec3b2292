// Makes imgtx one executable file, which needs neither Node nor koffi: the built bundle, compiled in advance, in the
// runtime that runtime/package-lock.json pins (Bun, from npm).
//
//     npm run build:binary [-- TARGET …]   x64 or arm64; default: this machine's
//
// x64 runs on old processors too (SSE 4.2): in this version it is byte for byte what npm has as x64-baseline.
//
// out/imgtx-VERSION-linux-TARGET/ then holds imgtx, which is qemu-img as well where it is linked so, and the licences
// of what is inside. The folder is replaced whole. IMGTX_OUT is another place than out/. The runtime is kept in
// node_modules/.runtime/ once it is there.
//
// A file of the folder that a command runs in must never be part of it: what the runtime would load from there by
// itself (.env, bunfig.toml, …) is switched off.

import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { bundleLazily } from "./lazy-modules.ts";

const root = fileURLToPath(new URL("../../", import.meta.url)).slice(0, -1);
const DIST = `${root}/dist`;
const PINNED = `${root}/test/tooling/runtime`;

/** The runtime's own program for that target. */
function installRuntime(target: string): string {
  const script = `${root}/test/tooling/install-runtime.sh`;
  return execFileSync("bash", [script, target], {
    encoding: "utf8",
    stdio: ["ignore", "pipe", "inherit"],
  }).trim();
}

/** What the executable runs first: the launcher, which is given the version, and its bundle within the file. */
function entryOf(version: string): string {
  const build = `\`single file with Bun \${process.versions.bun}, commit ${commit}\``;
  return `require(${JSON.stringify(`${root}/bin/imgtx.js`)}).answer({
  program: process.argv0,
  version: () => ${JSON.stringify(version)},
  build: () => ${build},
  load: () => require("./modules.cjs"),
});
`;
}

/** The folder that holds the executable. */
function compile(compiler: string, target: string, version: string, modules: string): string {
  const folder = `${process.env["IMGTX_OUT"] ?? `${root}/out`}/imgtx-${version}-linux-${target}`;
  const fresh = `${folder}.new-${process.pid}`;
  const entry = `${fresh}/entry.cjs`;
  mkdirSync(fresh, { recursive: true });
  try {
    writeFileSync(`${fresh}/modules.cjs`, modules);
    writeFileSync(entry, entryOf(version));
    const words = [
      "build",
      "--compile",
      "--bytecode",
      // Code has to run eight times as often as usual before it is compiled. Compiling took half of the processor time
      // of a snapshot of 64 disks; what copies and checks is compiled all the same.
      "--compile-jit-policy=8",
      "--target=bun",
      "--format=cjs",
      ...["dotenv", "bunfig", "tsconfig", "package-json"].map((each) => `--no-compile-autoload-${each}`),
      `--compile-executable-path=${installRuntime(target)}`,
      `--outfile=${fresh}/imgtx`,
      entry,
    ];
    execFileSync(compiler, words, { cwd: fresh, stdio: ["ignore", "ignore", 2] });
    for (const file of [entry, `${fresh}/modules.cjs`]) rmSync(file);
    const licenses = [`${root}/LICENSE`, `${PINNED}/LICENSES.txt`, `${DIST}/LICENSES.txt`];
    writeFileSync(
      `${fresh}/LICENSES.txt`,
      licenses.map((file) => readFileSync(file, "utf8")).join("\n---\n\n"),
    );
    rmSync(folder, { recursive: true, force: true });
    renameSync(fresh, folder);
  } catch (error) {
    rmSync(fresh, { recursive: true, force: true });
    throw error;
  }
  return folder;
}

const { version } = JSON.parse(readFileSync(`${root}/package.json`, "utf8")) as { version: string };
const commit = readFileSync(`${DIST}/COMMIT`, "utf8");
const modules = await bundleLazily(root, "cli/launch.js", { version, commit });
const given = process.argv.slice(2);
const compiler = installRuntime(process.arch);
for (const target of given.length > 0 ? given : [process.arch])
  console.log(compile(compiler, target, version, modules));
