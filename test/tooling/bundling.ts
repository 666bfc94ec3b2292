// What both builds of the command line have in common: how esbuild is told of its code.

import type { BuildOptions, Plugin } from "esbuild";

/**
 * commander can run subcommands that are programs of their own. Ours are none, and Node's module for that is slow to load.
 * Of its parts only those are taken that the grammar uses: its index makes a command that nobody asked for.
 */
export const withLeanCommander: Plugin = {
  name: "with-lean-commander",
  setup(build) {
    build.onLoad({ filter: /\/node_modules\/commander\/esm\.mjs$/ }, () => ({
      contents: `const { Command } = require("./lib/command.js");
const { CommanderError } = require("./lib/error.js");
const { Option } = require("./lib/option.js");
export { Command, CommanderError, Option };
`,
    }));
    build.onResolve({ filter: /^node:child_process$/ }, ({ importer }) =>
      importer.includes("/node_modules/commander/") ? { path: "none", namespace: "empty" } : undefined,
    );
    build.onLoad({ filter: /.*/, namespace: "empty" }, () => ({ contents: "export {};" }));
  },
};

/** koffi stays outside: it finds its native part beside itself. */
export function commonOptions(version: string, commit: string): BuildOptions {
  return {
    bundle: true,
    platform: "node",
    target: "node20",
    external: ["koffi"],
    legalComments: "none",
    // The launcher reads the file byte by byte as characters.
    charset: "ascii",
    define: {
      IMGTX_VERSION: JSON.stringify(version),
      IMGTX_COMMIT: JSON.stringify(commit),
      "import.meta.url": "__filename",
    },
    logLevel: "warning",
  };
}
