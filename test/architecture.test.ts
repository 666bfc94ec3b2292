// The architecture, checked: every import and every file of the tree against the rules of helpers/layers.ts,
// and the rules themselves against files that break them. A checker that reads nothing passes everything, so
// it also has to have seen what is known to be there.

import { execFileSync } from "node:child_process";
import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, test } from "vitest";
import type { SourceFile } from "./helpers/layers.ts";
import {
  findCircles,
  findFolderViolations,
  findImportViolations,
  findImpureCodecs,
  findMissingFaces,
  findVerbs,
  LAYERS,
} from "./helpers/layers.ts";
import { findLongFunctions, findStyleViolations } from "./helpers/file-style.ts";
import { oracle } from "./helpers/oracles.ts";
import { blankSource, findImports, findLongBlocks } from "./helpers/source-text.ts";
import { findMisplacedTests } from "./helpers/test-layout.ts";

// In parts, so that this file keeps the rule that it shows.
const UNFINISHED = ["TO", "DO"].join("");
const [SKIPPED, ALONE] = ["skip", "only"];

const TOP = fileURLToPath(new URL("..", import.meta.url));

async function listFiles(folder: string): Promise<string[]> {
  const entries = await readdir(path.join(TOP, folder), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(TOP, path.join(entry.parentPath, entry.name)))
    .sort();
}

async function readSources(folder: string): Promise<SourceFile[]> {
  const paths = (await listFiles(folder)).filter((file) => file.endsWith(".ts"));
  return Promise.all(
    paths.map(async (file) => ({ path: file, text: await readFile(path.join(TOP, file), "utf8") })),
  );
}

describe("the tree", async () => {
  const [sources, tests, everything] = await Promise.all([
    readSources("src"),
    readSources("test"),
    listFiles("src"),
  ]);

  test("was read: files of every layer, and their imports", () => {
    const layersSeen = new Set(sources.map((file) => file.path.split("/")[1]));
    const importsSeen = sources.flatMap((file) => findImports(file.text)).length;
    expect(layersSeen).toEqual(new Set(Object.keys(LAYERS)));
    expect(importsSeen).toBeGreaterThan(100);
    expect(tests.map((file) => file.path)).toContain("test/architecture.test.ts");
  });

  test("every import goes to the right, through the other layer's index", () => {
    expect(findImportViolations(sources)).toEqual([]);
  });

  test("every folder has its rule, no rule goes in a circle, and no folder is full", () => {
    expect(findFolderViolations(everything)).toEqual([]);
  });

  test("no file comes back to itself by what it imports", () => {
    expect(findCircles(sources)).toEqual([]);
  });

  test("tests lie as what they test does, and what they share lies in helpers", () => {
    expect(
      findMisplacedTests(
        sources.map((file) => file.path),
        tests.map((file) => file.path),
      ),
    ).toEqual([]);
  });

  test("the engine knows no action by its name", () => {
    expect(sources.flatMap(findVerbs)).toEqual([]);
  });

  test("codecs reach leaves only", () => {
    expect(findImpureCodecs(sources)).toEqual([]);
  });

  test("every layer has its index and its README", () => {
    expect(findMissingFaces(everything)).toEqual([]);
  });

  test("no README has more than ten decisions: the others stand at the heads of the files that they are about", async () => {
    const pages = (await listFiles("src")).filter((file) => file.endsWith("README.md"));
    expect(pages).toContain("src/transaction/README.md");
    for (const page of pages) {
      const decisions = (await readFile(path.join(TOP, page), "utf8")).match(/^- [*]{0,2}20\d\d-/gm) ?? [];
      expect(decisions.length, page).toBeLessThanOrEqual(10);
    }
  });

  test("every file is named, sized, opened and finished as the style asks", () => {
    expect([...sources, ...tests].flatMap(findStyleViolations)).toEqual([]);
  });

  test("no function of the sources has more than 60 lines", () => {
    expect(sources.flatMap(findLongFunctions)).toEqual([]);
  });

  oracle("shellcheck").test("shellcheck finds nothing in the shell scripts", async () => {
    const scripts = (await listFiles("test")).filter((file) => file.endsWith(".sh"));
    expect(scripts).toContain("test/tooling/install-oracles.sh");
    execFileSync("shellcheck", ["-x", ".ci/run", ...scripts], { cwd: TOP, stdio: "pipe" });
  });
});

