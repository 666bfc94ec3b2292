// The command line as one file of modules, each of which runs when something of it is first used: for the single file,
// which takes longest to make the functions of code that a command has no use for.
//
// esbuild makes a module of each source file, with the names that it takes from others (splitting, with all files as entry
// points), and none for the indexes between. Each becomes a function here, which runs once and keeps what it exports in a variable of
// its name with a `$` more: a use looks there first, since each function that is called for the first time costs microseconds.
//
// Invariants
// - No module does anything when it runs but make what it exports: the order in which they run is open.
// - What a module exports is never assigned to again: the linter sees to that (no-mutable-exports).
// - esbuild's output is of one shape; where it is of another, the build fails.

import { readdirSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";
import { build, type Plugin, transform } from "esbuild";
import { commonOptions, withLeanCommander } from "./bundling.ts";

/** Those of esbuild's own helpers that the modules call. */
const HELPERS = `"use strict";
var __defProp = Object.defineProperty;
var __toESM = (mod) => (mod.__esModule ? mod : { __proto__: mod, default: mod });
var __export = (target, all) => {
  for (var name in all) __defProp(target, name, { get: all[name], enumerable: true });
};
`;

/** The text of a CommonJS module that exports what the entry does. */
export async function bundleLazily(
  root: string,
  entry: string,
  { version, commit }: { readonly version: string; readonly commit: string },
): Promise<string> {
  const files = readdirSync(`${root}/src`, { recursive: true, encoding: "utf8" });
  const { outputFiles } = await build({
    ...commonOptions(version, commit),
    absWorkingDir: root,
    entryPoints: files.filter((name) => name.endsWith(".ts")).map((name) => `src/${name}`),
    outbase: `${root}/src`,
    outdir: "/lazy",
    write: false,
    splitting: true,
    format: "esm",
    plugins: [withLeanCommander, withOwnModules, withoutEffects],
  });
  const builtins = new Set<string>();
  const modules = new Map(
    await Promise.all(
      outputFiles.map(async ({ path, text }) => {
        const place = relative("/lazy", path);
        return [idOf(place), await wrapModule(place, text, builtins)] as const;
      }),
    ),
  );
  const used = new Set([idOf(entry)]);
  for (const id of used)
    for (const [, other = ""] of modules.get(id)?.matchAll(/(\$\w+)\(\)/g) ?? [])
      if (modules.has(other)) used.add(other);
  const declared = [...[...builtins].map(idOf), ...[...used].map(keptIn)].map((name) => `let ${name};\n`);
  return [
    HELPERS,
    ...declared,
    ...[...used].map((id) => modules.get(id)),
    `module.exports = ${idOf(entry)}();\n`,
  ].join("");
}

/** Nothing is imported for what it does, so that an index brings along nothing but what is taken from it. */
const withoutEffects: Plugin = {
  name: "without-effects",
  setup(build) {
    build.onResolve({ filter: /^\./ }, async ({ path, pluginData, ...where }) => {
      if (pluginData === "asked" || !where.importer.includes("/src/")) return undefined;
      return {
        ...(await build.resolve(path, { ...where, pluginData: "asked" })),
        sideEffects: false,
        pluginData: undefined,
      };
    });
  },
};

/** What stands in for modules of which the single file's runtime has quicker ways. */
const OWN = new Map<string, string>([
  ["node:crypto", fileURLToPath(new URL("own-crypto.ts", import.meta.url))],
  ["node:module", fileURLToPath(new URL("own-module.ts", import.meta.url))],
  ["./zone.ts", fileURLToPath(new URL("own-zone.ts", import.meta.url))],
]);

const withOwnModules: Plugin = {
  name: "with-own-modules",
  setup(build) {
    build.onResolve({ filter: /^(node:|\.\/zone\.ts$)/ }, ({ path: name, importer }) => {
      const path = OWN.get(name);
      return path === undefined || path === importer ? undefined : { path };
    });
    build.onResolve({ filter: /^bun:/ }, ({ path }) => ({ path, external: true }));
  },
};

function idOf(path: string): string {
  return `$${path.replace(/\.js$/, "").replaceAll(/\W/g, "_")}`;
}

/** Where what the module exports is kept once it has run. */
function keptIn(id: string): string {
  return `$${id}`;
}

/** What runs the module, and gives what it exports. */
async function wrapModule(place: string, text: string, builtins: Set<string>): Promise<string> {
  const id = idOf(place);
  const exportsOf = (file: string): string => {
    const other = idOf(join(dirname(place), file));
    return `(${keptIn(other)} ?? ${other}())`;
  };
  const { code } = await transform(text.replaceAll(/^import "\.[^"]*";\n/gm, ""), {
    format: "cjs",
    platform: "node",
    target: "node20",
    supported: { "dynamic-import": false },
    charset: "ascii",
  });
  const [head = "", whole = ""] = code
    .replace(/^\/\/ Annotate the CommonJS export names.*/ms, "")
    .split(/^module\.exports = __toCommonJS\(.*\);\n/m);
  const [, exported = ""] = /^__export\(\w+, \{\n(.*?)\n\}\);/ms.exec(head) ?? [];
  const uses: (readonly [name: string, use: string])[] = [];
  const body = whole
    // The runtime knows a require() of its own modules by its looks; by another way they take several times as long.
    .replaceAll(/\(0, import_\w+\.__require\)(?=\("[\w:]+"\))/g, "require")
    .replaceAll(/\b__toESM\(require\("(\.[^"]+)"\)\)/g, (_, file: string) => exportsOf(file))
    .replaceAll(
      /^var (import_[\w$]+) = ((?:__toESM\()?require\("([^"]+)"\)(?:, 1)?\)?);\n/gm,
      (_, name: string, call: string, file: string) => {
        if (!file.startsWith(".")) builtins.add(call);
        uses.push([name, file.startsWith(".") ? exportsOf(file) : `(${idOf(call)} ??= ${call})`]);
        return "";
      },
    );
  const parts = uses.reduce(useLater, `${body}return ${keptIn(id)} = {\n${asMembers(exported, place)}\n};\n`);
  const [left] = /^.*(?:\brequire\("\.|\bimport_chunk|^module\.exports).*$/m.exec(parts) ?? [];
  if (left !== undefined) throw new Error(`${place} is not of esbuild's usual shape: ${left}`);
  return `function ${id}() {\n${parts}}\n`;
}

/** What esbuild makes properties of one by one, with a function each: that is left to what is another module's, which must not run yet. */
function asMembers(exported: string, place: string): string {
  return exported
    .split("\n")
    .filter((line) => line !== "")
    .map((line) => {
      const [, name, local] = /^ {2}([\w$]+): \(\) => ([\w$.]+),?$/.exec(line) ?? [];
      if (name === undefined || local === undefined)
        throw new Error(`${place} does not export as esbuild usually does: ${line}`);
      return local.includes(".") ? `get ${name}() { return ${local}; },` : `${name}: ${local},`;
    })
    .join("\n");
}

/** `new` takes the first call that follows for its own. */
function useLater(code: string, [name, use]: readonly [name: string, use: string]): string {
  const word = name.replaceAll("$", "\\$");
  return code
    .replaceAll(
      new RegExp(`\\bnew ${word}((?:\\.[\\w$]+)+)`, "g"),
      (_, members: string) => `new (${use}${members})`,
    )
    .replaceAll(new RegExp(`(?<![\\w$])${word}(?![\\w$])`, "g"), () => use);
}
