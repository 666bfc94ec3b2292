// What `npm pack` runs first: builds dist/, which the package is made of. In a clone where nothing has been
// installed yet it installs first what the build needs, so that packing a clean clone needs one command.
//
// Standard output is left to npm, whose callers read the name of the package there.

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../..", import.meta.url));

if (!existsSync(`${root}/node_modules/esbuild`)) run("npm", "ci", "--ignore-scripts");
run(process.execPath, `${root}/test/tooling/build.mjs`);

function run(program, ...parameters) {
  const { status, error } = spawnSync(program, parameters, { cwd: root, stdio: ["ignore", 2, 2] });
  if (status !== 0) throw error ?? new Error(`${program} ${parameters.join(" ")} ended with ${status}`);
}
