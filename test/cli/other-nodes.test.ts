// The launcher under another Node than the one that the package was made with.

import { readFileSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { expect, test } from "vitest";
import type { Script } from "node:vm";
import { makeFolder } from "../helpers/temporary-folder.ts";

interface Launcher {
  readonly loadBundle: (file: string) => { readonly script: Script; readonly exports: { answer?: number } };
  readonly markOfNode: () => string;
  readonly refuseOldNode: (version: string) => string | undefined;
}

const { loadBundle, markOfNode, refuseOldNode } = createRequire(import.meta.url)(
  "../../bin/imgtx.js",
) as Launcher;

test.each<[string, (compiled: Buffer) => Buffer, boolean | undefined]>([
  ["is taken by the very Node that made it", (compiled) => withMark(compiled, markOfNode()), false],
  [
    "is not for a Node of the same V8 that was built otherwise",
    (compiled) => withMark(compiled, otherSize()),
    undefined,
  ],
  ["is not for another processor", (compiled) => withMark(compiled, otherProcessor()), undefined],
  ["without a mark, as earlier ones were, is nobody's", (compiled) => compiled, undefined],
  [
    "that was cut off is not taken",
    (compiled) => withMark(compiled, markOfNode()).subarray(0, -1),
    undefined,
  ],
])("compiled code %s", (_, store, isRejected) => {
  const file = `${makeFolder()}/bundle.cjs`;
  writeFileSync(file, "exports.answer = 42;");
  writeFileSync(`${file}.cache`, store(loadBundle(file).script.createCachedData()));
  const { script, exports } = loadBundle(file);
  // Undefined where V8 was not shown it: what V8 would take of another Node crashes it.
  expect(script.cachedDataRejected).toBe(isRejected);
  expect(exports.answer).toBe(42);
});

function withMark(compiled: Buffer, mark: string): Buffer {
  return Buffer.concat([compiled, Buffer.from(mark)]);
}

function otherSize(): string {
  return markOfNode().replace(/(?<= )\d+/, (size) => String(Number(size) + 1));
}

function otherProcessor(): string {
  return markOfNode().replace(process.arch, "mips64");
}

test("a Node that is too old is told so, by the version that package.json names", () => {
  const { engines } = JSON.parse(readFileSync(new URL("../../package.json", import.meta.url), "utf8")) as {
    engines: { node: string };
  };
  const oldest = engines.node.replace(">=", "");
  expect(refuseOldNode(`${oldest}.0`)).toBeUndefined();
  expect(refuseOldNode("22.0.0")).toBeUndefined();
  for (const version of ["18.20.8", "20.14.0", "9.99.9"]) expect(refuseOldNode(version)).toContain(oldest);
});
