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
  rmSync,
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
  for (const { path, bytes, mode } of files) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), bytes, { mode: mode ?? 0o644 });
  }
}

/** A second name for each file, but own copies of what is in the program's own folder. */
export function copyFolder(source: string, target: string): void {
  mkdirSync(target);
  for (const path of walk(source)) {
    const [from, to] = [join(source, path), join(target, path)];
    const stat = lstatSync(from);
    if (stat.isDirectory()) mkdirSync(to, { mode: stat.mode });
    else if (stat.isSymbolicLink()) symlinkSync(readlinkSync(from), to);
    else if (path.startsWith(`${OWN_FOLDER}/`)) copyFileSync(from, to);
    else linkSync(from, to);
  }
}

/**
 * Makes a copy a workspace of its own. A table and a journal name the file that they were written to, a table its
 * folder, and a plan those of its images; and both know when an image was changed last, which another name of it was.
 */
export function markCopy(root: string, kept: readonly KeptFile[]): void {
  const workspace = join(root, WORKSPACE);
  const changes = new Map(
    kept.map(({ path, changedNs }) => {
      const { ino, ctimeNs } = lstatSync(join(root, path), { bigint: true });
      return [String(ino), { before: String(changedNs), now: String(ctimeNs) }];
    }),
  );
  for (const path of walk(root).filter((each) => each.startsWith(`${OWN_FOLDER}/`))) {
    const file = join(root, path);
    const isTable = path === `${OWN_FOLDER}/table.json`;
    if (!isTable && !path.endsWith(".journal")) continue;
    const text = readFileSync(file, "latin1");
    const marked = isTable ? markTable(text, file, changes) : markJournal(text, file, workspace, changes);
    writeFileSync(file, marked, "latin1");
  }
}

/** When the shared files were changed last, by their inodes: before they were copied, and now. */
type Changes = ReadonlyMap<string, { readonly before: string; readonly now: string }>;

/** With the times of now. What was not as it is there leaves the time that it has. */
function parseStored(text: string, changes: Changes): unknown {
  return JSON.parse(text, (_, value: unknown) => {
    if (typeof value !== "object" || value === null || !("inode" in value && "changedNs" in value))
      return value;
    const change = changes.get(String(value.inode));
    return change?.before === value.changedNs ? { ...value, changedNs: change?.now } : value;
  });
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
function markJournal(text: string, path: string, workspace: string, changes: Changes): string {
  let digest = "0".repeat(64);
  return text.replace(/^\d+ [0-9a-f]{64} (\{.*\})\n/gm, (_, line: string) => {
    const record = parseStored(line, changes) as StoredRecord;
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

function markTable(text: string, path: string, changes: Changes): string {
  const { table } = parseStored(text, changes) as { table: StoredTable };
  const mark = { ...table.mark, ...markOf(path), folder: markOf(dirname(path)) };
  const content = JSON.stringify({ ...table, mark });
  const digest = createHash("sha256").update(Buffer.from(content, "latin1")).digest("hex");
  return `{"sha256":"${digest}","table":${content}}\n`;
}

export interface KeptFile {
  /** Relative to the folder. */
  readonly path: string;
  readonly bytes: Buffer;
  readonly modifiedNs: bigint;
  readonly changedNs: bigint;
}

/** What the files that copies share hold now. */
export function keepShared(root: string): KeptFile[] {
  return walk(root)
    .filter((path) => !path.startsWith(`${OWN_FOLDER}/`) && lstatSync(join(root, path)).isFile())
    .map((path) => {
      const { mtimeNs, ctimeNs } = lstatSync(join(root, path), { bigint: true });
      return { path, bytes: readFileSync(join(root, path)), modifiedNs: mtimeNs, changedNs: ctimeNs };
    });
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

/** Whether copies can share images by second names. Where there is no workspace imgtx may refuse to change such ones. */
export function isShared(root: string): boolean {
  return existsSync(join(root, OWN_FOLDER));
}

/** Takes away what has come since, and puts the rest back as putBackShared does. */
export async function putBackAlone(root: string, kept: readonly KeptFile[]): Promise<void> {
  const paths = kept.map(({ path }) => path);
  const isKept = (path: string) => paths.some((one) => one === path || one.startsWith(`${path}/`));
  for (const path of walk(root).toReversed())
    if (!isKept(path) && path !== WORKSPACE) rmSync(join(root, path), { recursive: true });
  await putBackShared(root, kept);
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
