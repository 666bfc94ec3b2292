// `--allow-path`, of every command, and IMGTX_ALLOW_PATH: folders where images may lead to.

import { ImgtxError } from "../../errors/index.ts";
import type { CliContext } from "../context.ts";
import type { OptionDefinition } from "./definition.ts";
import { absolutePath } from "./path.ts";

export const ALLOW_PATH = "--allow-path";
const VARIABLE = "IMGTX_ALLOW_PATH";
const SEPARATOR = ":";

export const allowPathOption: OptionDefinition = {
  long: "allow-path",
  value: { name: "DIR", completes: "folder" },
  repeatable: true,
  about: `trust raw backing images and data files below DIR; also ${VARIABLE}, colon-separated`,
};

/** The folders of a command line, absolute. E_USAGE for an empty name, which would be the current folder's. */
export function readAllowPaths(given: readonly string[], cwd: string): readonly string[] {
  return given.map((path) => {
    if (path === "") throw new ImgtxError("E_USAGE", `${ALLOW_PATH}: the folder's name is empty`);
    return absolutePath(cwd, path);
  });
}

/** Those of the environment, absolute. */
export function inheritedAllowPaths({ cwd, env }: Pick<CliContext, "cwd" | "env">): readonly string[] {
  const inherited = env[VARIABLE];
  // Without one the current folder is not asked for: it may be gone.
  if (inherited === undefined) return [];
  const paths = inherited.split(SEPARATOR).filter((path) => path !== "");
  return paths.map((path) => absolutePath(cwd, path));
}

/** What a child is given, so that its imgtx trusts the same. */
export function allowPathsForChild(paths: readonly string[]): Readonly<Record<string, string>> {
  return paths.length === 0 ? {} : { [VARIABLE]: paths.join(SEPARATOR) };
}
