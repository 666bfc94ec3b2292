// The rules of the house as code: which folder may import which, and who knows an action by its name. Each check
// takes a file as plain data and answers with sentences that say what is wrong and how to mend it. What the folders of
// a layer may import of each other is in folder-rules.ts, what a file looks like in file-style.ts.
//
// Invariant: a rule knows files by their path below the repository and by their text, nothing else, so that
// the tests can show it bad files that are not on the disk.

import { isBuiltin } from "node:module";
import { posix as path } from "node:path";
import { ACTION_KINDS } from "../../src/transaction/requests/action-kinds.ts";
import { FOLDERS } from "./folder-rules.ts";
import { findImports, lineAt, type SourceImport } from "./source-text.ts";

export interface SourceFile {
  /** From the repository's top: `src/format/open.ts`. */
  readonly path: string;
  readonly text: string;
}

interface LayerRule {
  /** Layers to the right that it may use, beside the leaves. */
  readonly uses: readonly string[];
  /** The only file of it that other layers may import. */
  readonly face: string;
}

const LEAVES = ["units", "errors"];

export const LAYERS: Readonly<Record<string, LayerRule>> = {
  cli: { uses: ["transaction", "device", "format"], face: "main.ts" },
  transaction: { uses: ["device", "format"], face: "index.ts" },
  device: { uses: ["format", "storage"], face: "index.ts" },
  format: { uses: ["storage"], face: "index.ts" },
  storage: { uses: [], face: "index.ts" },
  units: { uses: [], face: "index.ts" },
  errors: { uses: [], face: "index.ts" },
};

interface Grant {
  readonly path: RegExp;
  readonly layer: string;
  readonly typesOnly: boolean;
  readonly why: string;
}

