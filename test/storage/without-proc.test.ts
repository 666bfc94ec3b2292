// Without /proc: a rescue shell after a power cut, an initramfs, a chroot. Holders can't be named there; all else works.

import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { buildSync } from "esbuild";
import { expect } from "vitest";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { oracle } from "../helpers/oracles.ts";
import { makeScratchFolder } from "./scratch.ts";

const REPOSITORY = fileURLToPath(new URL("../..", import.meta.url));

// Looks at a file, is refused a lock on another, and says what it saw.
const PROGRAM = `
  import { lockFile, makeNodeStorage } from "./src/storage/index.ts";
  const storage = makeNodeStorage();
  const [seen, locked] = process.argv.slice(2);
  const { inode, bornNs } = await storage.stat(seen);
  const [one, other] = [await storage.openFile(locked, "write"), await storage.openFile(locked, "write")];
  one.lock({ start: 0, lengthBytes: 1 }, "exclusive");
  const waiting = { waitMs: 0, onWait: () => undefined };
  const refusal = await lockFile(storage, other, { start: 0, lengthBytes: 1 }, waiting, "it").catch((error) => error);
  console.log(JSON.stringify({ inode, bornNs, code: refusal.code, bootId: typeof storage.host.bootId }));
`;

oracle("root", "mounts", "unshare").test("files are told apart and locked as with it", async () => {
  const folder = makeScratchFolder();
  const storage = makeNodeStorage();
  const [seen, locked] = [`${folder}/seen`, `${folder}/locked`];
  for (const path of [seen, locked]) await (await storage.createFile(path, 0o600)).close();
  const program = `${folder}/program.mjs`;
  buildSync({
    stdin: { contents: PROGRAM, resolveDir: REPOSITORY, loader: "ts" },
    bundle: true,
    format: "esm",
    platform: "node",
    external: ["koffi", "fs-extra"],
    outfile: program,
    logLevel: "error",
  });
  const script = 'umount -l /proc && exec "$0" "$@"';
  const answer = execFileSync(
    "unshare",
    ["--mount", "sh", "-c", script, process.execPath, program, seen, locked],
    { encoding: "utf8", env: { ...process.env, NODE_PATH: `${REPOSITORY}/node_modules` } },
  );
  const { inode, bornNs } = (await storage.stat(seen)) ?? {};
  expect(JSON.parse(answer)).toEqual({ inode, bornNs, code: "E_BUSY", bootId: "string" });
});
