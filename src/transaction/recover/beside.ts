// What an interrupted command has left beside an image that is in no workspace: a workspace of that image alone, with
// the journal in it. Whoever opens the image ends what is there.
//
// Invariants
// - Nothing is taken from a folder that somebody made who could not have changed the image: it has no say.
// - A folder without a journal holds nothing: it is taken away, where its lock is free.

import {
  filesOfDevice,
  findWorkspace,
  pathsOf,
  readTable,
  unmakeWorkspace,
  type Workspace,
  workspaceAt,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  type Beside,
  besideCandidates,
  canOpen,
  findBeside,
  withWorkspaceNamed,
} from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";
import { readJournals } from "../journal/index.ts";
import type { RecoveryNote } from "../requests/request.ts";
import { recover, type RecoveryOptions } from "./recovery.ts";

/** What is there, where a journal is in it. */
export async function findJournalBeside(storage: Storage, path: string): Promise<Beside | undefined> {
  const beside = await findBeside(storage, path);
  return beside && (await hasJournal(storage, beside)) ? beside : undefined;
}

type SettleOptions = RecoveryOptions & {
  readonly safeWorkspaces?: readonly string[];
  /** Whether the caller, though it only reads, can't go on before the image is whole, however long that takes. */
  readonly needsImage?: boolean;
};

export interface SettledBeside {
  readonly notes: readonly RecoveryNote[];
  /** Why the image may be half changed, and is not to be read. */
  readonly amid?: ImgtxError;
}

/** Ends what it can. E_CORRUPT where a journal is there without its table; for who changes something E_NOT_OWNER. */
export async function settleBeside(
  storage: Storage,
  beside: Beside,
  options: SettleOptions,
): Promise<SettledBeside> {
  try {
    return await settle(storage, beside, options);
  } catch (error) {
    const isOthers = error instanceof ImgtxError && error.code === "E_NOT_OWNER";
    if (!isOthers || options.caller !== "reader") throw error;
    if (!(await hasJournal(storage, beside))) return NOTHING;
    const text = `${error.message}; what it may hold for '${beside.image}' is left alone`;
    return { notes: [{ transaction: null, did: "reported", text }] };
  }
}

const NOTHING: SettledBeside = { notes: [] };

async function settle(storage: Storage, beside: Beside, options: SettleOptions): Promise<SettledBeside> {
  const { folder } = beside;
  // What else has its name stands in the way of who wants to make it.
  if ((await storage.statLink(folder))?.kind !== "folder") return NOTHING;
  const workspace = await openBeside(storage, beside, options.safeWorkspaces);
  const place = workspace ?? (await workspaceAt(storage, folder, options.safeWorkspaces));
  const { journals: journalFolder } = pathsOf(place);
  const isEmpty = async (): Promise<boolean> =>
    !(await storage.statLink(journalFolder)) || (await storage.readFolder(journalFolder)).length === 0;
  if (!workspace || (await isEmpty())) {
    await unmakeUnlessReadOnly(place);
    return NOTHING;
  }
  const found = await recover(workspace, options);
  const notes = found.flatMap((note) => saidOf(beside, note));
  if (await isEmpty()) {
    await unmakeUnlessReadOnly(workspace);
    return { notes };
  }
  const journals = await readJournals(workspace);
  const isAmid = journals.some(({ busy, state }) => !busy && (state instanceof ImgtxError || state.commit));
  // What takes long is left by those who only read.
  if (isAmid && options.needsImage) {
    const patient = { ...options, caller: "recover", needsImage: false } as const;
    const again = await settle(storage, beside, patient);
    // In a copy that says nothing more.
    return again.amid && again.notes.length === 0 ? { notes, amid: amid(beside, found) } : again;
  }
  return isAmid ? { notes, amid: amid(beside, found) } : { notes };
}

/** The same beside each image of a workspace's devices, for who opens it. What is not for the caller to do is told. */
export async function settleBesideDevices(
  workspace: Workspace,
  options: RecoveryOptions,
): Promise<readonly RecoveryNote[]> {
  const { devices } = await readTable(workspace);
  const images = new Set(devices.flatMap(filesOfDevice).map(({ image }) => image));
  const notes: RecoveryNote[] = [];
  for (const image of await besideCandidates(workspace.storage, [...images])) {
    try {
      const beside = await findBeside(workspace.storage, image);
      if (!beside || beside.folder === workspace.root) continue;
      notes.push(...(await settleBeside(workspace.storage, beside, options)).notes);
    } catch (error) {
      // The command that uses this very image says so again, and is refused.
      if (!(error instanceof ImgtxError)) throw error;
      const text = `whether an interrupted command left something beside '${image}' can't be told: ${error.message}`;
      notes.push({ transaction: null, did: "noted", text });
    }
  }
  return notes;
}

/** The workspace beside an image, where it is made; undefined where nothing that counts is there. */
export async function openBeside(
  storage: Storage,
  beside: Beside,
  safe?: readonly string[],
): Promise<Workspace | undefined> {
  const { folder } = beside;
  // Cut off while it was made, or taken away.
  const isMade = await storage.statLink(pathsOf({ storage, root: folder }).table);
  if (!isMade && !(await hasJournal(storage, beside))) return undefined;
  return await findWorkspace(storage, folder, folder, safe);
}

async function hasJournal(storage: Storage, { image, folder }: Beside): Promise<boolean> {
  const { journals } = pathsOf({ storage, root: folder });
  for (const path of [folder, pathsOf({ storage, root: folder }).own, journals]) {
    const there = await storage.statLink(path);
    if (there?.kind !== "folder") return false;
    if (!(await mayHaveChanged(storage, there.ownerId, image))) return false;
  }
  return (await storage.readFolder(journals)).some((name) => name.endsWith(".journal"));
}

async function mayHaveChanged(storage: Storage, ownerId: number, image: string): Promise<boolean> {
  if (ownerId === 0 || ownerId === storage.host.userId) return true;
  return await canOpen(storage, ownerId, image, { access: "write", ownImage: image });
}

/** Nobody looks at its view; and what waits there waits for no device of a workspace that the caller knows. */
function saidOf({ image, folder }: Beside, { did, text }: RecoveryNote): RecoveryNote[] {
  if (did === "view" || did === "mended") return [];
  return [{ transaction: null, did, text: `beside '${image}': ${withWorkspaceNamed(text, folder)}` }];
}

async function unmakeUnlessReadOnly(workspace: Workspace): Promise<void> {
  try {
    await unmakeWorkspace(workspace);
  } catch (error) {
    const { code } = error instanceof ImgtxError ? error : {};
    // The last: another command took it away, or makes it anew, at this moment.
    if (!["E_READ_ONLY", "E_NO_PERMISSION", "E_NOT_FOUND"].includes(code ?? "")) throw error;
  }
}

function amid({ image, folder }: Beside, found: readonly RecoveryNote[]): ImgtxError {
  const note = found.find(({ did }) => did === "waiting" || did === "reported");
  const why = withWorkspaceNamed(note?.obstacle?.why ?? note?.text ?? "it is busy", folder);
  const hint = note?.obstacle?.hint ?? "`imgtx recover` ends it, or says why it can't";
  return new ImgtxError("E_TRANSACTION", `an interrupted command has changed it by half: ${why}`, {
    image,
    hint: withWorkspaceNamed(hint, folder),
  });
}
