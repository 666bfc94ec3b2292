// What a group snapshot has to run at its end whatever happens, such as the thaw of a guest: written down before its
// guest is frozen, and taken away when it was run. What a kill leaves is told by the next command.
//
// Invariant: a record is durable before the command that freezes is started. Whether its process lives is told as
// that of a `txn exec` is.

import { elseClosed, ImgtxError, unlessItFails } from "../errors/index.ts";
import type { StorageFile } from "../storage/index.ts";
import { isText, listOf, objectOf, oneOf, parseJson } from "./table/data-shape.ts";
import { describeWorker, isWorker, type Worker } from "./lock/liveness.ts";
import { findOwner, lockOwner } from "./lock/owner-lock.ts";
import { readWholeFile, replaceFile } from "./workspace/replace-file.ts";
import { FILE_MODE, pathsOf, type Workspace } from "./workspace/workspace.ts";

export interface HookRecord {
  readonly kind: "imgtx hook";
  readonly id: string;
  /** For a shell. */
  readonly command: string;
  readonly devices: readonly string[];
  /** ISO 8601, UTC. */
  readonly started: string;
  readonly user: string;
  readonly worker: Worker;
}

const FOLDER_MODE = 0o755;
const LIMIT_BYTES = 1024 * 1024;

const isHookRecord = objectOf<HookRecord>({
  kind: oneOf("imgtx hook"),
  id: isText,
  command: isText,
  devices: listOf(isText),
  started: isText,
  user: isText,
  worker: isWorker,
});

/** The lock that the file holds is the life of the process: the caller closes it when the record has gone. */
export async function keepHookRecord(
  workspace: Workspace,
  { command, devices }: Pick<HookRecord, "command" | "devices">,
): Promise<{ readonly record: HookRecord; readonly life: StorageFile }> {
  const { storage } = workspace;
  const { hooks, own } = pathsOf(workspace);
  const { host } = storage;
  const id = host.randomName();
  if (!(await storage.statLink(hooks))) {
    await storage.makeFolder(hooks, FOLDER_MODE);
    await storage.flushFolder(own, "folder of hooks");
  }
  return await elseClosed(await lockOwner(workspace, id), async (life) => {
    const started = new Date(host.now()).toISOString();
    const worker = await describeWorker(workspace);
    const kind = "imgtx hook";
    const record: HookRecord = { kind, id, command, devices, started, user: host.userName, worker };
    const content = new TextEncoder().encode(`${JSON.stringify(record)}\n`);
    await replaceFile(storage, pathOf(workspace, id), content, FILE_MODE, {
      content: "hook to be run",
      name: "hook's name",
    });
    return { record, life };
  });
}

/** One that another command has just taken away is no error: its own, or where nobody can tell who lives. */
export async function removeHookRecord(workspace: Workspace, id: string): Promise<void> {
  await unlessItFails(() => workspace.storage.removeFile(pathOf(workspace, id)), ["E_NOT_FOUND"]);
  await workspace.storage.flushFolder(pathsOf(workspace).hooks, "hook that was run");
}

export interface LostHooks {
  /** Those whose process has gone, or may have, and that it did not take away. */
  readonly lost: readonly HookRecord[];
  /** Paths of what is no such record. */
  readonly strange: readonly string[];
}

export async function findLostHooks(workspace: Workspace): Promise<LostHooks> {
  const { storage } = workspace;
  const { hooks } = pathsOf(workspace);
  const lost: HookRecord[] = [];
  const strange: string[] = [];
  if ((await storage.statLink(hooks))?.kind !== "folder") return { lost, strange };
  for (const name of await storage.readFolder(hooks)) {
    const path = `${hooks}/${name}`;
    if (!name.endsWith(SUFFIX)) continue;
    const record = await readRecord(workspace, path);
    if (record === "strange") strange.push(path);
    else if (record && (await findOwner(workspace, record.id, record.worker)) !== "alive") lost.push(record);
  }
  return { lost, strange };
}

const SUFFIX = ".json";

function pathOf(workspace: Workspace, id: string): string {
  return `${pathsOf(workspace).hooks}/${id}${SUFFIX}`;
}

/** Undefined where its process has just taken it away. */
async function readRecord(workspace: Workspace, path: string): Promise<HookRecord | "strange" | undefined> {
  if (!(await workspace.storage.statLink(path))) return undefined;
  try {
    const bytes = await readWholeFile(workspace.storage, path, LIMIT_BYTES);
    const record = parseJson(new TextDecoder().decode(bytes));
    return isHookRecord(record) ? record : "strange";
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_NOT_FOUND") return undefined;
    // Whatever it is, it holds up no command.
    if (error instanceof ImgtxError) return "strange";
    throw error;
  }
}
