// A scenario on the real disk: laid out in a folder, copied and put back without its files changing their
// inodes, and looked at as the simulated one is.
//
// Invariant: a copy shares every file outside the program's own folder by hard links. The workspace knows
// images by inode, so a plain copy would be another workspace. What writes to an image in place (a fence) shows
// in all copies: so contents and times are kept beside them, and put back in place.

import { createHash } from "node:crypto";
import {
  copyFileSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import { makeNodeStorage } from "../../../src/storage/index.ts";
import { openHostImage } from "../../helpers/guest-content.ts";
import type { FolderEntry, FolderView } from "../judges/observation.ts";
import { WORKSPACE, type SampleFile } from "../scenarios/sample-devices.ts";

const OWN_FOLDER = `${WORKSPACE}/.imgtx`;

export function layOutFiles(root: string, files: readonly SampleFile[]): void {
  for (const folder of [root, join(root, WORKSPACE), join(root, "images")]) mkdirSync(folder);
  for (const { path, bytes, mode } of files) writeFileSync(join(root, path), bytes, { mode: mode ?? 0o644 });
}

/** A second name for each file, but own copies of what is in the program's own folder. */
export function copyFolder(source: string, target: string): void {
  mkdirSync(target);
  const own: string[] = [];
  for (const path of walk(source)) {
    const [from, to] = [join(source, path), join(target, path)];
    const stat = lstatSync(from);
    if (stat.isDirectory()) mkdirSync(to, { mode: stat.mode });
    else if (stat.isSymbolicLink()) symlinkSync(readlinkSync(from), to);
    else if (path.startsWith(`${OWN_FOLDER}/`)) own.push(path);
    else linkSync(from, to);
  }
  // They name folders, all of which are there by now.
  for (const path of own) copyOwnFile(join(source, path), join(target, path), join(target, WORKSPACE));
}

/**
 * A table and a journal name the file that they were written to, a table its folder, and a plan those of its images: the
 * copy is to be a workspace of its own.
 */
function copyOwnFile(from: string, to: string, workspace: string): void {
  copyFileSync(from, to);
  const text = readFileSync(to, "latin1");
  if (to.endsWith(".journal")) writeFileSync(to, markJournal(text, to, workspace), "latin1");
  else if (to === join(workspace, ".imgtx/table.json")) writeFileSync(to, markTable(text, to), "latin1");
}

interface StoredMark {
  readonly inode: string;
  readonly bornNs: string;
}

interface StoredRecord {
  readonly type: string;
  readonly mark?: StoredMark;
  readonly folders?: readonly { readonly path: string; readonly mark: StoredMark }[];
}

interface StoredTable {
  readonly mark: StoredMark & { readonly folder: StoredMark };
}

function markOf(path: string): StoredMark {
  const { ino, birthtimeNs } = lstatSync(path, { bigint: true });
  return { inode: String(ino), bornNs: String(birthtimeNs) };
}

/** With the lengths and digests of its lines put right. What is torn at the end stays. */
function markJournal(text: string, path: string, workspace: string): string {
  let digest = "0".repeat(64);
  return text.replace(/^\d+ [0-9a-f]{64} (\{.*\})\n/gm, (_, line: string) => {
    const record = JSON.parse(line) as StoredRecord;
    const marked = {
      ...record,
      ...(record.type === "begin" && { mark: markOf(path) }),
      ...(record.folders && { folders: record.folders.map((folder) => markFolder(folder, workspace)) }),
    };
    const json = JSON.stringify(marked);
    digest = createHash("sha256").update(digest).update(Buffer.from(json, "latin1")).digest("hex");
    return `${json.length} ${digest} ${json}\n`;
  });
}

/** One that has gone since keeps its mark: it is none of those that are there. */
function markFolder<Folder extends { readonly path: string }>(folder: Folder, workspace: string): Folder {
  const path = resolve(workspace, folder.path);
  return existsSync(path) ? { ...folder, mark: markOf(path) } : folder;
}

function markTable(text: string, path: string): string {
  const { table } = JSON.parse(text) as { table: StoredTable };
  const mark = { ...table.mark, ...markOf(path), folder: markOf(dirname(path)) };
  const content = JSON.stringify({ ...table, mark });
  const digest = createHash("sha256").update(Buffer.from(content, "latin1")).digest("hex");
  return `{"sha256":"${digest}","table":${content}}\n`;
}

interface KeptFile {
  /** Relative to the folder. */
  readonly path: string;
  readonly bytes: Buffer;
  readonly modifiedNs: bigint;
}

/** What the files that copies share hold now. */
export function keepShared(root: string): KeptFile[] {
  return walk(root)
    .filter((path) => !path.startsWith(`${OWN_FOLDER}/`) && lstatSync(join(root, path)).isFile())
    .map((path) => ({
      path,
      bytes: readFileSync(join(root, path)),
      modifiedNs: lstatSync(join(root, path), { bigint: true }).mtimeNs,
    }));
}

/** Puts that back, in the same inodes, with their times to the nanosecond. */
export async function putBackShared(root: string, kept: readonly KeptFile[]): Promise<void> {
  for (const { path, bytes, modifiedNs } of kept) {
    const file = join(root, path);
    if (!readFileSync(file).equals(bytes)) writeFileSync(file, bytes);
    if (lstatSync(file, { bigint: true }).mtimeNs === modifiedNs) continue;
    const opened = await makeNodeStorage().openFile(file, "write");
    await opened.setModified(String(modifiedNs));
    await opened.close();
  }
}

export function viewFolder(root: string): FolderView {
  return {
    entries: () => walk(root).map((path) => describeEntry(join(root, path))),
    open: openHostImage,
    realPath: (path) => {
      try {
        return realpathSync(path);
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
        throw error;
      }
    },
  };
}

function describeEntry(path: string): FolderEntry {
  const stat = lstatSync(path);
  const common = { path, inode: String(stat.ino), mode: stat.mode & 0o7777 };
  if (stat.isDirectory()) return { ...common, kind: "folder", content: "" };
  if (stat.isSymbolicLink()) return { ...common, kind: "symlink", content: readlinkSync(path) };
  const content = createHash("sha1").update(readFileSync(path)).digest("base64");
  return { ...common, kind: "file", content };
}

/** Everything, the program's own files and the times included, to see whether anything was written. */
export function fingerprintFolder(root: string): string {
  return walk(root)
    .map((path) => {
      const { ino, size, mtimeMs } = lstatSync(join(root, path));
      return lstatSync(join(root, path)).isDirectory()
        ? `${path} ${ino}`
        : `${path} ${ino} ${size} ${mtimeMs}`;
    })
    .join("\n");
}

/** Paths below the folder, each folder before what is in it. */
function walk(root: string): string[] {
  return readdirSync(root, { recursive: true, withFileTypes: true })
    .map((entry) => join(entry.parentPath, entry.name).slice(root.length + 1))
    .sort();
}
