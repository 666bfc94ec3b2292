// Holds the chains of devices by QEMU's locks alone, for as long as a command runs: others may read them, and not
// write. Nothing is written for it, and nothing is left of it when this process ends.

import { elseClosed } from "../../errors/index.ts";
import { readTable, requireDevice, trustedBy, type Workspace } from "../../device/index.ts";
import { OpenedImages } from "../images/opened-images.ts";
import { finishPatiently } from "../recover/recovery.ts";
import type { LockWait, RecoveryNote, Session } from "../requests/request.ts";
import { heldError } from "../recover/waiting.ts";

export interface HoldOptions extends LockWait {
  /** Folders trusted for raw backing images and data files, for this command. */
  readonly allowPaths: readonly string[];
}

/**
 * E_LOCKED, naming who, where somebody writes to an image; E_NO_DEVICE for a name that is not there; E_TRANSACTION where
 * something that waits would change the device: it would not hold still, or not be what was committed.
 */
export async function holdDevices(
  { workspace, currentFolder, recovered }: Session,
  names: readonly string[],
  options: HoldOptions,
): Promise<{ release(): Promise<void> }> {
  for (const note of recovered) await endOrRefuse(workspace, note, names, options);
  const { storage, root } = workspace;
  const images = new OpenedImages(storage, { workspaceRoot: root, currentFolder });
  return await elseClosed(images, async () => {
    for (;;) {
      const table = await readTable(workspace);
      for (const name of names) {
        const entry = requireDevice(table, name);
        const allowPaths = [...table.allowPaths, ...options.allowPaths, ...trustedBy(entry)];
        await images.openChain(entry.image, entry.format, name, { allowPaths, device: name });
      }
      await images.lock(options, new Set());
      // A command may have moved a device before its chain was locked: what is held has to be what it is.
      if ((await readTable(workspace)).generation === table.generation) break;
      await images.closeSince(0);
    }
    return { release: async () => await images.close() };
  });
}

/** What is committed, and takes longer than others wait, is finished; what can't be stands in the way. */
async function endOrRefuse(
  workspace: Workspace,
  note: RecoveryNote,
  names: readonly string[],
  options: HoldOptions,
): Promise<void> {
  const { transaction, obstacle } = note;
  if (transaction === null || !obstacle) return;
  const device = names.find((name) => obstacle.devices === null || obstacle.devices.includes(name));
  if (device === undefined) return;
  if (!obstacle.isCommitted) throw heldError(note, device);
  const notes = await finishPatiently(workspace, transaction, { waiting: options, onProgress: undefined });
  const left = notes.length === 0 ? note : notes.find(({ did }) => did === "waiting");
  if (left) throw heldError(left, device);
}
