// What a disk shows and the rest of a scenario are spared where an earlier disk was like this one: no disk may count as like
// another that may end in another way.

import { createHash } from "node:crypto";
import { expect, test } from "vitest";
import { Content } from "../simulated/content.ts";
import { makeInode, Tree } from "../simulated/disk-tree.ts";
import { likenessOf } from "./likeness.ts";

const HOUR_NS = 3_600_000_000_000n;
const START_NS = 1_767_225_600_000_000_000n;

interface Disk {
  readonly at?: bigint;
  readonly id?: string;
  readonly inode?: number;
  /** What the table says of the image. */
  readonly seenAt?: bigint;
  readonly seenInode?: number;
  readonly committed?: string;
  readonly bytes?: string;
  readonly mode?: number;
  /** What the table's seal is of. Default: what it holds. */
  readonly sealed?: string;
}

/** A table, and an image that was written to an hour after the start. */
function likenessOfDisk(disk: Disk, keepsInodes = false): string {
  const { at = START_NS + HOUR_NS, id = "zzzzzzzzz1", inode = 20, bytes = "image", mode = 0o644 } = disk;
  const { seenAt = at, seenInode = inode, committed = "2026-01-01T00:30:00.000Z" } = disk;
  const looks = { inode: String(seenInode), modifiedNs: String(seenAt), committed, transaction: id };
  const { sealed = JSON.stringify(looks) } = disk;
  const seal = createHash("sha256").update(sealed).digest("hex");
  const table = `{"sha256":"${seal}","table":${JSON.stringify(looks)}}\n`;
  const tree = new Tree();
  const put = (folder: number, name: string, number: number, text?: string): void => {
    const made = makeInode(number, text === undefined ? "folder" : "file", mode, at);
    tree.share(text === undefined ? made : { ...made, content: Content.of(Buffer.from(text)) });
    tree.assign({ folder, name, inode: number }, at);
  };
  put(2, ".imgtx", 10);
  put(10, "table.json", 11, table);
  put(2, "a.qcow2", inode, bytes);
  put(2, `.imgtx-${id}-0`, 30, "staged");
  return likenessOf(tree, keepsInodes);
}

test("disks are alike that differ in ids, times and inodes alone", () => {
  const later = {
    at: START_NS + 5n * HOUR_NS,
    id: "zzzzzzabcd",
    inode: 25,
    committed: "2026-01-01T04:00:00.000Z",
  };
  expect(likenessOfDisk(later)).toBe(likenessOfDisk({}));
});

test.each<[string, Disk]>([
  ["the image was written to since it was seen", { seenAt: START_NS }],
  ["the image is another file than was seen", { seenInode: 30 }],
  ["the commit came after the write", { committed: "2026-01-01T02:00:00.000Z" }],
  ["the bytes are others", { bytes: "other" }],
  ["the mode is another", { mode: 0o600 }],
  ["the seal of the table does not fit", { sealed: "another table" }],
])("disks are not alike where %s", (_, disk) => {
  expect(likenessOfDisk(disk)).not.toBe(likenessOfDisk({}));
});

test("where inodes count, disks are alike that differ in ids and times alone", () => {
  const other = likenessOfDisk({ inode: 25 }, true);
  expect(other).not.toBe(likenessOfDisk({}, true));
  expect(likenessOfDisk({ id: "zzzzzzabcd" }, true)).toBe(likenessOfDisk({}, true));
});
