// Bundles the command line into dist/: ES modules, one chunk a command, loaded when it is called.
//
// Names and line breaks are kept, so that a stack trace from a user can be read. koffi stays outside: it
// finds its native part beside itself.

import { readFileSync, rmSync } from "node:fs";
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

rmSync(`${root}/dist`, { recursive: true, force: true });
await build({
  absWorkingDir: root,
  entryPoints: { launch: "src/cli/launch.ts" },
  outdir: "dist",
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20",
  external: ["koffi"],
  legalComments: "none",
  define: { IMGTX_VERSION: JSON.stringify(version) },
  // Bundled CommonJS packages ask for Node's own modules with require, which ES modules lack.
  banner: {
    js: 'import { createRequire as __createRequire } from "node:module"; const require = __createRequire(import.meta.url);',
  },
  plugins: [withoutSubprograms],
  logLevel: "warning",
});
