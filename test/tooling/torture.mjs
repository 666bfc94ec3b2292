// Runs the crash rigs and the fuzzers at full length:
// `npm run torture [-- simulated|process|power|walk|hostile|differential|all] [--seed N] [--seconds N] [--cases N]
// [--only TEXT]`. They are TypeScript, which Node 20 does not run: bundled first.

import { mkdirSync } from "node:fs";
import { fileURLToPath, pathToFileURL } from "node:url";
import { build } from "esbuild";

const root = fileURLToPath(new URL("../..", import.meta.url));
// Inside node_modules, so that packages that stay outside of the bundle are found from there.
const folder = `${root}/node_modules/.cache/imgtx-torture`;
mkdirSync(folder, { recursive: true });
await build({
  absWorkingDir: root,
  entryPoints: { torture: "test/crash/torture.ts" },
  outdir: folder,
  outExtension: { ".js": ".mjs" },
  bundle: true,
  splitting: true,
  format: "esm",
  platform: "node",
  target: "node20",
  packages: "external",
  sourcemap: "inline",
  logLevel: "warning",
});
process.setSourceMapsEnabled(true);
const { torture } = await import(pathToFileURL(`${folder}/torture.mjs`).href);
process.exitCode = await torture(process.argv.slice(2), root);
