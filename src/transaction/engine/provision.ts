// Volumes for a statement, made before it is planned: a plan looks into what is there.
//
// Invariant: what is to be made is durable in the journal, under the workspace lock and with no other transaction on the
// devices or the names, before the provisioner is called. A statement that fails then, or a crash, has it taken away again.
// A volume that was extended stays so: that changes nothing of what is on it.

import {
  filesOfDevice,
  isProvisioned,
  keepVolumeRecord,
  readTable,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError, whileOpen } from "../../errors/index.ts";
import { volumesFor } from "../actions/index.ts";
import { AS_IMAGE } from "../images/devices.ts";
import { createVolume, extendVolume } from "../images/volumes.ts";
import { changesOf, Journal, type JournalSnapshot, type PlannedVolume } from "../journal/index.ts";
import { settleJournals } from "../recover/recovery.ts";
import type { ActionRequest, RunOptions } from "../requests/request.ts";
import { alignUp } from "../../units/index.ts";
import { findHeldUp, type HeldUp } from "./held.ts";
import { beginAlone } from "./pick-journal.ts";
import { contextOf } from "./plan.ts";
import { type Attempt, effectiveTable, lockMade, throwIfInterrupted, type Work } from "./work.ts";

/** The request as it is to be planned from then on: with the names of its volumes. */
export async function provision(
  work: Work,
  request: ActionRequest,
): Promise<{ readonly request: ActionRequest } | HeldUp> {
  if (!(await mayNeedVolumes(work))) return { request };
  const table = await effectiveTable(work);
  const number = work.journal?.state.statements.length ?? 0;
  const context = contextOf(work, { table, request, number, earlier: [] });
  const wanted = await volumesFor(request, context);
  if (!wanted || wanted.volumes.length === 0) return { request };
  const { volumes } = wanted;
  const heldUp = await enterVolumes(work, request, volumes);
  if (heldUp) return heldUp;
  const { journal } = work;
  if (!journal) throw new Error("volumes that were entered have a journal");
  for (const volume of volumes) {
    throwIfInterrupted(work.options.signal);
    await keepVolumeRecord(work.workspace, table, { ...volume, transaction: journal.id });
    await createVolume(work.workspace, journal, volume);
  }
  return { request: wanted.request };
}

/** Asked of each statement: the journals of others are not read for it. */
async function mayNeedVolumes({ workspace, journal }: Work): Promise<boolean> {
  const { devices } = await readTable(workspace);
  const changes = journal ? changesOf(journal.state) : [];
  return [...devices, ...changes.flatMap(({ after }) => after ?? [])].some(isProvisioned);
}

async function enterVolumes(
  work: Work,
  { kind }: ActionRequest,
  volumes: readonly PlannedVolume[],
): Promise<HeldUp | undefined> {
  const { workspace } = work;
  const devices = volumes.map(({ device }) => device);
  return await whileOpen(await lockMade(work), async () => {
    const settled = await settleJournals(workspace, { except: work.id, devices });
    for (const note of settled.notes) if (note.did !== "waiting") work.options.onRecovered?.(note);
    const heldUp = await findHeldUp(work, { devices, kind }, settled);
    if (heldUp) return heldUp;
    assertNobodyMakes(volumes, settled.journals);
    const statement = work.journal?.state.statements.length ?? 0;
    const record = { type: "provision", statement, volumes } as const;
    if (work.journal) {
      await work.journal.append(record, "volumes to be made");
      return undefined;
    }
    const begin = beginAlone(work);
    work.journal = await Journal.create(workspace, begin, [record]);
    return undefined;
  });
}

/** E_EXISTS where another transaction makes a volume of one of the names. */
function assertNobodyMakes(volumes: readonly PlannedVolume[], journals: readonly JournalSnapshot[]): void {
  for (const { id, state } of journals) {
    const made = state instanceof ImgtxError ? [] : state.volumes;
    const twice = volumes.find(({ path }) => made.some((one) => one.path === path));
    if (!twice) continue;
    throw new ImgtxError("E_EXISTS", `transaction ${id} makes a volume of that name`, {
      device: twice.device,
      image: twice.path,
      hint: "give this one another name",
    });
  }
}

interface HowToExtend {
  readonly workspace: Workspace;
  /** The open transaction that it is about. */
  readonly journal: Journal | undefined;
  readonly options: Pick<RunOptions, "onNotice">;
}

/** What a volume lacks is found out bit by bit. */
const MOST_EXTENSIONS = 8;

/** Runs it anew where a volume had no room for it, and the provisioner of its device has extended that. */
export async function withRoom<T>(how: HowToExtend, run: (attempt: Attempt) => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries += 1) {
    const attempt = { isLast: tries > MOST_EXTENSIONS, isUndone: false, isExtended: false };
    try {
      return await run(attempt);
    } catch (error) {
      const isLarger =
        attempt.isExtended || (attempt.isUndone && !attempt.isLast && (await extendFor(how, error)));
      if (!isLarger) throw error;
    }
  }
}

/** Whether the work failed since a volume is too small, and that is larger now. */
export async function extendFor(
  { workspace, journal, options }: HowToExtend,
  error: unknown,
): Promise<boolean> {
  if (!(error instanceof ImgtxError) || error.code !== "E_NO_SPACE" || error.changed) return false;
  const { image, wantsBytes } = error;
  if (image === undefined || wantsBytes === undefined) return false;
  const { devices } = await readTable(workspace);
  const changed = journal ? changesOf(journal.state).flatMap(({ after }) => after ?? []) : [];
  const entry = [...devices, ...changed].findLast(
    (one) => isProvisioned(one) && filesOfDevice(one).some((file) => file.image === image),
  );
  if (!entry?.provision) return false;
  const before = await volumeSize(workspace, image);
  // What it has is not what was in the way.
  if (before >= wantsBytes) return false;
  const { name: device, provision: command } = entry;
  const volume = { device, path: image, sizeBytes: alignUp(wantsBytes, STEP_BYTES), command };
  await extendVolume(workspace, volume, journal?.held);
  const after = await volumeSize(workspace, image);
  options.onNotice?.(`${image} was made larger, from ${before} to ${after} bytes, and stays so`);
  return true;
}

async function volumeSize({ storage }: Workspace, path: string): Promise<number> {
  return (await whileOpen(await storage.openFile(path, "read", AS_IMAGE), (file) => file.stat())).sizeBytes;
}

/** What is lacking next is mostly a little more. */
const STEP_BYTES = 16 * 2 ** 20;
