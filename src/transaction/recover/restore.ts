// Puts back the device table where it is lost or damaged: `imgtx init --restore`. The history has the generation
// before it; what the lost one changed is not in that, and is told as far as the view still shows it.
//
// Invariant: what stood in the table's place is kept, and is moved away last before the new table has its name. Cut
// off in between, the table is lost, and the same command goes on.

import {
  type DeviceTable,
  isWorkspaceMade,
  listStoredGenerations,
  lockAsItIs,
  pathsOf,
  readingHistory,
  readTable,
  replaceTable,
  type Workspace,
  workspaceAt,
  isNoWorkspace,
} from "../../device/index.ts";
import { ImgtxError, unlessItFails, whileOpen } from "../../errors/index.ts";
import { shellQuote } from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";
import type { Restoration } from "../describe/repair-results.ts";
import type { LockWait } from "../requests/request.ts";

/** E_CORRUPT where the history has no generation that can be read. */
export async function restoreWorkspace(
  storage: Storage,
  folder: string,
  how: LockWait & { readonly dryRun: boolean; readonly safeWorkspaces?: readonly string[] },
): Promise<Restoration> {
  const workspace = await workspaceAt(storage, folder, how.safeWorkspaces);
  const { own } = pathsOf(workspace);
  if (!(await storage.statLink(own))) {
    throw isNoWorkspace(workspace.root);
  }
  const present = await readSound(workspace);
  if (present)
    return { root: workspace.root, changed: false, generation: present.generation, kept: null, devices: [] };
  return await whileOpen(await lockAsItIs(workspace, how), async () => {
    const table = await newestInHistory(workspace);
    // Before the view is shown anew.
    const devices = await describeDevices(workspace, table);
    const kept = how.dryRun ? null : await setAside(workspace);
    if (!how.dryRun) await replaceTable(workspace, table);
    return { root: workspace.root, changed: true, generation: table.generation, kept, devices };
  });
}

/** The present table, if it can be read. */
async function readSound(workspace: Workspace): Promise<DeviceTable | undefined> {
  if ((await workspace.storage.statLink(pathsOf(workspace).table))?.kind !== "file") return undefined;
  if (!(await isWorkspaceMade(workspace))) return undefined;
  return await unlessItFails(() => readTable(workspace), ["E_CORRUPT"]);
}

async function newestInHistory(workspace: Workspace): Promise<DeviceTable> {
  const closed = readingHistory(workspace, undefined);
  for (const generation of (await listStoredGenerations(workspace)).toReversed()) {
    try {
      const table = await closed.read(generation);
      if (table) return table;
    } catch (error) {
      // The one before it may be sound.
      if (!(error instanceof ImgtxError) || error.code !== "E_CORRUPT") throw error;
    }
  }
  const { own, history } = pathsOf(workspace);
  throw new ImgtxError("E_CORRUPT", "the history has no generation that could be put back", {
    image: history,
    hint: `make the workspace anew, and add its devices: \`mv ${shellQuote(own)} ${shellQuote(`${own}.old`)} && imgtx init ${shellQuote(workspace.root)}\``,
  });
}

async function describeDevices(
  { storage, root }: Workspace,
  table: DeviceTable,
): Promise<Restoration["devices"]> {
  return await Promise.all(
    table.devices.map(async ({ name, image, format }) => {
      const shown = `${root}/devices/${name}`;
      const other = (await storage.stat(shown)) ? await storage.realPath(shown) : undefined;
      const own = (await storage.stat(image)) ? await storage.realPath(image) : image;
      return { device: name, image, format, shown: other === undefined || other === own ? null : other };
    }),
  );
}

/** What stands in the table's place. Null: nothing does. */
async function setAside(workspace: Workspace): Promise<string | null> {
  const { storage } = workspace;
  const { givenUp, own, table } = pathsOf(workspace);
  if (!(await storage.statLink(table))) return null;
  if (!(await storage.statLink(givenUp))) {
    await storage.makeFolder(givenUp, 0o700);
    await storage.flushFolder(own, "folder of damaged tables");
  }
  const kept = `${givenUp}/table.json.${storage.host.randomName()}`;
  await storage.rename(table, kept);
  await storage.flushFolder(givenUp, "damaged table");
  return kept;
}
