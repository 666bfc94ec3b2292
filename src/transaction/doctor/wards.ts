// The workspaces of an examination, each looked at without a change: what their tables, journals and snapshots say of
// themselves is judged by what `status` judges by.

import {
  describeCopy,
  type DeviceEntry,
  type DeviceTable,
  howToAdopt,
  readTable,
} from "../../device/index.ts";
import { ImgtxError, unlessItFails } from "../../errors/index.ts";
import { identityOf, shellQuote } from "../../format/index.ts";
import type { Storage } from "../../storage/index.ts";
import { sayTime } from "../../units/index.ts";
import { listSnapshotsOf } from "../describe/describe-snapshots.ts";
import { collectGarbage } from "../recover/garbage.ts";
import { findNeeded, KEPT_BY_SNAPSHOT } from "../recover/needed-files.ts";
import type { Session } from "../requests/request.ts";
import type {
  DeviceDescription,
  DeviceState,
  SnapshotDescription,
  TransactionDescription,
} from "../describe/results.ts";
import { listTransactions, openSession, type SessionOptions } from "../session.ts";
import { describeStatus, isForgotten, type StatusDescription } from "../describe/status.ts";
import { type Finding, finding } from "./findings.ts";

export interface Ward {
  readonly root: string;
  readonly entries: readonly (DeviceEntry & { readonly fences: ReadonlySet<string> })[];
  readonly transactions: readonly TransactionDescription[];
  /** Devices by the identity of their active layer. */
  readonly active: ReadonlyMap<string, DeviceEntry>;
  /** Identities of what the table knows below active layers. */
  readonly below: ReadonlySet<string>;
  /** Identities of all files that anything of it needs. */
  readonly kept: ReadonlySet<string>;
  /** Identities of what snapshots keep, whether or not devices stand on it. */
  readonly sealed: ReadonlySet<string>;
  /** Identities of what the table calls raw. */
  readonly raw: ReadonlySet<string>;
  /** Of images that a freeze has fenced, and of those that a transaction holds. */
  readonly fences: ReadonlySet<string>;
  /** By path all files that anything of it needs, and why; undefined where a record can't be read. */
  readonly needed: ReadonlyMap<string, string> | undefined;
  /** All files of its devices and snapshots. */
  readonly files: readonly string[];
  readonly findings: readonly Finding[];
  readonly status: StatusDescription;
  /** Newest first. */
  readonly snapshots: readonly SnapshotDescription[];
}

type Place = Pick<SessionOptions, "startFolder" | "workspace" | "safeWorkspaces">;

/** Undefined where it can't be opened, which is a finding. E_NO_WORKSPACE where there is none. */
export async function visitWard(
  storage: Storage,
  place: Place,
): Promise<{ readonly ward: Ward | undefined; readonly findings: readonly Finding[] }> {
  const { workspace: root } = place;
  const how = {
    createHere: false,
    caller: "reader",
    reportOnly: true,
    waitMs: 0,
    onWait: () => undefined,
  } as const;
  try {
    const ward = await lookAt(storage, await openSession(storage, { ...place, ...how }));
    return { ward, findings: ward.findings };
  } catch (error) {
    if (!(error instanceof ImgtxError) || root === undefined || PASSED_ON.has(error.code)) throw error;
    const text = `it is not looked into: ${error.message}${error.hint === undefined ? "" : `; ${error.hint}`}`;
    const command = await sayReading(storage, root, error);
    return { ward: undefined, findings: [finding("workspace-unreadable", { path: root, text, command })] };
  }
}

const PASSED_ON: ReadonlySet<string> = new Set(["E_NO_WORKSPACE", "E_INTERNAL"]);

/** What looks into it after all; null: what the text says first has to be decided. */
async function sayReading(storage: Storage, root: string, { code }: ImgtxError): Promise<string | null> {
  if (code !== "E_NOT_OWNER") return null;
  const owner = (await storage.statLink(`${root}/.imgtx`))?.ownerId;
  if (owner === undefined || owner === ROOT || owner === storage.host.userId) return null;
  return `sudo -u ${shellQuote(storage.host.nameOfUser(owner))} imgtx doctor ${shellQuote(root)}`;
}

const ROOT = 0;

async function lookAt(storage: Storage, session: Session): Promise<Ward> {
  const { workspace, root } = session;
  const table = await readTable(workspace);
  const transactions = await listTransactions(session);
  const snapshots = await listSnapshotsOf(workspace, table, {});
  const status = await describeStatus(session, transactions, snapshots);
  const needed = await tryToFindNeeded(session, table);
  const copied = await judgeCopy(session);
  const identify = async (paths: readonly string[]): Promise<string[]> => {
    const stats = await Promise.all(
      paths.map(async (path) => await unlessItFails(() => storage.stat(path), ["E_NOT_A_FILE"])),
    );
    return stats.flatMap((stat) => (stat ? [identityOf(stat)] : []));
  };
  const active = new Map<string, DeviceEntry>();
  for (const entry of table.devices) for (const id of await identify([entry.image])) active.set(id, entry);
  const entries = table.devices.map((entry) => ({
    ...entry,
    fences: new Set(fencedOf(entry, status.devices)),
  }));
  const files = new Set([
    ...table.devices.flatMap(({ chain }) => chain.map(({ image }) => image)),
    ...(needed?.keys() ?? []),
  ]);
  const sealed = [...(needed ?? [])].flatMap(([path, why]) => (why === KEPT_BY_SNAPSHOT ? [path] : []));
  return {
    root,
    entries,
    transactions,
    active,
    below: new Set(
      await identify(table.devices.flatMap(({ chain }) => chain.slice(1).map(({ image }) => image))),
    ),
    sealed: new Set(await identify(sealed)),
    raw: new Set(
      await identify(
        table.devices.flatMap(({ chain }) =>
          chain.flatMap(({ image, format }) => (format === "raw" ? [image] : [])),
        ),
      ),
    ),
    fences: new Set(await identify(entries.flatMap(({ fences }) => [...fences]))),
    needed,
    files: [...files],
    kept: new Set(await identify([...files])),
    findings: [
      ...(copied.length > 0 ? copied : judgeNotes(session)),
      ...judgeTransactions(status),
      ...status.devices.flatMap((device) => judgeDevice(root, device, status.now)),
      ...judgeSnapshots(root, snapshots),
      ...(await judgeGarbage(session)),
    ],
    status,
    snapshots,
  };
}

