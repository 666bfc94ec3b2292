// Loads the bundle with the code that V8 compiled of it at build time, where that is of this very Node:
// compiling anew takes longer than most commands run.

const { readFileSync } = require("node:fs");
const Module = require("node:module");
const { dirname } = require("node:path");
const { Script } = require("node:vm");

/** The compiled script, and what the bundle exports. ENOENT where it has not been built. */
exports.loadBundle = (file) => {
  const script = new Script(Module.wrap(readFileSync(file, "latin1")), {
    filename: file,
    cachedData: readIfThere(`${file}.cache`),
  });
  const bundle = { exports: {} };
  script.runInThisContext()(bundle.exports, Module.createRequire(file), bundle, file, dirname(file));
  return { script, exports: bundle.exports };
};

function readIfThere(file) {
  try {
    return readFileSync(file);
  } catch (error) {
    if (error.code === "ENOENT") return undefined;
    throw error;
  }
}
