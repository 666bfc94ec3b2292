// Keeps V8's compiled code of the bundle beside it, as FILE.cache: runs what commands usually run, in a
// workspace of its own, and takes what V8 has compiled by then. It belongs to the Node that runs this; the
// launcher of another Node goes without.
//
//     node test/tooling/warm-up.mjs dist/imgtx.cjs

import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";

const [, , bundle] = process.argv;
const { loadBundle } = createRequire(import.meta.url)("../../bin/imgtx.js");
const { script, exports } = loadBundle(bundle);

const folder = mkdtempSync(`${tmpdir()}/imgtx-warm-up-`);
try {
  writeFileSync(`${folder}/base.raw`, "");
  truncateSync(`${folder}/base.raw`, 2 ** 20);
  for (const line of [
    "device add vda base.raw --format raw",
    "snapshot vda one.qcow2",
    "snapshot-group vda=two.qcow2 --json",
    "device list",
    "txn begin",
    "snapshot vda three.qcow2",
    "txn status",
    "txn commit",
    "history",
    "snapshot vda two.qcow2",
  ]) {
    const status = await exports.run(line.split(" "), quietContext());
    if (status !== (line.endsWith(" two.qcow2") ? 14 : 0))
      throw new Error(`imgtx ${line}: exit status ${status}`);
  }
  writeFileSync(`${bundle}.cache`, script.createCachedData());
} finally {
  rmSync(folder, { recursive: true });
}

function quietContext() {
  const output = { write: () => undefined, isTTY: false, columns: undefined };
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
