// Programs of the tests that run imgtx's sources in a process of their own: the files of programs/.

import { fileURLToPath } from "node:url";

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));

/** What stands after node's name to run the program of that name; its own words follow. */
export function sourceProgram(name: string): readonly string[] {
  const program = `${REPOSITORY}/test/helpers/programs/${name}.ts`;
  return ["--import", `${REPOSITORY}/test/tooling/typescript.mjs`, program];
}
