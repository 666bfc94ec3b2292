// Without /proc: a rescue shell after a power cut, an initramfs, a chroot. Holders can't be named there; all else works.

import { execFileSync } from "node:child_process";
import { expect } from "vitest";
import { makeNodeStorage } from "../../src/storage/index.ts";
import { oracle } from "../helpers/oracles.ts";
import { sourceProgram } from "../helpers/source-program.ts";
import { makeFolder } from "../helpers/temporary-folder.ts";

oracle("root", "mounts", "unshare").test("files are told apart and locked as with it", async () => {
  const folder = makeFolder();
  const storage = makeNodeStorage();
  const [seen, locked] = [`${folder}/seen`, `${folder}/locked`];
  for (const path of [seen, locked]) await (await storage.createFile(path, 0o600)).close();
  const script = 'umount -l /proc && exec "$0" "$@"';
  const program = [process.execPath, ...sourceProgram("look-and-lock"), seen, locked];
  const answer = execFileSync("unshare", ["--mount", "sh", "-c", script, ...program], { encoding: "utf8" });
  const { inode, bornNs } = (await storage.stat(seen)) ?? {};
  expect(JSON.parse(answer)).toEqual({ inode, bornNs, code: "E_BUSY", bootId: "string" });
});
