// Where tests lie: a test of a layer is found by the folder of what it tests, and what tests share lies in
// test/helpers.
//
// Invariant: as the rules of layers.ts, this one knows files by their paths alone.

import { posix as path } from "node:path";
import { LAYERS } from "./layers.ts";

/** Beside the mirror of src: suites that each storage, or each action, has to pass, and a rig with its parts. */
const SUITES = ["test/storage/conformance", "test/transaction/conformance", "test/format/staged"];

/** Files of test/LAYER that are no tests, and folders of it that src does not have. */
export function findMisplacedTests(sources: readonly string[], tests: readonly string[]): string[] {
  const folders = new Set(sources.map((file) => path.dirname(file)));
  return tests.flatMap((file) => {
    const [, layer = ""] = file.split("/");
    if (LAYERS[layer] === undefined || isOfSuite(file)) return [];
    if (!file.endsWith(".test.ts")) return [`${file} is no test: move it to test/helpers`];
    const mirrored = path.dirname(file).replace(/^test/, "src");
    return folders.has(mirrored) ? [] : [`${file} tests nothing in ${mirrored}, which is not there`];
  });
}

function isOfSuite(file: string): boolean {
  return SUITES.some((suite) => file.startsWith(`${suite}/`) || file === `${suite}.ts`);
}
