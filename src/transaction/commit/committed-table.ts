// The table as a transaction leaves it: one's own, and others whose commit mark is written and whose devices have not moved yet.

import {
  type DeviceTable,
  findAppliedOnce,
  refByNames,
  snapshotByNames,
  withDevices,
  withoutSeals,
  withRenewed,
  type Workspace,
} from "../../device/index.ts";
import { ImgtxError } from "../../errors/index.ts";
import {
  changesOf,
  type CommitRecord,
  type JournalSnapshot,
  liveStatements,
  renamesOf,
  type TransactionState,
  withSettled,
} from "../journal/index.ts";
import type { Once } from "../requests/request.ts";
import { closingTable, operationOf, summarise, withPlannedSnapshots } from "./closing.ts";

/**
 * The table with what others have committed and not moved yet: it will come, whatever happens. The devices of those
 * transactions are held, so that nobody plans on them; but what their images are must not be taken for free. The
 * journals are those of others.
 */
export function withCommitted(table: DeviceTable, journals: readonly JournalSnapshot[]): DeviceTable {
  return journals.reduce(
    (sum, { state }) =>
      state instanceof ImgtxError || !state.commit ? sum : withDevices(sum, changesOf(state)),
    table,
  );
}

/** The table that the transaction makes of the present one, with the snapshots that it takes of that as it closes. */
export function nextTable(
  table: DeviceTable,
  state: TransactionState,
  commit: CommitRecord,
  closing = closingTable(table, state),
): DeviceTable {
  const allowed = liveStatements(state).flatMap(({ plan }) => plan.allowPaths);
  const { position: _position, undone: _undone, once: _once, ...onward } = table;
  const next = {
    ...withDevices(onward, changesOf(state)),
    generation: table.generation + 1,
    committed: commit.committed,
    transaction: state.begin.id,
    summary: commit.summary,
    operation: operationOf(state, table.snapshots),
    ...(commit.once && { once: { ...commit.once, result: resultOf(state) } }),
    allowPaths: [...new Set([...table.allowPaths, ...allowed])],
  };
  return withStanding(withPlannedSnapshots(next, closing, state, commit.committed), state);
}

/** The mark that the transaction gets on this table. */
export function commitRecord(
  { storage }: Workspace,
  { generation, snapshots }: DeviceTable,
  state: TransactionState,
  { once, settled }: { readonly once: Once | undefined; readonly settled: readonly string[] },
): CommitRecord {
  return {
    type: "commit",
    madeOn: generation,
    committed: new Date(storage.host.now()).toISOString(),
    summary: summarise(state, snapshots),
    ...(once && { once }),
    ...(settled.length > 0 && { settled }),
  };
}

/** With the table that it closes. */
export function tablesOf(
  table: DeviceTable,
  journal: { readonly state: TransactionState },
  commit: CommitRecord,
): { readonly closing: DeviceTable; readonly next: DeviceTable } {
  const state = withSettled(journal.state, commit);
  const closing = closingTable(table, state);
  return { closing, next: nextTable(table, state, commit, closing) };
}

/** What it did, for whoever asks for the same once more. */
function resultOf(state: TransactionState): string {
  return JSON.stringify(liveStatements(state).flatMap(({ plan }) => plan.reports));
}

/**
 * E_TRANSACTION where another command has committed with that id since this one began: under the workspace lock, so that of two
 * at once one comes to its mark.
 */
export async function assertNotAppliedYet(
  workspace: Workspace,
  table: DeviceTable,
  once: Once | undefined,
  others: readonly JournalSnapshot[],
): Promise<void> {
  if (once === undefined) return;
  const isMarked = others.some(
    ({ state }) => !(state instanceof ImgtxError) && state.commit?.once?.id === once.id,
  );
  if (!isMarked && (await findAppliedOnce(workspace, table, once.id)) === undefined) return;
  throw new ImgtxError("E_TRANSACTION", `another command has committed with the id '${once.id}' meanwhile`, {
    hint: "run it again: it is answered with what that one did",
  });
}

/** Where an undo or a redo has gone to, with the snapshots that are there then. */
function withStanding(table: DeviceTable, state: TransactionState): DeviceTable {
  const plans = liveStatements(state).map(({ plan }) => plan);
  const standings = plans.flatMap(({ standing, statement }) => {
    if (!standing) return [];
    const renames = renamesOf(state, statement);
    return [
      {
        ...standing,
        restored: standing.restored.map((ref) => refByNames(ref, renames)),
        renewed: (standing.renewed ?? []).map((one) => snapshotByNames(one, renames)),
      },
    ];
  });
  const [last] = standings;
  if (!last) return table;
  const dropped = new Set(standings.flatMap((one) => one.dropped));
  const known = new Set(table.snapshots.map(({ number }) => number));
  const back = standings
    .flatMap(({ restored }) => restored)
    .filter(({ number }) => !known.has(number) && number < table.nextSnapshot);
  const kept = [...table.snapshots.filter(({ number }) => !dropped.has(number)), ...back];
  const snapshots = kept.sort((a, b) => a.number - b.number);
  const { position, undone } = last;
  const standing = { ...withoutSeals(table, dropped), snapshots };
  const renewed = standings.flatMap((one) => one.renewed).reduce(withRenewed, standing);
  return { ...renewed, ...(plans.length === 1 && { position, undone }) };
}