/** What single files may import beyond their layer's row. */
const GRANTS: readonly Grant[] = [
  { path: /^src\/transaction\/journal\//, layer: "storage", typesOnly: false, why: "the journal is a file" },
  {
    path: /^src\/transaction\/(?!actions\/[^/]+$)/,
    layer: "storage",
    typesOnly: true,
    why: "the engine hands storage on; an action does not",
  },
  { path: /^src\/cli\/launch\.ts$/, layer: "storage", typesOnly: false, why: "it makes the real storage" },
  { path: /^src\/cli\//, layer: "storage", typesOnly: true, why: "storage is handed in from launch.ts" },
];

/** Packages and builtins that only some may load; a builtin that is not named here is free to all. */
const OWNERS: Readonly<Record<string, readonly string[]>> = {
  "fs-extra": ["storage"],
  koffi: ["storage"],
  "bun:ffi": ["storage"],
  "@koromix/koffi-linux-x64": ["storage"],
  "@koromix/koffi-linux-arm64": ["storage"],
  chalk: ["cli"],
  commander: ["cli"],
  "string-width": ["cli"],
  ora: ["cli"],
  "node:fs": ["storage"],
  "node:fs/promises": ["storage"],
  "node:child_process": ["cli", "storage"],
  "node:module": ["storage", "cli"],
  "node:os": ["storage", "cli"],
  "node:process": ["storage", "cli"],
  "node:readline": ["cli"],
  "node:tty": ["cli"],
  "node:cluster": [],
  "node:dgram": [],
  "node:http": [],
  "node:http2": [],
  "node:https": [],
  "node:net": [],
  "node:vm": [],
  "node:worker_threads": ["storage"],
};

const MAX_FOLDER_FILES = 17;
/** Lists, in which each file is found by the name of what it is about: a command. */
const OF_A_FILE_EACH = new Set(["cli/commands", "cli/img/commands"]);

export function findImportViolations(files: readonly SourceFile[]): string[] {
  const byPath = new Map(files.map((file) => [file.path, file]));
  return files.flatMap((file) =>
    findImports(file.text).flatMap((each) =>
      checkImport(file, each, byPath).map((problem) => `${file.path}:${each.line} ${problem}`),
    ),
  );
}

function checkImport(
  file: SourceFile,
  { specifier, typeOnly }: SourceImport,
  byPath: ReadonlyMap<string, SourceFile>,
): string[] {
  if (specifier === undefined) return ["loads a computed name: write the name as a plain string"];
  const layer = layerOf(file.path);
  if (!specifier.startsWith(".")) return checkPackage(layer, specifier);
  const target = path.join(path.dirname(file.path), specifier);
  if (!specifier.endsWith(".ts")) return [`imports ${specifier}: end the name with .ts`];
  if (!byPath.has(target)) return [`imports ${target}, which is not there`];
  const targetLayer = layerOf(target);
  if (targetLayer !== layer) return checkLayers(file.path, layer, target, targetLayer, typeOnly);
  if (isAction(file.path) && isAction(target)) {
    return [`imports ${target}: actions never import each other; move what they share beside actions/`];
  }
  return checkFolders(layer, file.path, target);
}

function checkFolders(layer: string, source: string, target: string): string[] {
  const rules = FOLDERS[layer];
  const [from, to] = [folderOf(source), folderOf(target)];
  if (rules === undefined || from === to || source === `src/${layer}/${LAYERS[layer]?.face}`) return [];
  const allowed = rules[from];
  if (allowed?.includes(to)) return [];
  return [`imports ${target}: ${from || layer} may import of its layer ${namesOf(allowed)}`];
}

function namesOf(folders: readonly string[] | undefined): string {
  return folders?.map((folder) => folder || "its own files").join(", ") || "nothing";
}

/** Below the layer: `qcow2/codec` for `src/format/qcow2/codec/header.ts`; the file itself where it has a row. */
function folderOf(file: string): string {
  const inLayer = file.split("/").slice(2).join("/");
  if (FOLDERS[layerOf(file)]?.[inLayer] !== undefined) return inLayer;
  return inLayer.slice(0, Math.max(inLayer.lastIndexOf("/"), 0));
}

/** Folders without a rule, rules that go in a circle, and folders that nobody finds a file in any more. */
export function findFolderViolations(paths: readonly string[]): string[] {
  return Object.entries(FOLDERS).flatMap(([layer, rules]) => {
    const folders = paths.filter((each) => layerOf(each) === layer && each.endsWith(".ts")).map(folderOf);
    const names = [...new Set(folders)];
    const count = (name: string) => folders.filter((each) => each === name).length;
    return [
      ...names
        .filter((name) => rules[name] === undefined)
        .map((name) => `src/${layer}/${name} has no rule: give it a row in test/helpers/folder-rules.ts`),
      ...names
        .filter((name) => count(name) > MAX_FOLDER_FILES && !OF_A_FILE_EACH.has(`${layer}/${name}`))
        .map((name) => `src/${layer}/${name} has ${count(name)} files, more than ${MAX_FOLDER_FILES}`),
      ...Object.keys(rules)
        .filter((name) => reaches(rules, name, name))
        .map((name) => `the rule of src/${layer}/${name} leads back to itself`),
    ];
  });
}

/** Files that come back to themselves by what they import, types and late imports included: each with its way. */
export function findCircles(files: readonly SourceFile[]): string[] {
  const imports = new Map(files.map((file) => [file.path, findImports(file.text).flatMap(targetOf(file))]));
  const done = new Set<string>();
  const follow = (file: string, way: readonly string[]): string[] => {
    if (way.includes(file)) return [[...way.slice(way.indexOf(file)), file].join(" → ")];
    if (done.has(file)) return [];
    const found = (imports.get(file) ?? []).flatMap((next) => follow(next, [...way, file]));
    done.add(file);
    return found;
  };
  return files.flatMap((file) => follow(file.path, []));
}

function targetOf(file: SourceFile): (found: SourceImport) => string[] {
  return ({ specifier }) =>
    specifier?.startsWith(".") ? [path.join(path.dirname(file.path), specifier)] : [];
}

function reaches(rules: Readonly<Record<string, readonly string[]>>, from: string, to: string): boolean {
  const seen = new Set<string>();
  const open = [...(rules[from] ?? [])];
  for (let next = open.pop(); next !== undefined; next = open.pop()) {
    if (next === to) return true;
    if (!seen.has(next)) open.push(...(rules[next] ?? []));
    seen.add(next);
  }
  return false;
}

function checkLayers(
  source: string,
  layer: string,
  target: string,
  targetLayer: string,
  typeOnly: boolean,
): string[] {
  const problems: string[] = [];
  const face = `src/${targetLayer}/${LAYERS[targetLayer]?.face}`;
  if (target !== face)
    problems.push(`imports ${target}: go through ${face}, and export there what is missing`);
  const row = LAYERS[layer];
  const isLeaf = LEAVES.includes(targetLayer) && !LEAVES.includes(layer);
  if (row === undefined || isLeaf || row.uses.includes(targetLayer)) return problems;
  const grants = GRANTS.filter((grant) => grant.layer === targetLayer && grant.path.test(source));
  if (grants.some((grant) => typeOnly || !grant.typesOnly)) return problems;
  const allowed = [...row.uses, ...(LEAVES.includes(layer) ? [] : LEAVES)].join(", ") || "nothing";
  const asType = grants.length > 0 ? `; types of it may come by \`import type\`` : "";
  return [...problems, `imports ${targetLayer}: ${layer} may import ${allowed}${asType}`];
}

function checkPackage(layer: string, specifier: string): string[] {
  if (isBuiltin(specifier) && !specifier.startsWith("node:")) {
    return [`imports ${specifier}: write node:${specifier}`];
  }
  const name = isBuiltin(specifier) ? specifier : packageOf(specifier);
  const owners = OWNERS[name];
  if (owners === undefined) {
    return isBuiltin(specifier)
      ? []
      : [`imports ${name}: give the package its layers in test/helpers/layers.ts`];
  }
  if (owners.includes(layer)) return [];
  return [`imports ${specifier}: only ${owners.map((owner) => `src/${owner}`).join(", ") || "nobody"} may`];
}

function packageOf(specifier: string): string {
  return specifier.split("/", specifier.startsWith("@") ? 2 : 1).join("/");
}

// A step of a copy, and a change of a file, may be a merge as well, and a record of a journal an undo.
const VERBS = ACTION_KINDS.filter((kind) => kind !== "merge" && kind !== "undo").join("|");
const ASKS_FOR_VERB = new RegExp(`(?:kind\\)?\\s*[!=]==\\s*|case\\s+|Set\\(\\[\\s*)"(${VERBS})"`, "g");

/**
 * The engine asks an action's traits, and the command line what it says of itself, and neither its name: so a new one is
 * its own file, row, request and command. Not the face of qemu-img, whose verbs are not actions.
 */
export function findVerbs({ path: file, text }: SourceFile): string[] {
  if (!/^src\/(?:transaction|cli)\//.test(file) || file.startsWith("src/cli/img/") || isAction(file))
    return [];
  return [...text.matchAll(ASKS_FOR_VERB)].map(
    (match) =>
      `${file}:${lineAt(text, match.index)} asks for '${match[1]}' by name: ask a trait (actions/plan/action.ts), or data of the outcome`,
  );
}

/** A codec is pure: it reaches leaves, and modules beside it that reach leaves only. */
export function findImpureCodecs(files: readonly SourceFile[]): string[] {
  const byPath = new Map(files.map((file) => [file.path, file]));
  return files
    .filter((file) => isCodec(file.path))
    .flatMap((file) =>
      findImpurePaths(file, byPath).map(
        (steps) => `${steps.join(" → ")}: a codec is pure, and reaches leaves and node:zlib only`,
      ),
    );
}

function isCodec(file: string): boolean {
  return path.dirname(file) === "src/format/qcow2/codec";
}

function findImpurePaths(
  file: SourceFile,
  byPath: ReadonlyMap<string, SourceFile>,
  steps: readonly string[] = [],
): string[][] {
  if (steps.includes(file.path)) return [];
  const here = [...steps, file.path];
  return findImports(file.text).flatMap(({ specifier = "(computed)" }) => {
    if (specifier === "node:zlib") return [];
    if (!specifier.startsWith(".")) return [[...here, specifier]];
    const target = path.join(path.dirname(file.path), specifier);
    if (LEAVES.includes(layerOf(target))) return [];
    const next = byPath.get(target);
    if (layerOf(target) !== "format" || next === undefined) return [[...here, target]];
    return findImpurePaths(next, byPath, here);
  });
}

/** What each layer's folder has to hold, given all files under src. */
export function findMissingFaces(paths: readonly string[]): string[] {
  const present = new Set(paths);
  const folders = new Set(paths.filter((each) => each.startsWith("src/")).map((each) => layerOf(each)));
  const unknown = [...folders].filter((folder) => LAYERS[folder] === undefined);
  return [
    ...unknown.map((folder) => `src/${folder} is no layer: its files belong into one of ${layerNames()}`),
    ...Object.entries(LAYERS).flatMap(([layer, { face }]) =>
      [
        { file: `src/${layer}/${face}`, holds: "what other layers may use" },
        { file: `src/${layer}/README.md`, holds: "the layer's purpose, its rule and its dated decisions" },
      ]
        .filter(({ file }) => !present.has(file))
        .map(({ file, holds }) => `${file} is missing: it holds ${holds}`),
    ),
  ];
}

function layerNames(): string {
  return Object.keys(LAYERS).join(", ");
}

/** `format` for `src/format/open.ts`; the file's own name for one that lies in src/ itself. */
function layerOf(file: string): string {
  return file.split("/")[1] ?? file;
}

function isAction(file: string): boolean {
  return path.dirname(file) === "src/transaction/actions" && path.basename(file) !== "index.ts";
}
