#!/usr/bin/env node
// The launcher. `--version` is answered here, before anything is loaded; that this folder is CommonJS
// (its package.json says so) and that the answer is written straight to the descriptor is for its speed.
// The process is not made to end: it ends by itself, with the exit code that is set, when its output has
// been written.

const { readFileSync, writeSync } = require("node:fs");

const [, , first, ...rest] = process.argv;
if (rest.length === 0 && (first === "--version" || first === "-V")) {
  const { version } = JSON.parse(readFileSync(`${__dirname}/../package.json`, "utf8"));
  print(`imgtx ${version}\n`);
} else {
  void start();
}

function print(text) {
  try {
    writeSync(1, text);
  } catch (error) {
    // A reader that has gone is no error; a pipe that is full for the moment takes it later.
    if (error.code === "EAGAIN") process.stdout.write(text);
    else if (error.code !== "EPIPE") fail(`the version could not be written: ${error.message}`);
  }
}

async function start() {
  try {
    const { launch } = await import("../dist/launch.js");
    await launch();
  } catch (error) {
    if (error.code !== "ERR_MODULE_NOT_FOUND" || !error.message.includes("dist/launch.js'")) throw error;
    fail("imgtx has not been built\n  hint: run `npm ci && npm run build` in its folder");
  }
}

function fail(message) {
  process.stderr.write(`error: ${message}\n`);
  process.exitCode = 1;
}
