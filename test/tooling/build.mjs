// Bundles the command line into dist/imgtx.cjs, and keeps V8's compiled code of it beside it.
//
// One file, since finding and linking a dozen ES modules takes longer than running most commands; each
// command's modules are still evaluated only when it is called. Names and line breaks are kept, so that a
// stack trace from a user can be read. koffi stays outside: it finds its native part beside itself.
//
//     node test/tooling/build.mjs [FOLDER]      else dist/
//
// The folder is replaced at the end, whole: commands may be running from the old one.

import { execFileSync } from "node:child_process";
import { existsSync, readFileSync, renameSync, rmSync } from "node:fs";
import { resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("../..", import.meta.url));
const { version } = JSON.parse(readFileSync(`${root}/package.json`, "utf8"));

// commander can run subcommands that are programs of their own. Ours are none, and Node's module for that
// is slow to load.
const withoutSubprograms = {
  name: "without-subprograms",
  setup(build) {
    build.onResolve({ filter: /^node:child_process$/ }, ({ importer }) =>
      importer.includes("/node_modules/commander/") ? { path: "none", namespace: "empty" } : undefined,
    );
    build.onLoad({ filter: /.*/, namespace: "empty" }, () => ({ contents: "export {};" }));
  },
};

const target = resolve(process.argv[2] ?? `${root}/dist`);
const fresh = `${target}.new-${process.pid}`;
await build({
  absWorkingDir: root,
  entryPoints: { imgtx: "src/cli/launch.ts" },
  outdir: fresh,
  outExtension: { ".js": ".cjs" },
  bundle: true,
  format: "cjs",
  platform: "node",
  target: "node20",
  external: ["koffi"],
  legalComments: "none",
  // Code that runs from a vm.Script has no import(): it becomes require().
  supported: { "dynamic-import": false },
  // The launcher reads the file byte by byte as characters.
  charset: "ascii",
  define: { IMGTX_VERSION: JSON.stringify(version), "import.meta.url": "__filename" },
  plugins: [withoutSubprograms],
  logLevel: "warning",
});

if (existsSync(target)) {
  const old = `${target}.old-${process.pid}`;
  renameSync(target, old);
  renameSync(fresh, target);
  rmSync(old, { recursive: true });
} else {
  renameSync(fresh, target);
}
execFileSync(process.execPath, [`${root}/test/tooling/warm-up.mjs`, `${target}/imgtx.cjs`], {
  stdio: "inherit",
});
