// Lets Node run TypeScript as it lies in the tree, which Node 20 does not do by itself:
//
//     node --import ./test/tooling/typescript.mjs FILE.ts
//
// Types are taken out of each module as it is loaded, and nothing is written: `tsc` is what checks them.
//
// What src loads late, it asks for once: Node sends each import() to the thread of these hooks anew, and a rig runs
// thousands of commands in one process, each with some ten of them. In the build the second one costs nothing either.

import { readFile } from "node:fs/promises";
import { register } from "node:module";
import { fileURLToPath } from "node:url";
import { isMainThread } from "node:worker_threads";

// Node loads the hooks in a thread of theirs, and there this module a second time.
if (isMainThread) {
  register(import.meta.url);
  process.setSourceMapsEnabled(true);
}

/** @type {import("node:module").LoadHook} */
export async function load(url, context, nextLoad) {
  if (!url.startsWith("file:") || !new URL(url).pathname.endsWith(".ts")) return await nextLoad(url, context);
  const { transform } = await import("esbuild");
  const sourcefile = fileURLToPath(url);
  const { code } = await transform(await readFile(sourcefile, "utf8"), {
    loader: "ts",
    format: "esm",
    target: "node20",
    sourcefile,
    sourcemap: "inline",
  });
  return { format: "module", source: isOfProgram(sourcefile) ? loadOnce(code) : code, shortCircuit: true };
}

/** @type {(file: string) => boolean} */
function isOfProgram(file) {
  return file.startsWith(fileURLToPath(new URL("../../src/", import.meta.url)));
}

/**
 * Keeps what the import() of each module of the program gives: it is the same whenever it is asked for.
 *
 * @type {(code: string) => string}
 */
function loadOnce(code) {
  const names = new Map();
  const once = code.replaceAll(/\bimport\("(\.{1,2}\/[^"]+)"\)/g, (load, path) => {
    if (!names.has(path)) names.set(path, `$loaded${names.size}`);
    return `(${names.get(path)} ??= ${load})`;
  });
  // At the end, so that lines stay where source maps have them.
  return names.size === 0 ? code : `${once}\nvar ${[...names.values()].join(", ")};`;
}
