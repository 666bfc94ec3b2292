#!/usr/bin/env node
// The launcher. `--version` is answered here, before anything is loaded. The process is not made to end:
// it ends by itself with the exit code that is set, when its output has been written.

import { readFileSync } from "node:fs";

const [, , first, ...rest] = process.argv;
if (rest.length === 0 && (first === "--version" || first === "-V")) {
  const { version } = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8"));
  process.stdout.write(`imgtx ${version}\n`);
} else {
  await start();
}

async function start() {
  const built = new URL("../dist/launch.js", import.meta.url);
  try {
    const { launch } = await import(built.href);
    await launch();
  } catch (error) {
    if (error.code !== "ERR_MODULE_NOT_FOUND" || error.url !== built.href) throw error;
    process.stderr.write(
      "error: imgtx has not been built\n  hint: run `npm ci && npm run build` in its folder\n",
    );
    process.exitCode = 1;
  }
}
