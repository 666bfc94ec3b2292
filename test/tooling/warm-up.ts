// Keeps V8's compiled code of a bundle beside it, as FILE.cache: runs what commands usually run, in a
// workspace of its own, and takes what V8 has compiled by then. It belongs to the Node that runs this, whose mark it
// ends with; the launcher of another Node goes without.
// Started by build.ts with the name of the bundle.

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import type { Script } from "node:vm";
import type { CliContext, Output } from "../../src/cli/context.ts";
import type * as Bundle from "../../src/cli/launch.ts";

type Row = readonly [line: string, status: number];

const OF_DEVICES: readonly Row[] = [
  // In the folder itself: a stray workspace above would be taken else, and changed.
  ["init", 0],
  ["device add vda base.raw --format raw", 0],
  ["snapshot vda one.qcow2", 0],
  ["snapshot-group vda=two.qcow2 --json", 0],
  ["device list", 0],
  ["txn begin", 0],
  ["snapshot vda three.qcow2", 0],
  ["txn status", 0],
  ["txn commit", 0],
  ["history", 0],
  ["snapshot vda two.qcow2", 14],
];

const OF_IMG: readonly Row[] = [
  ["img create -f qcow2 -b base.raw -F raw one.qcow2", 0],
  ["img info one.qcow2", 0],
  ["img info --output=json base.raw", 0],
  ["img check one.qcow2", 0],
  ["img map --output=json one.qcow2", 0],
  ["img convert -O raw one.qcow2 two.raw", 0],
  ["img compare one.qcow2 two.raw", 0],
];

/** The launcher, which is JavaScript. */
interface Launcher {
  readonly loadBundle: (file: string) => { readonly script: Script; readonly exports: typeof Bundle };
  readonly markOfNode: () => string;
}

const [, , bundle = ""] = process.argv;
const { loadBundle, markOfNode } = createRequire(import.meta.url)("../../bin/imgtx.js") as Launcher;
const { script, exports } = loadBundle(bundle);

const folder = mkdtempSync(`${tmpdir()}/imgtx-warm-up-`);
try {
  writeFileSync(`${folder}/base.raw`, "");
  truncateSync(`${folder}/base.raw`, 2 ** 20);
  for (const [line, expected] of bundle.endsWith("-img.cjs") ? OF_IMG : OF_DEVICES) {
    const status = await exports.run(line.split(" "), quietContext());
    if (status !== expected) throw new Error(`imgtx ${line}: exit status ${status}`);
  }
  writeFileSync(`${bundle}.cache`, Buffer.concat([script.createCachedData(), Buffer.from(markOfNode())]));
} finally {
  rmSync(folder, { recursive: true });
}

function quietContext(): CliContext {
  const output: Output = { write: () => undefined, isTTY: false, columns: undefined };
  return {
    storage: exports.makeNodeStorage(),
    cwd: folder,
    env: {},
    stdout: output,
    stderr: output,
    stdin: () => Promise.resolve(""),
    sharesTerminal: false,
    onInterrupt: () => () => undefined,
    spawn: () => Promise.reject(new Error("nothing is started here")),
  };
}
