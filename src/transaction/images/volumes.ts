// Volumes that a device's provisioner makes for a transaction, and takes away again: see imgtx-block-devices(7) for what
// it is asked for. imgtx itself manages none.
//
// Invariants
// - The journal says what may be there before the command is called. Each call may be repeated.
// - The command holds the journal's lock while it is at work: nobody takes the transaction for left, also where this process
//   was killed.
// - What is taken back is unused: it begins with zeros, as it was made, and nobody has it. Whether it is the one that was made
//   the provisioner knows, by the tag. All else stays, and is named.

import {
  assertMayRun,
  type DeviceEntry,
  type DeviceTable,
  provisionerOf,
  readTable,
  readVolumeRecord,
  removeVolumeRecord,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import { claimUnused, isDeviceIdentity, shellQuote } from "../../format/index.ts";
import type { ProgramEnd } from "../../storage/index.ts";
import type { Journal, PlannedVolume } from "../journal/index.ts";
import type { KeptFile } from "../requests/request.ts";
import { AS_IMAGE, isDeviceAt, readsAsEmpty } from "./devices.ts";
import { assertRunnable } from "./provisioner.ts";

/** How long each call may take. */
const LIMIT_MS = 300_000;

type Verb = "create" | "extend" | "activate" | "remove";
/** Whose tag the volume has, and what the command holds while it runs. */
interface Owner extends Pick<Journal, "id"> {
  readonly held: Journal["held"] | undefined;
}
/** Changes nothing that a transaction would have to take back. */
const NOBODY: Owner = ownerless(undefined);

function ownerless(held: Owner["held"]): Owner {
  return { id: "", held };
}

/** E_COMMAND_FAILED where there is no such volume afterwards. */
export async function createVolume(
  workspace: Workspace,
  journal: Owner,
  volume: PlannedVolume,
): Promise<void> {
  await call(workspace, journal, "create", volume);
  const { storage } = workspace;
  const { path, sizeBytes } = volume;
  if (!(await isDeviceAt(storage, path)))
    throw failure("create", volume, "it ended well, and there is no block device of that name");
  await whileOpen(await storage.openFile(path, "read", AS_IMAGE), async (file) => {
    const stat = await file.stat();
    if (stat.sizeBytes < sizeBytes)
      throw failure("create", volume, `it has made one of ${stat.sizeBytes} bytes`);
    if (await readsAsEmpty(file, stat)) return;
    throw failure("create", volume, "what it has made does not begin with a MiB of zeros");
  });
}

/** E_COMMAND_FAILED where it is not as large afterwards. held: of the transaction that waits for it. */
export async function extendVolume(
  workspace: Workspace,
  volume: PlannedVolume,
  held: Owner["held"],
): Promise<void> {
  await call(workspace, ownerless(held), "extend", volume);
  await whileOpen(await workspace.storage.openFile(volume.path, "read", AS_IMAGE), async (file) => {
    const { sizeBytes } = await file.stat();
    if (sizeBytes < volume.sizeBytes) throw failure("extend", volume, `it has ${sizeBytes} bytes now`);
  });
}

/** Those that were made, or may have been. Returns what it left as it is. */
export async function removeVolumes(
  workspace: Workspace,
  journal: Owner,
  volumes: readonly PlannedVolume[],
): Promise<KeptFile[]> {
  const kept: KeptFile[] = [];
  for (const volume of volumes.toReversed()) {
    const { path } = volume;
    await activateVolume(workspace, journal, volume);
    const why = await whyUsed(workspace, path);
    if (why !== undefined) kept.push({ path, why });
    else await removeVolume(workspace, journal, volume);
    // What somebody uses is none of imgtx's any more.
    await removeVolumeRecord(workspace, path);
  }
  return kept;
}

/** E_COMMAND_FAILED where it is there afterwards. */
async function removeVolume(workspace: Workspace, owner: Owner, volume: PlannedVolume): Promise<void> {
  await call(workspace, owner, "remove", volume);
  if (await workspace.storage.stat(volume.path))
    throw failure("remove", volume, "it ended well, and the volume is there");
}

/** A volume that a layer was on, of another transaction than the one at work. */
export interface LayerVolume {
  readonly volume: PlannedVolume;
  /** With the tag that it was made with. */
  readonly owner: Owner;
}

/** Of an image that goes: its volume, where the provisioner of its device has made it, and there is one. */
export async function findLayerVolume(
  workspace: Workspace,
  table: DeviceTable,
  path: string,
  held: Owner["held"],
): Promise<LayerVolume | undefined> {
  const made = await readVolumeRecord(workspace, table, path);
  const command = made && provisionerOf(table, made);
  if (!made || !command) return undefined;
  const { device, transaction: id } = made;
  // How large it is does not matter to who takes it away.
  return { volume: { device, path, sizeBytes: 0, command }, owner: { id, held } };
}

/** The same as it is before it is looked at: its node is made where that is not there. */
export async function activateLayer(workspace: Workspace, { volume, owner }: LayerVolume): Promise<void> {
  await activateVolume(workspace, owner, volume);
}

/** Takes it away, where it holds nothing any more and nobody has it. Undefined: it is gone. Else it stays, and can go later. */
export async function removeLayer(
  workspace: Workspace,
  { volume, owner }: LayerVolume,
): Promise<KeptFile | undefined> {
  const { path } = volume;
  try {
    const why = await whyUsed(workspace, path);
    if (why !== undefined) return { path, why };
    await removeVolume(workspace, owner, volume);
    await removeVolumeRecord(workspace, path);
    return undefined;
  } catch (error) {
    if (!(error instanceof ImgtxError) || error.code === "E_INTERNAL") throw error;
    return { path, why: error.message };
  }
}

/** Has a node made where that is not there, as after a start of the host. What is gone stays so. */
async function activateVolume(workspace: Workspace, owner: Owner, volume: PlannedVolume): Promise<void> {
  if (await workspace.storage.stat(volume.path)) return;
  await call(workspace, owner, "activate", volume);
}

/** The same of each volume that a device with a provisioner stands on. */
export async function activateChain(
  workspace: Workspace,
  { name: device, chain, provision: command }: DeviceEntry,
  owner: Owner = NOBODY,
): Promise<void> {
  if (!command) return;
  for (const { image: path, fingerprint } of chain) {
    if (!isDeviceIdentity(fingerprint)) continue;
    const { sizeBytes } = fingerprint;
    await activateVolume(workspace, owner, { device, path, sizeBytes, command });
  }
}

/** The same of all that a transaction works on. */
export async function activateAll(
  workspace: Workspace,
  journal: Owner & Pick<Journal, "state">,
): Promise<void> {
  const { volumes, statements } = journal.state;
  for (const volume of volumes) await activateVolume(workspace, journal, volume);
  const table = await readTable(workspace);
  for (const { plan } of statements) {
    for (const { after } of plan.changes) if (after) await activateChain(workspace, after, journal);
    // Layers that are merged, and go.
    for (const { image, fingerprint } of plan.watched) {
      if (!isDeviceIdentity(fingerprint)) continue;
      const layer = await findLayerVolume(workspace, table, image, journal.held);
      if (layer) await activateLayer(workspace, layer);
    }
  }
}

async function whyUsed({ storage }: Workspace, path: string): Promise<string | undefined> {
  const there = await storage.stat(path);
  if (!there) return undefined;
  if (there.kind !== "device") return "it is no block device";
  try {
    // The kernel says whether it is mounted, or part of another device.
    const file = await storage.openFile(path, "write", AS_IMAGE);
    try {
      const isEmpty = await readsAsEmpty(file, await file.stat());
      return isEmpty
        ? await claimUnused(storage, file)
        : "something is on it, which this transaction did not write";
    } finally {
      await file.close();
    }
  } catch (error) {
    if (error instanceof ImgtxError && error.code === "E_REFUSED") return error.message;
    throw error;
  }
}

async function call(
  workspace: Workspace,
  { id, held }: Owner,
  verb: Verb,
  volume: PlannedVolume,
): Promise<void> {
  const { storage } = workspace;
  const { command, path, sizeBytes } = volume;
  const run = storage.host.runProgram;
  if (!run) throw new Error("this host runs no programs");
  await assertMayRun(workspace);
  await assertRunnable(storage, command);
  const env = { ...(id !== "" && { IMGTX_TAG: `imgtx-${id}` }), LVM_SUPPRESS_FD_WARNINGS: "1" };
  const end = await run([...command, verb, path, String(sizeBytes)], {
    env,
    limitMs: LIMIT_MS,
    holding: held,
  });
  if (end.kind !== "exited" || end.status !== 0) throw failure(verb, volume, sayEnd(end), end.printed);
}

function failure(
  verb: Verb,
  { device, command, path, sizeBytes }: PlannedVolume,
  why: string,
  printed = "",
): ImgtxError {
  const words = [...command, verb, path, String(sizeBytes)].map(shellQuote).join(" ");
  const said = printed === "" ? "" : `; it said: ${printed.replaceAll(/\s+/g, " ")}`;
  return new ImgtxError("E_COMMAND_FAILED", `the provisioner could not ${verb} the volume: ${why}${said}`, {
    device,
    image: path,
    hint: `it was run as: ${words}`,
  });
}

function sayEnd({ kind, status, why = "" }: ProgramEnd): string {
  if (kind === "late") return `it took more than ${LIMIT_MS / 1000} s, and was killed`;
  if (kind === "killed") return `it was killed by ${why}`;
  return kind === "exited" ? `it ended with ${status ?? 1}` : why;
}
