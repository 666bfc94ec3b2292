// Compressed clusters where the system has neither libdeflate nor libzstd, and Node no zstd.

import { spawnSync } from "node:child_process";
import { expect, test } from "vitest";
import { findFixture, unpackFixture } from "../../helpers/fixtures.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const BY_ZLIB = ["", "-512", "-2m", "-v2"].map((variant) => `compressed-zlib${variant}.qcow2`);
const BY_ZSTD = "compressed-zstd.qcow2";

/** Has Node load the two modules with names of libraries that no system has, and without Node's own zstd. */
const HOOKS = `
  const CHANGES = {
    "/src/storage/native/deflate.ts": ['"libdeflate.so.0"', '"libdeflate-that-is-not-there.so.0"'],
    "/src/storage/native/zstd.ts": ['"libzstd.so.1"', '"libzstd-that-is-not-there.so.1"', '"zstdDecompress" in', '"none" in'],
  };
  export async function load(url, context, nextLoad) {
    const loaded = await nextLoad(url, context);
    const [, pairs = []] = Object.entries(CHANGES).find(([end]) => url.endsWith(end)) ?? [];
    let source = loaded.source;
    for (let at = 0; at < pairs.length; at += 2) {
      if (!String(source).includes(pairs[at])) throw new Error(url + " has no " + pairs[at]);
      source = String(source).replace(pairs[at], pairs[at + 1]);
    }
    return { ...loaded, source };
  }`;

const SCRIPT = `
  import { createHash } from "node:crypto";
  import { register } from "node:module";
  register("data:text/javascript," + encodeURIComponent(${JSON.stringify(HOOKS)}));
  const { openImage } = await import("./src/format/index.ts");
  const { makeNodeStorage } = await import("./src/storage/index.ts");
  const { loadDeflateUnpacker } = await import("./src/storage/native/deflate.ts");
  async function hashOf(path) {
    const image = await openImage(makeNodeStorage(), path, { format: "qcow2", gate: { allowPaths: [], currentFolder: "/" } });
    const bytes = new Uint8Array(image.virtualSizeBytes);
    try {
      await image.read(bytes, 0);
    } finally {
      await image.close();
    }
    return createHash("sha256").update(bytes).digest("hex");
  }
  const told = { hasDeflate: loadDeflateUnpacker() !== undefined };
  for (const path of process.argv.slice(1)) {
    const name = path.replace(/.*\\//, "");
    told[name] = await hashOf(path).catch(({ code, image, offset, hint }) => ({ code, image, offset, hint }));
  }
  process.stdout.write(JSON.stringify(told));`;

// A process of its own: what other files have loaded stays loaded here.
test("zlib reads compressed clusters by itself, and zstd is refused with its place and what to install", async () => {
  const folder = makeFolder();
  const paths = await Promise.all([...BY_ZLIB, BY_ZSTD].map((name) => unpackFixture(name, folder)));
  const options = ["--import", "./test/tooling/typescript.mjs", "--input-type=module", "--eval", SCRIPT];
  const { stdout, stderr } = spawnSync("node", [...options, ...paths], { encoding: "utf8" });
  expect(stderr).toBe("");
  expect(JSON.parse(stdout)).toEqual({
    hasDeflate: false,
    ...Object.fromEntries(BY_ZLIB.map((name) => [name, findFixture(name).guest?.sha256])),
    [BY_ZSTD]: {
      code: "E_UNSUPPORTED",
      image: expect.stringContaining("compressed-zstd") as string,
      offset: expect.any(Number) as number,
      hint: expect.stringContaining("libzstd1") as string,
    },
  });
});
