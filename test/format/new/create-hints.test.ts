// What a new image asks of its file system, as that file system's own tools tell it.

import { execFileSync } from "node:child_process";
import { mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { describe, expect, onTestFinished } from "vitest";
import { planImage, writeImage } from "../../../src/format/new/create.ts";
import type { CreateOptions } from "../../../src/format/new/create-options.ts";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { findingLoop } from "../../helpers/finding-loop.ts";
import { oracle } from "../../helpers/oracles.ts";
import { makeFolder } from "../../helpers/temporary-folder.ts";

const storage = makeNodeStorage();

function run(program: string, ...args: string[]): string {
  return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "ignore"] });
}

/** A folder on a new file system of this kind. */
function mountNew(kind: "xfs" | "btrfs"): string {
  const folder = makeFolder();
  writeFileSync(`${folder}/disk`, "");
  truncateSync(`${folder}/disk`, 400 * 1024 * 1024);
  run(`mkfs.${kind}`, `${folder}/disk`);
  mkdirSync(`${folder}/mount`);
  run(...findingLoop("mount", "-o", "loop", `${folder}/disk`, `${folder}/mount`));
  onTestFinished(() => {
    run("umount", `${folder}/mount`);
  });
  return `${folder}/mount`;
}

async function create(path: string, options: CreateOptions): Promise<readonly string[]> {
  const plan = await planImage({ format: "qcow2", virtualSizeBytes: 1024 ** 2, options });
  const file = await storage.createFile(path, 0o600);
  try {
    return await writeImage({ file }, plan);
  } finally {
    await file.close();
  }
}

describe("a new image", () => {
  oracle("root", "loops", "mkfs.btrfs", "lsattr").test(
    "is without copy-on-write on Btrfs where that was asked for",
    async () => {
      const folder = mountNew("btrfs");
      await create(`${folder}/plain`, {});
      expect(await create(`${folder}/nocow`, { noCow: true })).toEqual([]);
      expect(run("lsattr", `${folder}/plain`).split(" ")[0]).not.toContain("C");
      expect(run("lsattr", `${folder}/nocow`).split(" ")[0]).toContain("C");
      const hinted = await create(`${folder}/hinted`, { extentSizeHintBytes: 65_536 });
      expect(hinted.join()).toMatch(/^Failed to set extent size hint/);
    },
  );

  oracle("root", "loops", "mkfs.xfs", "xfs_io").test(
    "has QEMU's extent size hint on XFS, another, or none",
    async () => {
      const folder = mountNew("xfs");
      expect(await create(`${folder}/default`, {})).toEqual([]);
      expect(await create(`${folder}/larger`, { extentSizeHintBytes: 4 * 1024 ** 2 })).toEqual([]);
      expect(await create(`${folder}/none`, { extentSizeHintBytes: 0 })).toEqual([]);
      const sizes = ["default", "larger", "none"].map(
        (name) => run("xfs_io", "-r", "-c", "extsize", `${folder}/${name}`).split(" ")[0],
      );
      expect(sizes).toEqual(["[1048576]", "[4194304]", "[0]"]);
    },
  );
});
