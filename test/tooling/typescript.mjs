// Lets Node run TypeScript as it lies in the tree, which Node 20 does not do by itself:
//
//     node --import ./test/tooling/typescript.mjs FILE.ts
//
// Types are taken out of each module as it is loaded, and nothing is written: `tsc` is what checks them.

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
  return { format: "module", source: code, shortCircuit: true };
}
