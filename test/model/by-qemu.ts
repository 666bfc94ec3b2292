// What QEMU says of a simulated disk: its images are laid out in a real folder, read there, and compared with the model.

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, posix } from "node:path";
import { readHeader } from "../helpers/guest-content.ts";
import { run } from "../helpers/qemu-programs.ts";
import { imageIn } from "../crash/judges/observation.ts";
import type { Tree } from "../crash/simulated/disk-tree.ts";
import { digestOf, type Stage } from "./stage.ts";

/** An image, and the digest of what is to be found in it. */
export interface Wanted {
  readonly what: string;
  readonly image: string;
  readonly format: string;
  readonly digest: string;
}

/** A sentence for each image that QEMU reads otherwise, or finds fault with. */
export function readByQemu({ machine }: Stage, wanted: readonly Wanted[]): string[] {
  const folder = mkdtempSync(join(tmpdir(), "imgtx-model-"));
  try {
    for (const { path, inode } of machine.tree.entries()) {
      if (inode.kind !== "file" || path.includes("/.imgtx/")) continue;
      const bytes = imageIn(machine.tree, path);
      mkdirSync(dirname(join(folder, path)), { recursive: true });
      writeFileSync(join(folder, path), bytes.read(0, bytes.sizeBytes));
    }
    return wanted.flatMap((one) => readOne(machine.tree, folder, one));
  } finally {
    rmSync(folder, { recursive: true });
  }
}

function readOne(tree: Tree, folder: string, { what, image, format, digest }: Wanted): string[] {
  const copy = join(folder, "read");
  const chain = `json:${JSON.stringify(chainOf(tree, folder, image, format))}`;
  const read = run("qemu-img", "convert", "-O", "raw", chain, copy);
  if (read.status !== 0) return [`QEMU does not read ${what}: ${read.output}`];
  if (digestOf(readFileSync(copy)) !== digest) return [`QEMU finds something else in ${what}, ${image}`];
  if (format === "raw") return [];
  const checked = run("qemu-img", "check", "-q", chain);
  // 3: leaks, as a write that was cut off may leave them.
  return checked.status === 0 || checked.status === 3
    ? []
    : [`QEMU finds fault with ${image}: ${checked.output}`];
}

/** With each backing image by name, since those that are stored may be absolute. */
function chainOf(tree: Tree, folder: string, image: string, format: string): object {
  const file = { driver: "file", filename: join(folder, image) };
  const { backingName, backingFormat } = format === "qcow2" ? readHeader(imageIn(tree, image), image) : {};
  if (backingName === undefined) return { driver: format, file };
  const below = posix.resolve(posix.dirname(image), backingName);
  return { driver: format, file, backing: chainOf(tree, folder, below, backingFormat ?? "qcow2") };
}