/** Images of a device that may have a fence: of a freeze, or of the transaction that holds it. */
function fencedOf({ name, frozen, chain }: DeviceEntry, devices: readonly DeviceDescription[]): string[] {
  const isHeld = devices.some((one) => one.name === name && one.transaction !== null);
  return isHeld ? chain.map(({ image }) => image) : (frozen?.fences.map(({ image }) => image) ?? []);
}

async function tryToFindNeeded(
  { workspace }: Session,
  table: DeviceTable,
): Promise<ReadonlyMap<string, string> | undefined> {
  try {
    return await findNeeded(workspace, table);
  } catch (error) {
    // What can't be read is a finding of its own; nothing is called unused then.
    if (error instanceof ImgtxError && error.code !== "E_INTERNAL") return undefined;
    throw error;
  }
}

async function judgeCopy({ workspace, root }: Session): Promise<Finding[]> {
  const copy = await describeCopy(workspace);
  if (copy === undefined) return [];
  const command = `imgtx init --adopt ${shellQuote(root)}`;
  return [finding("workspace-copied", { path: root, text: `${copy}; ${howToAdopt(workspace)}`, command })];
}

function judgeTransactions({ root, transactions, stale }: StatusDescription): Finding[] {
  return transactions.flatMap(({ id, started, devices }) => {
    if (!stale.includes(id)) return [];
    const text = `transaction ${id} has been open since ${sayTime(started ?? "?")}, and holds ${devices.join(" ") || "nothing"}`;
    return [
      finding("transaction-stale", {
        path: root,
        text,
        command: `imgtx --workspace ${shellQuote(root)} txn abort ${id}`,
      }),
    ];
  });
}

/** What recovery would do. In a copy it does nothing. */
function judgeNotes({ recovered, root }: Session): Finding[] {
  const command = `imgtx --workspace ${shellQuote(root)} recover`;
  const mend = { recovers: root, image: root };
  return recovered
    .filter(({ did }) => did === "reported" || did === "waiting")
    .map(({ text }) => finding("transaction-unfinished", { path: root, text, command, mend }));
}

function judgeDevice(root: string, device: DeviceDescription, now: string): Finding[] {
  const { name, image, state, problems, frozen, frozenSince } = device;
  const found = problems.map((text) => {
    const commands: Partial<Record<DeviceState, string>> = {
      fenced: `imgtx --workspace ${shellQuote(root)} unfreeze --force ${name}`,
      changed: `imgtx --workspace ${shellQuote(root)} unfreeze ${name}`,
      "mirror-missing": `imgtx --workspace ${shellQuote(root)} mirror --cancel ${name}`,
      "mirror-broken": `imgtx --workspace ${shellQuote(root)} mirror --cancel ${name}`,
      waiting: `imgtx --workspace ${shellQuote(root)} recover`,
    };
    return finding("device-unsound", {
      path: image,
      device: name,
      text: `${name}: ${text}`,
      command: commands[state] ?? null,
    });
  });
  if (!frozen || !isForgotten(frozenSince, now)) return found;
  const text = `device ${name} has been frozen since ${sayTime(frozenSince ?? "?")}: no guest starts on it`;
  const command = `imgtx --workspace ${shellQuote(root)} unfreeze ${name}`;
  return [...found, finding("freeze-forgotten", { path: image, device: name, text, command })];
}

function judgeSnapshots(root: string, snapshots: readonly SnapshotDescription[]): Finding[] {
  const found = new Map<string, Finding>();
  for (const { number, problem, devices, files } of snapshots) {
    const all = [problem, ...devices.flatMap((one) => one.problems), ...files.map((one) => one.problem)];
    for (const text of all) {
      if (text === null || found.has(text)) continue;
      found.set(text, finding("snapshot-unsound", { path: root, text: `snapshot ${number}: ${text}` }));
    }
  }
  return [...found.values()];
}

async function judgeGarbage(session: Session): Promise<Finding[]> {
  const { found } = await collectGarbage(session, { removes: false, waitMs: 0, onWait: () => undefined });
  const command = `imgtx --workspace ${shellQuote(session.root)} gc --yes`;
  return found.map(({ path, what, sizeBytes }) =>
    finding("garbage", {
      path,
      text: `nothing needs this ${what} any more, which imgtx made`,
      sizeBytes,
      command,
    }),
  );
}