describe("reading a source", () => {
  test.each([
    ['import { a } from "./a.ts";', "./a.ts", false],
    ['import a, { b } from "./a.ts";', "./a.ts", false],
    ['import * as a from "./a.ts";', "./a.ts", false],
    ['import "./a.ts";', "./a.ts", false],
    ['import {\n  a,\n  b,\n} from "./a.ts";', "./a.ts", false],
    ['import type { A } from "./a.ts";', "./a.ts", true],
    ['import { type A } from "./a.ts";', "./a.ts", false],
    ['export { a } from "./a.ts";', "./a.ts", false],
    ['export * from "./a.ts";', "./a.ts", false],
    ['export type * from "./a.ts";', "./a.ts", true],
    ['const a = await import("./a.ts");', "./a.ts", false],
    ['type A = typeof import("./a.ts");', "./a.ts", true],
    ['const a = require("node:fs");', "node:fs", false],
    ['const a = createRequire(import.meta.url)("koffi");', "koffi", false],
    ['const load = createRequire(import.meta.url);\nload("koffi");', "koffi", false],
    ['process.getBuiltinModule("fs");', "fs", false],
    ['import a from "./a.json" with { type: "json" };', "./a.json", false],
    ["await import(name);", undefined, false],
    ["await import(`./${name}.ts`);", undefined, false],
    ['await import("./" + name);', undefined, false],
  ])("finds the import in %s", (source, specifier, typeOnly) => {
    expect(findImports(source)).toEqual([{ specifier, typeOnly, line: source.split("\n").length }]);
  });

  test.each([
    '// import "./a.ts";',
    '/* import "./a.ts"; */',
    "const a = 'import \"./a.ts\";';",
    'const a = `import "./a.ts";`;',
    'const a = /import "x/;',
    'interface From { from: "./a.ts" }',
    'export const from = "./a.ts";',
    "import.meta.url;",
  ])("finds no import in %s", (source) => {
    expect(findImports(source)).toEqual([]);
  });

  test("blanking keeps every place, and code inside a template is code", () => {
    const source = 'a(/["/]/, `x${b({ c: "}" })}y`, "z\\""); // d\nimport "./e.ts";';
    expect(blankSource(source)).toHaveLength(source.length);
    expect(blankSource(source)).toBe('a(      , `  {b({ c: " " })} `, "   ");     \nimport "      ";');
  });

  const body = "  call();\n".repeat(60);
  test.each([
    ["a function", `function a(): void {\n${body}}\n`, 1],
    ["a method", `class A {\n  a(): Promise<{ b: number }> {\n${body}  }\n}\n`, 1],
    ["an arrow", `const a = async () => {\n${body}};\n`, 1],
    ["a class", `export class A extends B {\n${body}}\n`, 0],
    ["an interface", `interface A {\n${body}}\n`, 0],
    ["an object", `const a = {\n${body}};\n`, 0],
    ["a list of imports", `import {\n${body}} from "./a.ts";\n`, 0],
  ])("measures %s of 62 lines", (_what, source, count) => {
    expect(findLongBlocks(source, 60)).toHaveLength(count);
    expect(findLongBlocks(source, 62)).toHaveLength(0);
  });
});

