// Volumes that a device's provisioner has made, and that are still there: by which transaction, for as long as a layer may be on
// them. So a volume that no layer is on any more is taken away by the tag that it was made with.
//
// Invariants
// - A record is durable before its volume is made, and goes after that. It proves nothing by itself: the provisioner, which knows
//   the volume by its tag, has the last word.
// - One that was made in another workspace counts for nothing: a copy of a workspace has its original's volumes.

import { createHash } from "node:crypto";
import { unlessItFails } from "../errors/index.ts";
import { isText, listOf, objectOf, oneOf, orNull, parseJson } from "./table/data-shape.ts";
import { type DeviceEntry, mapProgram } from "./table/device-entry.ts";
import { type DeviceTable, findDevice } from "./table/device-table.ts";
import { fromStoredPath, toStoredPath } from "./table/stored-path.ts";
import { readWholeFile, replaceFile } from "./workspace/replace-file.ts";
import { FILE_MODE, pathsOf, type Workspace } from "./workspace/workspace.ts";

/** A volume, and who made it. */
interface MadeVolume {
  readonly path: string;
  readonly device: string;
  /** The id of the transaction that it was made for. */
  readonly transaction: string;
  /** What made it then. */
  readonly command: readonly string[];
}

interface VolumeRecord extends MadeVolume {
  readonly kind: "imgtx volume";
  readonly workspaceId: string | null;
}

const FOLDER_MODE = 0o755;
const LIMIT_BYTES = 1024 * 1024;
const SUFFIX = ".json";

const isVolumeRecord = objectOf<VolumeRecord>({
  kind: oneOf("imgtx volume"),
  path: isText,
  device: isText,
  transaction: isText,
  command: listOf(isText),
  workspaceId: orNull(isText),
});

/** Durably. */
export async function keepVolumeRecord(
  workspace: Workspace,
  { workspaceId }: DeviceTable,
  { path, device, transaction, command }: MadeVolume,
): Promise<void> {
  const { storage, root } = workspace;
  const { volumes, own } = pathsOf(workspace);
  if (!(await storage.statLink(volumes))) {
    await storage.makeFolder(volumes, FOLDER_MODE);
    await storage.flushFolder(own, "folder of volumes");
  }
  const store = (one: string): string => toStoredPath(root, one);
  const record: VolumeRecord = {
    kind: "imgtx volume",
    workspaceId,
    path: store(path),
    device,
    transaction,
    command: mapProgram(command, store),
  };
  const content = new TextEncoder().encode(`${JSON.stringify(record)}\n`);
  await replaceFile(storage, recordPath(workspace, path), content, FILE_MODE, {
    content: "volume to be made",
    name: "name of a volume to be made",
  });
}

/** Undefined where no provisioner has made it for this workspace, as far as is known. */
export async function readVolumeRecord(
  workspace: Workspace,
  { workspaceId }: DeviceTable,
  path: string,
): Promise<MadeVolume | undefined> {
  const made = await readRecord(workspace, workspaceId, recordPath(workspace, path));
  return made?.path === path ? made : undefined;
}

/** All that are known. */
export async function listVolumeRecords(
  workspace: Workspace,
  { workspaceId }: DeviceTable,
): Promise<MadeVolume[]> {
  const { storage } = workspace;
  const { volumes } = pathsOf(workspace);
  if ((await storage.statLink(volumes))?.kind !== "folder") return [];
  const known: MadeVolume[] = [];
  for (const name of (await storage.readFolder(volumes)).toSorted()) {
    const made = name.endsWith(SUFFIX)
      ? await readRecord(workspace, workspaceId, `${volumes}/${name}`)
      : undefined;
    if (made) known.push(made);
  }
  return known;
}

/** One that is gone is no error. */
export async function removeVolumeRecord(workspace: Workspace, path: string): Promise<void> {
  const { storage } = workspace;
  const record = recordPath(workspace, path);
  if (!(await storage.statLink(record))) return;
  await unlessItFails(() => storage.removeFile(record), ["E_NOT_FOUND"]);
  await storage.flushFolder(pathsOf(workspace).volumes, "record of a volume gone");
}

/** What takes it away: what its device has for that now, or, where that is in the table no more, what made it. Undefined: nothing. */
export function provisionerOf(
  table: DeviceTable,
  { device, command }: Pick<MadeVolume, "device" | "command">,
): DeviceEntry["provision"] {
  const entry = findDevice(table, device);
  return entry ? entry.provision : command;
}

function recordPath(workspace: Workspace, path: string): string {
  const stored = toStoredPath(workspace.root, path);
  const name = createHash("sha256").update(stored).digest("hex").slice(0, 32);
  return `${pathsOf(workspace).volumes}/${name}${SUFFIX}`;
}

/** What is damaged counts for nothing: its volume stays, with nothing on it. */
async function readRecord(
  workspace: Workspace,
  workspaceId: string | null,
  file: string,
): Promise<MadeVolume | undefined> {
  const { storage, root } = workspace;
  if ((await storage.statLink(file))?.kind !== "file") return undefined;
  const bytes = await unlessItFails(() => readWholeFile(storage, file, LIMIT_BYTES), ["E_NOT_FOUND"]);
  if (!bytes) return undefined;
  const record = parseJson(new TextDecoder().decode(bytes));
  if (!isVolumeRecord(record) || record.workspaceId !== workspaceId) return undefined;
  const { path, device, transaction, command } = record;
  const load = (one: string): string => fromStoredPath(root, one);
  return { path: load(path), device, transaction, command: mapProgram(command, load) };
}
