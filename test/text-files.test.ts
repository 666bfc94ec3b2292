// Every text file of the tree, whatever it is for, against the rules of helpers/text-faults.ts; and the rules
// against files that break them.

import { readdir, readFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import type { SourceFile } from "./helpers/layers.ts";
import { findTextFaults } from "./helpers/text-faults.ts";

const TOP = fileURLToPath(new URL("..", import.meta.url));

// What is not in the repository, as .gitignore has it. Read from the disk and not asked of git: a checkout may
// belong to somebody whom git does not trust, or have come without it.
const NOT_OURS = new Set([".git", "node_modules", "dist", "out", "coverage"]);

async function readTextFiles(): Promise<SourceFile[]> {
  const files: SourceFile[] = [];
  for (const top of await readdir(TOP, { withFileTypes: true })) {
    if (NOT_OURS.has(top.name)) continue;
    const names = top.isDirectory() ? await listFiles(top.name) : [top.name];
    for (const name of names) {
      const text = await readFile(path.join(TOP, name), "utf8");
      if (!text.includes("\0")) files.push({ path: name, text });
    }
  }
  return files;
}

async function listFiles(folder: string): Promise<string[]> {
  const entries = await readdir(path.join(TOP, folder), { recursive: true, withFileTypes: true });
  return entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(TOP, path.join(entry.parentPath, entry.name)));
}

test("no file of the tree has a conflict mark or a fault of whitespace", async () => {
  const files = await readTextFiles();
  const seen = files.map((file) => file.path);
  expect(seen).toEqual(
    expect.arrayContaining([".ci/run", "README.md", "src/format/README.md", "man/imgtx.1", "bin/imgtx.js"]),
  );
  expect(files.flatMap(findTextFaults)).toEqual([]);
});

// Put together, so that this file keeps the rule that it shows.
const [OURS, MIDDLE, THEIRS, BASE] = ["<", "=", ">", "|"].map((sign) => sign.repeat(7));

test.each([
  ["the start of a conflict", `a\n${OURS} HEAD\nb\n`, "README.md:2: a conflict mark"],
  ["its middle", `a\n${MIDDLE}\nb\n`, "README.md:2: a conflict mark"],
  ["its end", `a\n${THEIRS} 00256ffd\n`, "README.md:2: a conflict mark"],
  ["its base", `${BASE} merged common ancestors\na\n`, "README.md:1: a conflict mark"],
  ["a blank at the end", "a \n", "README.md:1: blanks at the end"],
  ["a carriage return", "a\r\n", "README.md:1: blanks at the end"],
  ["a blank before a tab", "a\n \tb\n", "README.md:2: a blank in front of a tab"],
  ["an empty line at the end", "a\n\n", "README.md: empty lines at the end"],
  ["no line feed at the end", "a", "README.md: no line feed"],
])("%s is told", (_what, text, message) => {
  const found = findTextFaults({ path: "README.md", text });
  expect(found).toHaveLength(1);
  expect(found[0]).toContain(message);
});

test.each([
  ["an empty file", ""],
  ["a heading with a line of its own below", "Title\n======\n\ntext\n"],
  ["a rule", "text\n========\n"],
  ["a shift", `a ${OURS} b\n`],
])("%s is no fault", (_what, text) => {
  expect(findTextFaults({ path: "README.md", text })).toEqual([]);
});