describe("a broken rule is told", () => {
  const faces = Object.entries(LAYERS).map(([layer, { face }]) => ({
    path: `src/${layer}/${face}`,
    text: "",
  }));
  const inside = [
    "storage/node-file.ts",
    "transaction/actions/merge.ts",
    "transaction/actions/plan/action.ts",
  ];
  const others = [...faces, ...inside.map((each) => ({ path: `src/${each}`, text: "" }))];

  test.each([
    ["src/format/open.ts", 'import "../device/index.ts";', "format may import storage, units, errors"],
    ["src/format/open.ts", 'import "../cli/main.ts";', "format may import storage, units, errors"],
    ["src/units/size.ts", 'import "../errors/index.ts";', "units may import nothing"],
    ["src/device/view.ts", 'import "../storage/node-file.ts";', "go through src/storage/index.ts"],
    ["src/device/view.ts", 'import "node:fs";', "only src/storage may"],
    ["src/device/view.ts", 'import "fs";', "write node:fs"],
    ["src/format/open.ts", 'void import("fs-extra");', "only src/storage may"],
    ["src/format/open.ts", 'createRequire(import.meta.url)("koffi");', "only src/storage may"],
    ["src/transaction/engine/engine.ts", 'import "node:child_process";', "only src/cli, src/storage may"],
    ["src/transaction/engine/engine.ts", 'import "node:worker_threads";', "only src/storage may"],
    ["src/transaction/engine/engine.ts", 'import "node:vm";', "only nobody may"],
    ["src/transaction/engine/engine.ts", 'import "chalk";', "only src/cli may"],
    ["src/cli/main.ts", 'import "left-pad";', "give the package its layers"],
    ["src/transaction/engine/engine.ts", 'import { a } from "../../storage/index.ts";', "by `import type`"],
    ["src/transaction/actions/a.ts", 'import type { A } from "../../storage/index.ts";', "imports storage"],
    ["src/transaction/actions/a.ts", 'import "./merge.ts";', "actions never import each other"],
    ["src/cli/txn.ts", 'import { a } from "../storage/index.ts";', "by `import type`"],
    ["src/device/view.ts", 'import "./gone.ts";', "which is not there"],
    ["src/device/view.ts", 'import "./index.js";', "end the name with .ts"],
    ["src/device/view.ts", "await import(name);", "computed name"],
  ])("%s: %s", (file, text, message) => {
    const found = findImportViolations([{ path: file, text }, ...others]);
    expect(found).toHaveLength(1);
    expect(found[0]).toContain(`${file}:1 `);
    expect(found[0]).toContain(message);
  });

  test.each([
    ["src/transaction/journal/journal.ts", 'import { a } from "../../storage/index.ts";'],
    ["src/transaction/engine/engine.ts", 'import type { A } from "../../storage/index.ts";'],
    ["src/transaction/actions/index.ts", 'import { merge } from "./merge.ts";'],
    ["src/transaction/actions/a.ts", 'import type { A } from "./plan/action.ts";'],
    ["src/cli/launch.ts", 'import { a } from "../storage/index.ts";\nimport "node:child_process";'],
    ["src/format/open.ts", 'import "../errors/index.ts";\nimport "node:path";'],
    ["src/storage/node-file.ts", 'import "koffi";\nimport "node:fs/promises";'],
  ])("and a kept one is not: %s: %s", (file, text) => {
    expect(findImportViolations([{ path: file, text }, ...others])).toEqual([]);
  });

  test("a codec that reaches a file through its neighbour is named with the way", () => {
    const pure = { path: "src/format/qcow2/codec/limits.ts", text: 'import "../../../units/index.ts";' };
    const near = {
      path: "src/format/qcow2/codec/l2-table.ts",
      text: 'import "./limits.ts";\nimport "./near.ts";',
    };
    const far = {
      path: "src/format/qcow2/codec/near.ts",
      text: 'import type { A } from "../../../storage/index.ts";',
    };
    expect(findImpureCodecs([pure, near, far])).toEqual([
      "src/format/qcow2/codec/l2-table.ts → src/format/qcow2/codec/near.ts → src/storage/index.ts: a codec is pure, and reaches leaves and node:zlib only",
      "src/format/qcow2/codec/near.ts → src/storage/index.ts: a codec is pure, and reaches leaves and node:zlib only",
    ]);
    expect(findImpureCodecs([pure])).toEqual([]);
  });

  test.each([
    ["src/format/openImage.ts", "// Opens.\n", "kebab-case"],
    ["src/format/utils/a.ts", "// Helps.\n", "no utils"],
    ["src/format/util.ts", "// Helps.\n", "no utils"],
    ["src/format/open.ts", "export const a = 1;\n", "without a comment"],
    ["src/format/open.ts", `// Opens.\n${"\n".repeat(400)}`, "more than 400"],
    ["src/format/open.ts", `// Opens. ${UNFINISHED}: close.\n`, "finish it"],
    ["test/open.test.ts", `// Opens.\ntest.${SKIPPED}("opens", () => {});\n`, "finish it"],
    ["test/open.test.ts", "// Opens.\nexpect(Date.now() - began).toBeLessThan(2000);\n", "by the clock"],
    ["test/open.test.ts", '// Opens.\ntest("opens", { timeout: 9 }, async () => {});\n', "by the clock"],
    ["test/open.test.ts", `// Opens.\ndescribe.each([1]).${ALONE}("opens", () => {});\n`, "finish it"],
  ])("%s %j", (file, text, message) => {
    const found = findStyleViolations({ path: file, text });
    expect(found).toHaveLength(1);
    expect(found[0]).toContain(message);
  });

  test("an index that only passes on needs no comment", () => {
    const text = 'export { a } from "./a.ts";\nexport type { B } from "./b.ts";\n';
    expect(findStyleViolations({ path: "src/format/index.ts", text })).toEqual([]);
  });

  const PLACES = [
    "format/copy/b.ts",
    "transaction/recover/b.ts",
    "transaction/describe/b.ts",
    "transaction/session.ts",
    "cli/running/b.ts",
    "cli/img/run.ts",
  ];
  test.each([
    [
      "src/format/chain/a.ts",
      'import "../copy/b.ts";',
      "chain may import of its layer its own files, qcow2/codec",
    ],
    [
      "src/format/qcow2/codec/a.ts",
      'import type { B } from "../../copy/b.ts";',
      "may import of its layer nothing",
    ],
    ["src/format/a.ts", 'void import("./copy/b.ts");', "format may import of its layer qcow2/codec"],
    [
      "src/transaction/commit/a.ts",
      'import "../recover/b.ts";',
      "commit may import of its layer requests, notes",
    ],
    [
      "src/transaction/journal/a.ts",
      'import type { B } from "../describe/b.ts";',
      "of its layer requests, notes",
    ],
    [
      "src/transaction/describe/a.ts",
      'import type { B } from "../session.ts";',
      "of its layer requests, notes, journal, actions/plan, actions",
    ],
    [
      "src/cli/grammar/a.ts",
      'import type { B } from "../running/b.ts";',
      "grammar may import of its layer its own",
    ],
    [
      "src/cli/img/images/a.ts",
      'import { b } from "../run.ts";',
      "img/images may import of its layer its own",
    ],
  ])("%s, against the rule of its folder: %s", (file, text, message) => {
    const found = findImportViolations([
      { path: file, text },
      ...PLACES.map((each) => ({ path: `src/${each}`, text: "" })),
    ]);
    expect(found).toHaveLength(1);
    expect(found[0]).toContain(message);
  });

  test.each([
    ['if (record.kind === "mirror") go();', 1],
    ['const ENDS = new Set(["mirror-cancel"]);', 1],
    ['type Name = Entry["mirror"];', 0],
  ])("a verb in the engine or the command line is told: %s", (text, count) => {
    expect(findVerbs({ path: "src/transaction/engine/enter.ts", text })).toHaveLength(count);
    expect(findVerbs({ path: "src/cli/render/outcome.ts", text })).toHaveLength(count);
    expect(findVerbs({ path: "src/transaction/actions/mirror.ts", text })).toHaveLength(0);
  });

  test("a circle of types and of late imports is told once, with its way", () => {
    const circle = [
      { path: "src/cli/a.ts", text: 'import type { B } from "./b.ts";' },
      { path: "src/cli/b.ts", text: 'void import("./c.ts");\nimport "./d.ts";' },
      { path: "src/cli/c.ts", text: 'export * from "./b.ts";' },
      { path: "src/cli/d.ts", text: "" },
    ];
    expect(findCircles(circle)).toEqual(["src/cli/b.ts → src/cli/c.ts → src/cli/b.ts"]);
    expect(findCircles(circle.filter(({ path: each }) => each !== "src/cli/c.ts"))).toEqual([]);
  });

  test("a folder without a rule and a full one are told", () => {
    const files = (count: number) =>
      Array.from({ length: count }, (_, index) => `src/format/chain/a${index}.ts`);
    expect(findFolderViolations(files(17))).toEqual([]);
    expect(findFolderViolations(files(18))).toHaveLength(1);
    expect(findFolderViolations(["src/format/others/a.ts"])).toHaveLength(1);
  });

  test("a missing README, a missing index and a folder that is no layer are told", () => {
    const all = Object.entries(LAYERS).flatMap(([layer, { face }]) => [
      `src/${layer}/${face}`,
      `src/${layer}/README.md`,
    ]);
    expect(findMissingFaces(all)).toEqual([]);
    expect(findMissingFaces(all.filter((each) => each !== "src/format/README.md"))).toHaveLength(1);
    expect(findMissingFaces(all.filter((each) => each !== "src/device/index.ts"))).toHaveLength(1);
    expect(findMissingFaces([...all, "src/helpers/a.ts"])).toHaveLength(1);
  });
});

test.each([
  ["test/format/read/extents.test.ts", undefined],
  ["test/storage/conformance.ts", undefined],
  ["test/storage/conformance/names.ts", undefined],
  ["test/crash/judges/explore.ts", undefined],
  ["test/format/read/make-extents.ts", "move it to test/helpers"],
  ["test/format/write/extents.test.ts", "src/format/write, which is not there"],
])("the place of %s is judged: %s", (file, message) => {
  const found = findMisplacedTests(["src/format/read/extents.ts"], [file]);
  expect(found).toEqual(message === undefined ? [] : [expect.stringContaining(message) as string]);
});
